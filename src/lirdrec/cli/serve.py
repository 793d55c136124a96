"""`lirdrec serve | keys`: serve a run over HTTP, and manage its API keys."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lirdrec.cli.option_groups import given
from lirdrec.cli.output import console, print_json, print_line, settings, table
from lirdrec.cli.shared_options import ImagesOption, JsonOption, option
from lirdrec.errors import ConfigError

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The file of keys.", show_default=False)]
NameOption = Annotated[str, option(..., "Name of the key.", "--name", "-n", show_default=False)]

keys = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@dataclass(frozen=True)
class NetworkOptions:
    """Network"""

    host: str = option("127.0.0.1", "Address to listen on.")
    port: int = option(8000, "Port to listen on.", "--port", "-p")
    cors: list[str] | None = option(
        None, "Origin of web pages that may send requests; may be repeated.", metavar="ORIGIN"
    )
    hosts: list[str] | None = option(
        None, "Another name of this machine, for servers without keys.", "--allow-host", metavar="HOST"
    )
    trusted_proxies: list[str] | None = option(
        None,
        "Address or network of a proxy whose X-Forwarded-For is used; may be repeated.",
        "--trusted-proxy",
        metavar="ADDRESS",
    )
    keys: Path | None = option(None, "File of API keys; without it, only this machine may connect.")
    insecure: bool = option(False, "Let other machines connect without keys.", "--allow-unauthenticated")


@dataclass(frozen=True)
class ModelOptions:
    """Run and items"""

    store: str | None = option(None, "Database of live changes (default: RUN.live.sqlite).", envvar="LIRDREC_STORE")
    watch: bool = option(False, "Load another run without a restart when the link or file RUN names another one.")
    runs: Path | None = option(None, "Folder of runs that POST /model may switch to.", "--runs-dir")
    index: str = option(
        "exact", "exact; or hnsw, ivf: approximate, faster from about 250,000 items (need lirdrec[ann]).", "--ann-index"
    )
    dislikes: list[str] | None = option(
        None,
        "Type of events that excludes the item for the user; may be repeated (default: dislike).",
        "--dislike",
        metavar="TYPE",
    )
    encoders: bool = option(False, "Encode titles and images of new items with the dataset's encoders.")
    device: str = option("cpu", "Device of the encoders: cpu, cuda or mps.")
    images: ImagesOption = None
    ui: bool = option(False, "Serve the web page at /ui.")


@dataclass(frozen=True)
class LimitOptions:
    """Processes and limits"""

    workers: int = option(1, "Worker processes.", "--workers", "-w")
    threads: int | None = option(None, "Threads of each worker (default: the cores, shared).")
    rate_limit: float | None = option(None, "Maximum requests per second for each key; 0: no limit (default: 200).")
    max_connections: int | None = option(None, "Maximum number of connections of each worker (default: 1024).")
    address_connections: int | None = option(None, "Maximum number of connections from one address (default: 256).")
    head_seconds: float | None = option(
        None, "Seconds to receive the headers of a request (default: 10).", "--head-timeout"
    )
    max_body: float | None = option(None, "Largest request body, in MB (default: 8).")
    max_batch: int | None = option(None, "Maximum number of recommendations in a batch request (default: 256).")
    timeout_seconds: float | None = option(None, "Seconds to respond (default: 30).", "--timeout")
    no_access_log: bool = option(False, "Do not log each request.")


def serve(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run folder, a link to one, or a file with its name.", show_default=False),
    ],
    network: NetworkOptions,
    model: ModelOptions,
    limits: LimitOptions,
) -> None:
    """Serve a run over HTTP: recommendations, explanations, and items added while serving.

    \b
      lirdrec serve runs/first --ui                             this machine only: open http://127.0.0.1:8000/ui
      lirdrec keys add keys.json --name shop --role write       prints a key, once
      lirdrec serve runs/first --keys keys.json --host 0.0.0.0  other machines, with keys
      curl -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\
           -d '{"user": 15, "k": 5}' http://127.0.0.1:8000/recommend

    Changes are written to disk before they are confirmed, and are loaded again after a restart. To switch to a newer
    run without a pause: echo first > runs/current, lirdrec serve runs/current --runs-dir runs, then POST /model.
    """
    from lirdrec.config import make_config

    try:
        from lirdrec.server.config import ServerConfig
        from lirdrec.server.main import check
        from lirdrec.server.main import serve as run_server
    except ModuleNotFoundError as error:
        raise ConfigError(f'{error.name} is not installed; install it with pip install "lirdrec[serve]"') from None

    values = given(network, model, limits)
    if (megabytes := values.pop("max_body", None)) is not None:
        if not math.isfinite(megabytes):
            raise ConfigError(f"--max-body is {megabytes}; it must be a finite number of MB")
        values["max_body_bytes"] = round(megabytes * 2**20)
    values["access_log"] = not values.pop("no_access_log", False) and not settings.quiet
    values = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    config = make_config(ServerConfig, {"run": str(run), **values}, "serve")
    check(config)
    if not settings.quiet:
        _show_address(config.host, config.port, config.ui, config.keys is not None)
    run_server(config)


@keys.callback()
def keys_group() -> None:
    """Manage the API keys of a server. The file contains hashes of the keys, not the keys themselves.

    \b
      lirdrec keys add keys.json --name shop --role write
      lirdrec keys list keys.json
      lirdrec keys revoke keys.json --name shop
    """


@keys.command("add")
def add(
    file: FileArgument,
    name: NameOption,
    role: str = option("read", "read; or write: may also change the model.", "--role", "-r"),
) -> None:
    """Create an API key and print it. It cannot be shown again.

    \b
      lirdrec keys add keys.json --name shop --role write
    """
    from typing import cast

    from lirdrec.server.auth import Role, add_key

    print(add_key(file, name, cast(Role, role)))
    print_line(f"The key of '{name}' is shown only this time; {file} has its hash.", errors=True)


@keys.command("list")
def list_keys(file: FileArgument, json: JsonOption = False) -> None:
    """List the names and roles of the API keys, and when they were created.

    \b
      lirdrec keys list keys.json
    """
    from lirdrec.server.auth import read_keys

    rows = [{"name": key.name, "role": key.role, "created": key.created} for key in read_keys(file)]
    if json:
        return print_json(rows)
    console().print(table(None, ["name", "role", "created"], [list(row.values()) for row in rows]))


@keys.command("revoke")
def revoke(file: FileArgument, name: NameOption) -> None:
    """Make a key invalid at once; servers that use the file need no restart.

    \b
      lirdrec keys revoke keys.json --name shop
    """
    from lirdrec.server.auth import revoke_key

    revoke_key(file, name)
    print_line(f"The key of '{name}' is revoked.", errors=True)


def _show_address(host: str, port: int, ui: bool, keyed: bool) -> None:
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    page = f"; the page is at {address}/ui" if ui else ""
    warning = "" if keyed else "; there are no API keys: everybody who can connect may do everything"
    print_line(f"lirdrec listens at {address}{page}{warning}. Ctrl-C stops it.", errors=True)
