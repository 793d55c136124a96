"""All that writes: the state before it, the command, what a reader finds, and what a person does after a kill.

Every function here runs in a child whose working folder is the one that the paths start from.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import states
from .preparing import command

Step = Callable[[], Any]
SMALL = ("--set", "epochs=2", "--set", "batch_size=256", "--set", "embedding_size=4", "--set", "n_neighbours=3")
N_USERS, N_ITEMS, N_PICTURES = 20, 24, 8
HUB, OWNER = "LIRDREC_TEST_HUB", "hf_ownerownerownerowner"


class Refused(Exception):
    """A command that ended with a sentence instead of its work."""


def lirdrec(*words: str) -> None:
    """Run a command.

    Raises:
        Refused: it ended with another exit code than 0.
    """
    printed = os.memfd_create("stderr")
    kept = os.dup(2)
    os.dup2(printed, 2)
    code: Any = 0
    try:
        command()(["-q", *words])
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.lseek(printed, 0, os.SEEK_SET)
        said = os.read(printed, 1 << 16).decode(errors="replace").strip()
        os.close(printed)
    if code:
        raise Refused(f"lirdrec {' '.join(words)}: exit code {code}: {said}")


@dataclass(frozen=True)
class Writer:
    """One way to write.

    Attributes:
        start: makes what is there before.
        work: what is killed.
        look: what a reader finds; raises a LirdrecError or FileNotFoundError where there is nothing.
        again: what people do after a kill; each one leads to what an undisturbed `work` leads to.
        tidy: a write after `again`, for those `again` that may have nothing to do.
        loose: keys of `look` that may be the old or the new ones in themselves, as long as the work has not ended.
        hub: whether it needs the stand-in of the hub.
        place: what it makes or replaces, below the working folder.
    """

    start: Step
    work: Step
    look: Callable[[], Any]
    again: tuple[Step, ...]
    place: str
    tidy: Step | None = None
    loose: tuple[str, ...] = ()
    hub: bool = False


# ---------------------------------------------------------------- what is there before


def source() -> None:
    """Tables, vectors and pictures, from which everything here is made."""
    import numpy as np
    import polars as pl
    from PIL import Image

    rng = np.random.default_rng(5)
    pairs = [(u, i) for u in range(N_USERS) for i in range(N_ITEMS) if (u + i) % 2 == 0 and rng.random() < 0.7]
    pl.DataFrame(pairs, schema=["user", "item"], orient="row").write_csv("pairs.csv")
    pl.DataFrame({"user": [u for u, _ in pairs][:100], "item": [i for _, i in pairs][:100]}).write_csv("fewer.csv")
    titles = [f"film number {n} {'red' if n % 2 else 'blue'}" for n in range(N_ITEMS)]
    pl.DataFrame({"item": range(N_ITEMS), "title": titles}).write_csv("items.csv")
    texts = (rng.standard_normal((N_ITEMS, 6)) + np.arange(N_ITEMS)[:, None] % 2 * 3).astype(np.float32)
    ids = np.arange(N_ITEMS)
    np.savez("text.npz", ids=ids, values=texts)
    np.savez("other.npz", ids=ids, values=texts[:, ::-1])
    np.savez("some.npz", ids=ids[:-2], values=texts[:-2])
    Path("pictures").mkdir()
    for n in range(N_PICTURES):
        Image.new("RGB", (16, 16), (248 - 10 * n, 10 * n, 128)).save(f"pictures/{n}.png")
    for number in (900001, 900002, 900003):
        pl.DataFrame({"item": [number], "title": [f"new {number}"]}).write_csv(f"{number}.csv")
        np.save(f"{number}.npy", rng.standard_normal((1, 6)).astype(np.float32))


def prepared(*options: str, pairs: str = "pairs.csv", to: str = "ds") -> None:
    """A prepared dataset, with one matrix unless other features are named."""
    features = () if "--features" in options or "--images" in options else ("--features", "text=text.npz")
    lirdrec("prepare", pairs, "--items", "items.csv", "--seed", "1", *features, *options, "--output", to)


def pictured() -> None:
    """A prepared dataset with texts and pictures, without features."""
    source()
    prepared("--images", "pictures")


def trained(*options: str, run: str = "r") -> None:
    """A run, from a seed."""
    lirdrec("train", "ds", "--run", run, *SMALL, *options)


def with_run() -> None:
    source()
    prepared()
    trained()


def with_item() -> None:
    with_run()
    add_item(900001)


def with_two_runs() -> None:
    with_item()
    trained("--seed", "3", run="r2")


def steps(*ones: Step) -> Step:
    """Several steps, one after the other."""

    def all_of_them() -> None:
        for one in ones:
            one()

    return all_of_them


# ---------------------------------------------------------------- work


def refused(word: str, step: Step) -> None:
    """A step that may be refused, with a sentence that has this word: it has happened already."""
    try:
        step()
    except Refused as error:
        if word not in str(error).rpartition("exit code")[2]:
            raise


def add_item(number: int, *options: str) -> None:
    lirdrec("add-items", "r", "--items", f"{number}.csv", "--features", f"text={number}.npy", *options)


def recommender(run: str) -> Any:
    from lirdrec.recommender.recommender import Recommender

    return Recommender.load(run)


def save(run: str, to: str) -> None:
    recommender(run).save(to, overwrite=True)


def slim(run: str, to: str) -> None:
    recommender(run).slim(to, overwrite=True)


def record(value: float, run: str = "r") -> None:
    recommender(run).record_metrics("cold", {"recall@5": value, "ndcg@5": value / 2})


def caption(word: str) -> None:
    """Caption the pictures by something that names their file."""
    from lirdrec.features.captions.captioner import Answer, Captioner
    from lirdrec.features.captions.prompt import Attributes, render
    from lirdrec.features.captions.run import captioning

    class Naming(Captioner):
        model, place = "naming", "here"

        @property
        def identity(self) -> Mapping[str, Any]:
            return {"model": "naming", "word": word}

        def answers(self, pictures: Sequence[Path]) -> Iterator[tuple[int, Answer]]:
            for place, picture in enumerate(pictures):
                if picture.stem == "5":
                    yield place, Answer(None, "it shows nothing")
                else:
                    yield place, Answer(json.dumps({"category": f"{word} {picture.stem}", "colour": "red"}))

    attributes = Attributes()
    captioner = Naming()
    captioner.prompt = render(attributes)
    with captioning("ds", captioner, attributes) as job:
        job.work()
        job.finish()


def edit_captions(to: str) -> None:
    import polars as pl

    from lirdrec.features.captions.editing import export_captions

    export_captions("ds", to)
    table = pl.read_csv(to)
    edited = pl.when(pl.col("item") < 4).then(pl.lit("by hand")).otherwise(pl.col("caption"))
    table.with_columns(edited.alias("caption")).write_csv(to)


def everyone(run: str, to: str) -> None:
    """`recommend --all` with more than one shard."""
    from lirdrec.exporting.everyone import recommend_everyone

    recommend_everyone(recommender(run), to, k=5, shard_users=10)


def key(what: str, name: str) -> None:
    lirdrec("keys", what, "keys.json", "--name", name)


def keys() -> list[str]:
    from lirdrec.server.security import read_keys

    if not Path("keys.json").is_file():
        raise FileNotFoundError("keys.json")
    return [f"{one.name} {one.role}" for one in read_keys("keys.json")]


def point(run: str) -> None:
    from lirdrec.server.watching import Pointer

    Pointer("current").point(Path(run))


def pointed() -> Any:
    from lirdrec.server.watching import Pointer

    return [Pointer("current").target().name, states.run(Pointer("current").target())]


def use_hub(cache: str = "hub-cache") -> None:
    """Let the client talk to the stand-in, log in as its owner, and keep its cache here."""
    from huggingface_hub import constants

    os.environ["HF_TOKEN"] = OWNER
    url, here = os.environ[HUB], Path(cache).absolute()
    constants.HF_HUB_OFFLINE = False
    constants.ENDPOINT, constants.HF_HUB_CACHE = url, str(here)
    constants.HUGGINGFACE_CO_URL_TEMPLATE = url + "/{repo_id}/resolve/{revision}/{filename}"
    constants.HF_TOKEN_PATH, constants.HF_STORED_TOKENS_PATH = str(here / "token"), str(here / "tokens")


def push(folder: str) -> None:
    use_hub()
    lirdrec("push", folder, "me/films", "--licence", "mit", "--endpoint", os.environ[HUB])


def pull(to: str) -> None:
    use_hub()
    lirdrec("pull", "me/films", "--output", to, "--overwrite", "--endpoint", os.environ[HUB])


def on_hub() -> Any:
    import shutil

    use_hub("other-cache")
    try:
        lirdrec("pull", "me/films", "--output", "pulled", "--endpoint", os.environ[HUB])
        return states.dataset(Path("pulled"))
    finally:
        for name in ("pulled", "other-cache"):
            shutil.rmtree(name, ignore_errors=True)


# ---------------------------------------------------------------- all of them


def _dataset() -> Any:
    return states.dataset(Path("ds"))


def _run(folder: str = "r") -> Callable[[], Any]:
    return lambda: states.run(Path(folder)) | {"history": states.history(Path(folder))}


def _files(folder: str) -> Callable[[], Any]:
    return lambda: states.files(Path(folder))


def _file(name: str) -> Callable[[], Any]:
    return lambda: states._digest(Path(name).read_bytes())


TRAINED = ("metrics", "metrics_file", "history")  # the figures of the test set come after the run itself
CAPTIONED = ("info",)  # what is noted about captions comes after them
_features = partial(lirdrec, "features", "ds")
_hashed = partial(_features, "--text", "hashed", "--image", "descriptor")
_titles = partial(_features, "--text", "hashed", "--text-template", "a {title}", "--replace")
_export = partial(lirdrec, "export")
_copy_with_item = partial(add_item, 900002, "--save-as", "r2")

WRITERS: dict[str, Writer] = {
    "train": Writer(
        steps(source, prepared),
        trained,
        _run(),
        (partial(trained, "--resume"), partial(trained, "--overwrite")),
        "r",
        loose=TRAINED,
    ),
    "train --overwrite": Writer(
        with_item,
        partial(trained, "--seed", "1", "--overwrite"),
        _run(),
        (partial(trained, "--seed", "1", "--overwrite"),),
        "r",
        loose=TRAINED,
    ),
    "train --resume": Writer(
        steps(source, prepared, partial(trained, "--set", "epochs=1")),
        partial(trained, "--resume"),
        _run(),
        (partial(trained, "--resume"),),
        "r",
        loose=TRAINED,
    ),
    "train popularity": Writer(
        steps(source, prepared),
        partial(lirdrec, "train", "ds", "--run", "r", "--model", "popularity"),
        _run(),
        (partial(lirdrec, "train", "ds", "--run", "r", "--model", "popularity", "--overwrite"),),
        "r",
        loose=TRAINED,
    ),
    "add-items": Writer(
        with_item,
        partial(add_item, 900002),
        _run(),
        (partial(refused, "900002", partial(add_item, 900002)),),
        "r",
        tidy=partial(record, 0.5),
    ),
    "add-items --save-as": Writer(
        with_item,
        _copy_with_item,
        _run("r2"),
        (partial(refused, "r2", _copy_with_item),),
        "r2",
        tidy=partial(record, 0.5, "r2"),
    ),
    "save --overwrite": Writer(with_two_runs, partial(save, "r", "r2"), _run("r2"), (partial(save, "r", "r2"),), "r2"),
    "slim": Writer(
        with_item, partial(lirdrec, "slim", "r", "-o", "s"), _run("s"), (partial(slim, "r", "s"),), "s"
    ),
    "slim --overwrite": Writer(
        with_two_runs, partial(slim, "r", "r2"), _run("r2"), (partial(slim, "r", "r2"),), "r2"
    ),
    "record_metrics": Writer(with_item, partial(record, 0.25), _run(), (partial(record, 0.25),), "r"),
    "prepare": Writer(source, prepared, _dataset, (partial(prepared, "--overwrite"),), "ds"),
    "prepare --overwrite": Writer(
        steps(source, prepared),
        partial(prepared, "--overwrite", pairs="fewer.csv"),
        _dataset,
        (partial(prepared, "--overwrite", pairs="fewer.csv"),),
        "ds",
    ),
    "features": Writer(pictured, _hashed, _dataset, (_hashed,), "ds"),
    "features --replace": Writer(steps(pictured, _hashed), _titles, _dataset, (_titles,), "ds"),
    "features --add": Writer(
        steps(pictured, _hashed),
        partial(_features, "--add", "more=text.npz"),
        _dataset,
        (partial(_features, "--add", "more=text.npz", "--replace"),),
        "ds",
    ),
    "features --add --replace": Writer(
        steps(pictured, _hashed, partial(_features, "--add", "more=text.npz")),
        partial(_features, "--add", "more=other.npz", "--replace"),
        _dataset,
        (partial(_features, "--add", "more=other.npz", "--replace"),),
        "ds",
    ),
    "caption": Writer(pictured, partial(caption, "tile"), _dataset, (partial(caption, "tile"),), "ds", loose=CAPTIONED),
    "caption another time": Writer(
        steps(pictured, partial(caption, "tile")),
        partial(caption, "plate"),
        _dataset,
        (partial(caption, "plate"),),
        "ds",
        loose=CAPTIONED,
    ),
    "caption --import": Writer(
        steps(pictured, partial(caption, "tile"), partial(edit_captions, "edited.csv")),
        partial(lirdrec, "caption", "ds", "--import", "edited.csv"),
        _dataset,
        (partial(lirdrec, "caption", "ds", "--import", "edited.csv"),),
        "ds",
    ),
    "export npy": Writer(
        with_run, partial(_export, "r", "e", "--to", "npy"), _files("e"), (partial(_export, "r", "e", "--to", "npy", "--overwrite"),), "e"
    ),
    "export npy --overwrite": Writer(
        steps(with_run, partial(_export, "r", "e", "--to", "npy"), partial(add_item, 900001)),
        partial(_export, "r", "e", "--to", "npy", "--overwrite"),
        _files("e"),
        (partial(_export, "r", "e", "--to", "npy", "--overwrite"),),
        "e",
    ),
    "export qdrant --overwrite": Writer(
        steps(with_run, partial(_export, "r", "e", "--to", "npy")),
        partial(_export, "r", "e", "--to", "qdrant", "--overwrite"),
        _files("e"),
        (partial(_export, "r", "e", "--to", "qdrant", "--overwrite"),),
        "e",
    ),
    "recommend --all parquet": Writer(
        with_run, partial(everyone, "r", "all.parquet"), _file("all.parquet"), (partial(everyone, "r", "all.parquet"),), "all.parquet"
    ),
    "recommend --all csv": Writer(
        steps(with_two_runs, partial(everyone, "r", "all.csv")),
        partial(everyone, "r2", "all.csv"),
        _file("all.csv"),
        (partial(everyone, "r2", "all.csv"),),
        "all.csv",
    ),
    "push": Writer(
        steps(source, prepared, partial(push, "ds"), partial(prepared, "--overwrite", pairs="fewer.csv")),
        partial(push, "ds"),
        on_hub,
        (partial(push, "ds"),),
        "ds",
        hub=True,
    ),
    "pull --overwrite": Writer(
        steps(source, prepared, partial(push, "ds"), partial(prepared, "--overwrite", pairs="fewer.csv")),
        partial(pull, "ds"),
        _dataset,
        (partial(pull, "ds"),),
        "ds",
        hub=True,
    ),
    "keys add": Writer(
        partial(key, "add", "first"),
        partial(key, "add", "second"),
        keys,
        (partial(refused, "second", partial(key, "add", "second")),),
        "keys.json",
        tidy=partial(key, "add", "third"),
    ),
    "keys revoke": Writer(
        steps(partial(key, "add", "first"), partial(key, "add", "second")),
        partial(key, "revoke", "first"),
        keys,
        (partial(refused, "first", partial(key, "revoke", "first")),),
        "keys.json",
        tidy=partial(key, "add", "third"),
    ),
    "pointer file": Writer(
        steps(with_two_runs, lambda: Path("current").write_text("r\n")),
        partial(point, "r2"),
        pointed,
        (partial(point, "r2"),),
        "current",
    ),
    "pointer link": Writer(
        steps(with_two_runs, lambda: Path("current").symlink_to("r")),
        partial(point, "r2"),
        pointed,
        (partial(point, "r2"),),
        "current",
    ),
}  # fmt: skip
