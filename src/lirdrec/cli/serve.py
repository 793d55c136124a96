"""`lirdrec serve` and `lirdrec keys`: a run behind HTTP."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from lirdrec.cli.output import JsonOption, console, print_json, settings, table

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The file of keys.", show_default=False)]
NameOption = Annotated[str, typer.Option("--name", "-n", help="Who has the key.", show_default=False)]

keys = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(serve)
    app.add_typer(keys, name="keys")


def serve(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="A run folder, a link to one, or a file that names one.", show_default=False
        ),
    ],
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", help="Port to listen at.")] = 8000,
    keys: Annotated[
        Path | None, typer.Option("--keys", help="File of API keys; without it, only this machine is answered.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store", envvar="LIRDREC_STORE", help="Where live changes are kept: a URL (default: RUN.live.sqlite)."
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", "-w", help="Processes that answer.")] = 1,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Threads of each (default: the cores, shared).")
    ] = None,
    ui: Annotated[bool, typer.Option("--ui", help="Serve the page, at /ui.")] = False,
    encoders: Annotated[
        bool, typer.Option("--encoders", help="Encode titles and pictures of new items, as the dataset's were.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="Of the encoders: cpu, cuda or mps.")] = "cpu",
    index: Annotated[
        str,
        typer.Option("--ann-index", help="exact; or hnsw, ivf from about 250,000 items on: most of the best, sooner."),
    ] = "exact",
    images: Annotated[Path | None, typer.Option("--images", help="Folder of the items' pictures.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow RUN when it leads to another run.")] = False,
    runs: Annotated[
        Path | None, typer.Option("--runs-dir", help="Folder of runs that POST /model may change to.")
    ] = None,
    rate_limit: Annotated[
        float | None, typer.Option("--rate-limit", help="Requests a second of each key; 0: no limit (default: 200).")
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            "--trusted-proxy",
            metavar="ADDRESS",
            help="Address or network of a proxy whose X-Forwarded-For is believed; may be repeated.",
        ),
    ] = None,
    max_connections: Annotated[
        int | None, typer.Option("--max-connections", help="Connections of each worker (default: 1024).")
    ] = None,
    address_connections: Annotated[
        int | None, typer.Option("--address-connections", help="Connections from one address (default: 256).")
    ] = None,
    head_timeout: Annotated[
        float | None, typer.Option("--head-timeout", help="Seconds for the head of a request (default: 10).")
    ] = None,
    max_body: Annotated[float | None, typer.Option("--max-body", help="Largest body, in MB (default: 8).")] = None,
    max_batch: Annotated[
        int | None, typer.Option("--max-batch", help="Requests in a batch call (default: 256).")
    ] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", help="Seconds for an answer (default: 30).")] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option("--cors", metavar="ORIGIN", help="Origin of a web page that may ask; may be repeated."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="HOST", help="Another name of this machine, where there are no keys."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--allow-unauthenticated", help="Answer other machines without keys.")
    ] = False,
    no_access_log: Annotated[bool, typer.Option("--no-access-log", help="No line for each request.")] = False,
) -> None:
    """Put a run behind HTTP: recommendations, items added live, explanations.

    \b
      lirdrec serve runs/first --ui                             this machine only: open http://127.0.0.1:8000/ui
      lirdrec keys add keys.json --name shop --role write       prints a key, once
      lirdrec serve runs/first --keys keys.json --host 0.0.0.0  for others, with keys
      curl -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\
           -d '{"user": 15, "k": 5}' http://127.0.0.1:8000/recommend

    What is added while serving is on the disk before it is answered for, and is there again after a restart. A newer
    run without a pause: echo first > runs/current, lirdrec serve runs/current --runs-dir runs, then POST /model.
    """
    from lirdrec.config import make
    from lirdrec.errors import ConfigError

    try:
        from lirdrec.server.config import ServerConfig
        from lirdrec.server.main import check
        from lirdrec.server.main import serve as answer
    except ModuleNotFoundError as error:
        raise ConfigError(f'{error.name} is not installed; get it with: pip install "lirdrec[serve]"') from None

    given = {
        "host": host,
        "port": port,
        "keys": _text(keys),
        "store": store,
        "workers": workers,
        "threads": threads,
        "ui": ui,
        "encoders": encoders,
        "device": device,
        "index": index,
        "images": _text(images),
        "watch": watch,
        "runs": _text(runs),
        "rate_limit": rate_limit,
        "max_body_bytes": _bytes(max_body),
        "max_batch": max_batch,
        "timeout_seconds": timeout,
        "head_seconds": head_timeout,
        "max_connections": max_connections,
        "address_connections": address_connections,
        "trusted_proxies": trusted_proxy,
        "cors": cors,
        "hosts": allow_host,
        "insecure": insecure,
        "access_log": not no_access_log and not settings.quiet,
    }
    values = {name: value for name, value in given.items() if value is not None}
    config = make(ServerConfig, {"run": str(run), **values}, "serve")
    check(config)
    if not settings.quiet:
        _tell(config.host, config.port, config.ui, config.keys is not None)
    answer(config)


@keys.callback()
def keys_group() -> None:
    """API keys of a server: a file of their hashes; the keys themselves are kept nowhere.

    \b
      lirdrec keys add keys.json --name shop --role write
      lirdrec keys list keys.json
      lirdrec keys revoke keys.json --name shop
    """


@keys.command("add")
def add(
    file: FileArgument,
    name: NameOption,
    role: Annotated[str, typer.Option("--role", "-r", help="read: ask; write: change too.")] = "read",
) -> None:
    """Make a key and print it, this once.

    \b
      lirdrec keys add keys.json --name shop --role write
    """
    from typing import cast

    from lirdrec.server.auth import Role, add_key

    print(add_key(file, name, cast(Role, role)))
    console(errors=True).print(
        f"This is the only time that the key of '{name}' is shown; {file} holds its hash.", markup=False
    )


@keys.command("list")
def list_keys(file: FileArgument, json: JsonOption = False) -> None:
    """Who has a key, and what for.

    \b
      lirdrec keys list keys.json
    """
    from lirdrec.server.auth import read_keys

    known = read_keys(file)
    if json:
        print_json([{"name": one.name, "role": one.role, "created": one.created} for one in known])
    else:
        console().print(table(None, ["name", "role", "created"], [[one.name, one.role, one.created] for one in known]))


@keys.command("revoke")
def revoke(file: FileArgument, name: NameOption) -> None:
    """Refuse a key from the next request on; servers need no restart.

    \b
      lirdrec keys revoke keys.json --name shop
    """
    from lirdrec.server.auth import revoke_key

    revoke_key(file, name)
    console(errors=True).print(f"The key of '{name}' is refused from now on.", markup=False)


def _bytes(megabytes: float | None) -> int | None:
    from lirdrec.errors import ConfigError

    if megabytes is None:
        return None
    if not math.isfinite(megabytes):
        raise ConfigError(f"--max-body is {megabytes}; it must be a number of MB")
    return round(megabytes * 2**20)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _tell(host: str, port: int, ui: bool, keyed: bool) -> None:
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    page = f"; the page is at {where}/ui" if ui else ""
    who = "" if keyed else "; no API keys: everybody who reaches it may do everything"
    console(errors=True).print(f"lirdrec listens at {where}{page}{who}. Ctrl-C ends it.", markup=False, soft_wrap=True)
