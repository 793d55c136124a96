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
SMALL = tuple(
    word
    for one in (
        "epochs=2",
        "batch_size=64",
        "embedding_size=4",
        "n_neighbors=3",
        "learning_rate=0.02",
        "metric=ndcg@5",
    )
    for word in ("--set", one)
)
N_USERS, N_ITEMS, N_IMAGES = 20, 24, 8
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
        start: steps that make what is there before; writers whose first steps are the same share what these made.
        work: what is killed.
        look: what a reader finds; raises a LirdrecError or FileNotFoundError where there is nothing.
        again: what people do after a kill; each one leads to what an undisturbed `work` leads to.
        tidy: a write after `again`, for those `again` that may have nothing to do.
        loose: keys of `look` that may be the old or the new ones in themselves, as long as the work has not ended.
        exchanges: whether it replaces a folder as a whole.
        same: whether the work leads to the same if it is done twice.
        hub: whether it needs the stand-in of the hub.
        place: what it makes or replaces, below the working folder.
    """

    start: tuple[Step, ...]
    work: Step
    look: Callable[[], Any]
    again: tuple[Step, ...]
    place: str
    tidy: Step = lambda: None
    loose: tuple[str, ...] = ()
    exchanges: bool = False
    same: bool = True
    hub: bool = False


# ---------------------------------------------------------------- what is there before


def source() -> None:
    """Tables, vectors and images, from which everything here is made."""
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
    Path("images").mkdir()
    for n in range(N_IMAGES):
        Image.new("RGB", (16, 16), (248 - 10 * n, 10 * n, 128)).save(f"images/{n}.png")
    for number in range(900001, 900006):
        pl.DataFrame({"item": [number], "title": [f"new {number}"]}).write_csv(f"{number}.csv")
        np.save(f"{number}.npy", rng.standard_normal((1, 6)).astype(np.float32))


def prepared(*options: str, pairs: str = "pairs.csv", to: str = "ds") -> None:
    """A prepared dataset, with one matrix unless other features are named."""
    features = () if "--features" in options or "--images" in options else ("--features", "text=text.npz")
    lirdrec("prepare", pairs, "--items", "items.csv", "--seed", "1", *features, *options, "--output", to)


def trained(*options: str, run: str = "r") -> None:
    """A run, from a seed."""
    lirdrec("train", "ds", "--run", run, *SMALL, *options)


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
    """Caption the images by something that names their file."""
    from lirdrec.captions.captioner import Answer, Captioner
    from lirdrec.captions.pipeline import captioning
    from lirdrec.captions.prompt_attributes import Attributes, render

    class Naming(Captioner):
        model, location = "naming", "here"

        @property
        def identity(self) -> Mapping[str, Any]:
            return {"model": "naming", "word": word}

        def answers(self, images: Sequence[Path]) -> Iterator[tuple[int, Answer]]:
            for index, image in enumerate(images):
                if image.stem == "5":
                    yield index, Answer(None, "it shows nothing")
                else:
                    yield index, Answer(json.dumps({"category": f"{word} {image.stem}", "colour": "red"}))

    attributes = Attributes()
    captioner = Naming()
    captioner.prompt = render(attributes)
    with captioning("ds", captioner, attributes) as job:
        job.work()
        job.finish()


def edit_captions(to: str) -> None:
    import polars as pl

    from lirdrec.captions.export_import import export_captions

    export_captions("ds", to)
    table = pl.read_csv(to)
    edited = pl.when(pl.col("item") < 4).then(pl.lit("by hand")).otherwise(pl.col("caption"))
    table.with_columns(edited.alias("caption")).write_csv(to)


def everyone(run: str, to: str) -> None:
    """`recommend --all` with more than one shard."""
    from lirdrec.recommender.recommend_all import recommend_all

    recommend_all(recommender(run), to, k=5, shard_users=10)


def key(what: str, name: str) -> None:
    lirdrec("keys", what, "keys.json", "--name", name)


def keys() -> list[str]:
    from lirdrec.server.auth import read_keys

    if not Path("keys.json").is_file():
        raise FileNotFoundError("keys.json")
    return [f"{one.name} {one.role}" for one in read_keys("keys.json")]


def point_by_file() -> None:
    Path("current").write_text("r\n")


def point_by_link() -> None:
    Path("current").symlink_to("r")


def point(run: str) -> None:
    from lirdrec.server.run_pointer import RunPointer

    RunPointer("current").point(Path(run))


def pointed() -> Any:
    from lirdrec.server.run_pointer import RunPointer

    return [RunPointer("current").target().name, states.run(RunPointer("current").target())]


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
    lirdrec("push", folder, "me/films", "--license", "mit", "--endpoint", os.environ[HUB])


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
    return lambda: states.run(Path(folder))


def _loaded(folder: str) -> Callable[[], Any]:
    return lambda: states.loaded_run(Path(folder))


def _file(name: str) -> Callable[[], Any]:
    return lambda: states.file(Path(name))


def _exported() -> Any:
    from lirdrec.files.atomic import recover

    recover(Path("e"))  # an export has no reader of ours that could do this; the next write does
    return states.files(Path("e"))


_imaged = partial(prepared, "--images", "images")
_fewer = partial(prepared, "--overwrite", pairs="fewer.csv")
_new_seed = partial(trained, "--seed", "1", "--overwrite")
_resumed = partial(trained, "--resume")


def _as_it_says() -> None:
    """Train without a word about what is there, and do what the sentence says if that is refused."""
    try:
        trained()
    except Refused as error:
        assert "--resume" in str(error) or "overwrite" in str(error), error
        trained("--resume" if "--resume" in str(error) else "--overwrite")


_popularity = partial(lirdrec, "train", "ds", "--run", "r", "--model", "popularity")
_first, _second = partial(add_item, 900001), partial(add_item, 900002)
_copy = partial(add_item, 900002, "--save-as", "r2")
_copy_run = partial(save, "r", "r3")
_slim = partial(lirdrec, "strip", "r", "-o", "s")
_features = partial(lirdrec, "features", "ds")
_hashed = partial(_features, "--text", "hashed", "--image", "descriptor")
_titles = partial(_features, "--text", "hashed", "--text-template", "a {title}", "--overwrite")
_dropping = partial(_features, "--image", "descriptor", "--drop-featureless-items")
_more = partial(_features, "--import", "more=text.npz")
_other = partial(_features, "--import", "more=other.npz", "--overwrite")
_tiles, _plates = partial(caption, "tile"), partial(caption, "plate")
_edits = partial(edit_captions, "edited.csv")
_import = partial(lirdrec, "caption", "ds", "--import", "edited.csv")
_npy = partial(lirdrec, "export", "r", "e", "--format", "npy")
_new_npy = partial(lirdrec, "export", "r", "e", "--format", "npy", "--overwrite")
_qdrant = partial(lirdrec, "export", "r", "e", "--format", "qdrant", "--overwrite")
_parquet = partial(everyone, "r", "all.parquet")
_csv, _new_csv = (partial(everyone, run, "all.csv") for run in ("r", "r2"))
_push, _pull = partial(push, "ds"), partial(pull, "ds")
_key_1, _key_2, _key_3 = (partial(key, "add", name) for name in ("first", "second", "third"))
_revoke = partial(key, "revoke", "first")

DATA = (source, prepared)
IMAGES = (source, _imaged)
FEATURES = (*IMAGES, _hashed)
RUN = (*DATA, trained)
ITEM = (*RUN, _first)
TWO_RUNS = (*ITEM, partial(trained, "--seed", "3", run="r2"))
PUSHED = (*DATA, _push, _fewer)

# the figures of the test set come after the run itself, the line of an epoch as soon as it ends
TRAINED = ("metrics", "metrics.json", "history.jsonl")
CAPTIONED = ("info",)  # what is noted about captions comes after them

WRITERS: dict[str, Writer] = {
    "train": Writer(
        DATA, trained, _run(), (_resumed, partial(trained, "--overwrite"), _as_it_says), "r", loose=TRAINED
    ),
    "train --overwrite": Writer(ITEM, _new_seed, _run(), (_new_seed,), "r", loose=TRAINED),
    "train --resume": Writer(
        (*DATA, partial(trained, "--set", "epochs=1")), _resumed, _run(), (_resumed,), "r", loose=TRAINED
    ),
    "train popularity": Writer(DATA, _popularity, _run(), (partial(_popularity, "--overwrite"),), "r", loose=TRAINED),
    "add-items": Writer(ITEM, _second, _run(), (partial(refused, "900002", _second),), "r", tidy=partial(record, 0.5)),
    "add-items --save-as": Writer(
        ITEM, _copy, _run("r2"), (partial(refused, "r2", _copy),), "r2", tidy=partial(record, 0.5, "r2")
    ),
    "save": Writer(TWO_RUNS, partial(save, "r", "r2"), _run("r2"), (partial(save, "r", "r2"),), "r2"),
    "slim": Writer(ITEM, _slim, _run("s"), (partial(slim, "r", "s"),), "s"),
    "slim another": Writer(TWO_RUNS, partial(slim, "r", "r2"), _run("r2"), (partial(slim, "r", "r2"),), "r2"),
    "record_metrics": Writer(ITEM, partial(record, 0.25), _run(), (partial(record, 0.25),), "r"),
    "prepare": Writer((source,), prepared, _dataset, (partial(prepared, "--overwrite"),), "ds"),
    "prepare --overwrite": Writer(DATA, _fewer, _dataset, (_fewer,), "ds", exchanges=True),
    "features": Writer(IMAGES, _hashed, _dataset, (_hashed,), "ds"),
    "features --overwrite": Writer(FEATURES, _titles, _dataset, (_titles,), "ds"),
    "features --drop-featureless-items": Writer(IMAGES, _dropping, _dataset, (_dropping,), "ds", same=False),
    "features --import": Writer(FEATURES, _more, _dataset, (partial(_more, "--overwrite"),), "ds"),
    "features --import --overwrite": Writer((*FEATURES, _more), _other, _dataset, (_other,), "ds"),
    "caption": Writer(IMAGES, _tiles, _dataset, (_tiles,), "ds", loose=CAPTIONED),
    "caption by another": Writer((*IMAGES, _tiles), _plates, _dataset, (_plates,), "ds", loose=CAPTIONED),
    "caption --import": Writer((*IMAGES, _tiles, _edits), _import, _dataset, (_import,), "ds"),
    "export npy": Writer(RUN, _npy, _exported, (_new_npy,), "e"),
    "export npy --overwrite": Writer((*RUN, _npy, _first), _new_npy, _exported, (_new_npy,), "e", exchanges=True),
    "export qdrant --overwrite": Writer((*RUN, _npy), _qdrant, _exported, (_qdrant,), "e", exchanges=True),
    "recommend --all parquet": Writer(
        RUN,
        partial(everyone, "r", "all.parquet"),
        _file("all.parquet"),
        (partial(everyone, "r", "all.parquet"),),
        "all.parquet",
    ),
    "recommend --all csv": Writer(
        (*TWO_RUNS, partial(everyone, "r", "all.csv")),
        partial(everyone, "r2", "all.csv"),
        _file("all.csv"),
        (partial(everyone, "r2", "all.csv"),),
        "all.csv",
    ),
    "push": Writer(PUSHED, _push, on_hub, (_push,), "ds", hub=True),
    "pull --overwrite": Writer(
        PUSHED, partial(pull, "ds"), _dataset, (partial(pull, "ds"),), "ds", exchanges=True, hub=True
    ),
    "keys add": Writer((_key_1,), _key_2, keys, (partial(refused, "second", _key_2),), "keys.json", tidy=_key_3),
    "keys revoke": Writer(
        (_key_1, _key_2), _revoke, keys, (partial(refused, "first", _revoke),), "keys.json", tidy=_key_3
    ),
    "pointer file": Writer(
        (*TWO_RUNS, point_by_file), partial(point, "r2"), pointed, (partial(point, "r2"),), "current"
    ),
    "pointer link": Writer(
        (*TWO_RUNS, point_by_link), partial(point, "r2"), pointed, (partial(point, "r2"),), "current"
    ),
}


@dataclass(frozen=True)
class Alternating:
    """Two versions that replace each other, again and again.

    Attributes:
        start: steps that make what is there before.
        steps: each one writes its version.
        look: what a reader finds.
        exchanges: whether it replaces a folder as a whole.
    """

    start: tuple[Step, ...]
    steps: tuple[Step, Step]
    look: Callable[[], Any]
    exchanges: bool = False


ALTERNATING: dict[str, Alternating] = {
    "save": Alternating((*TWO_RUNS, _copy_run), (partial(save, "r", "r3"), partial(save, "r2", "r3")), _loaded("r3")),
    "record_metrics": Alternating(ITEM, (partial(record, 0.25), partial(record, 0.5)), _loaded("r")),
    "prepare --overwrite": Alternating(DATA, (_fewer, partial(prepared, "--overwrite")), _dataset, True),
    "features --import --overwrite": Alternating((*FEATURES, _more), (_other, partial(_more, "--overwrite")), _dataset),
    "keys": Alternating((_key_1,), (_key_2, partial(key, "revoke", "second")), keys),
}

# all steps of a start, so that a number is enough to name one in another process
STEPS: list[Step] = list(
    dict.fromkeys(step for one in (*WRITERS.values(), *ALTERNATING.values()) for step in one.start)
)
