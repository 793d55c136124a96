"""`lirdrec demo`: train on real films, evaluate, recommend with explanations, and add a new film."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.cli.config import configuration
from lirdrec.cli.evaluate import evaluate_with_baseline
from lirdrec.cli.output import HEADLINE, console, metrics_table, print_line, settings, table
from lirdrec.cli.shared_options import SeedOption, SetOption, option
from lirdrec.errors import ConfigError, DataError
from lirdrec.wording import pluralize

if TYPE_CHECKING:
    import polars as pl

    from lirdrec.data.dataset import Dataset
    from lirdrec.recommender.recommender import Recommender

# settings for the 643 users of the sample: with larger steps the same validation recall is reached in a minute
TRAINING = ("learning_rate=2e-3", "batch_size=4096", "epochs=50", "patience=8")
NEW_FILM = 3114  # Toy Story 2: Toy Story is in the catalog, so a reader can judge the answer
SHOWN_LIKED = 6
SHOWN_USERS = 6
FIRST = 50  # number of users with the best ranks of the new film, who are compared with random users
TOP = 20  # length of the lists in which the new film gets a place
N_LIKES = 5  # likes of the new film


def demo(
    run: Path = option(Path("runs/demo"), "The run folder to write; an existing run there is replaced."),
    data: Path | None = option(None, "A prepared dataset (default: the films of the repository)."),
    assignments: SetOption = None,
    seed: SeedOption = None,
) -> None:
    """Train on real films, show test metrics and recommendations with explanations, and add a new film.

    \b
      lirdrec demo
    """
    from lirdrec.data.cold_start import hold_out_items
    from lirdrec.data.dataset import Dataset

    start = time.monotonic()
    configs = configuration("lirdrec", None, None, [*TRAINING, *(assignments or [])], seed)
    complete = Dataset.load(data or _sample())
    film = _new_film(complete)
    films, described, features = hold_out_items(complete, film)
    films = _prepared(films, complete, Path(f"{run}-films"))
    title = described["title"][0] if "title" in described.columns else str(film)
    recommender = _train(films, configs, run, title)

    _heading("3", "Recommendations with explanations")
    console().print(
        "The score is the exact sum of the branches' parts. [green]✓[/green]: the user liked the film; "
        "this was hidden from training.\n"
    )
    for user in _three_users(films):
        _show_user(recommender, films, user)

    _heading("4", f"A film that is new: {title}")
    recommender.add_items(described, {**features, **_text_features(films, described)})
    _show_new(recommender, complete, film, title)
    _show_places(recommender, complete, film)

    recommender.save(run, overwrite=True)
    _heading("5", "Files, and how to continue")
    _show_files(run, films.users.series[0], film)
    print_line(f"\nAll of this took {time.monotonic() - start:.0f} s.")


def _prepared(films: Dataset, complete: Dataset, folder: Path) -> Dataset:
    """Save the films as a prepared dataset that records its encoders (a server then encodes new films), and load it."""
    from lirdrec.data.dataset import Dataset
    from lirdrec.features.dataset_writer import copy_encoders

    films.save(folder, overwrite=True)
    assert complete.folder is not None
    copy_encoders(complete.folder, folder)
    return Dataset.load(folder)


def _text_features(films: Dataset, described: pl.DataFrame) -> dict[str, Any]:
    """Return the features of the new film's title, genres and tags, encoded now; {} if the encoder is not installed."""
    from lirdrec.features.new_items import encode_texts

    assert films.folder is not None
    try:
        features = encode_texts(films.folder, described)
    except ConfigError as error:
        print_line(
            f"The features of the new film are taken from the data, since no encoder can make them: {error}", "yellow"
        )
        return {}
    if features:
        columns = ", ".join(f"{name}: {value}" for name, value in described.drop("item").row(0, named=True).items())
        print_line(f"Its text is encoded now ({columns}); the features of its poster are taken from the data.")
    return dict(features)


def _train(films: Dataset, configs: tuple[Any, Any], run: Path, title: str) -> Recommender:
    """Train on the films, print the metrics on their test interactions, and return the recommender."""
    from rich.markup import escape

    from lirdrec.recommender.fit import fit

    _heading("1", "Train")
    console().print(
        f"{films.n_users:,} users, {films.n_items:,} films that they rated 4 stars or more; "
        f"{', '.join(f'{name} vectors for {int(m.present.sum()):,}' for name, m in films.features.items())}.\n"
        f"[b]{escape(title)}[/b] is held out completely: it comes back in part 4 as a new film.\n"
    )
    recommender = fit(films, *configs, run=run, overwrite=True, progress=not settings.quiet)
    _heading("2", "Test: ranking the films that were hidden from training")
    results, _ = evaluate_with_baseline(recommender, films)
    recommender.record_metrics("test", results["lirdrec"])
    results = {"LIRDRec": results.pop("lirdrec")} | results
    console().print(metrics_table(results, None, HEADLINE))
    return recommender


def _show_files(run: Path, user: Any, film: Any) -> None:
    print_line(f"Run folder        {run} (with the new film)")
    if (run / "curves.png").is_file():
        print_line(f"Training curves   {run / 'curves.png'}")
    print_line(f"Ask it yourself   lirdrec recommend {run} --user {user}")
    print_line(f"                  lirdrec similar {run} --item {film}")
    print_line(f"                  lirdrec explain {run} --user {user} --item {film}")
    print_line(f"All lists         lirdrec recommend {run} --all --new-items share=0.1 --output lists.csv")
    print_line(f"Web page          lirdrec serve {run} --ui --encoders")
    print_line("                  and open http://127.0.0.1:8000/ui/ in a browser; under 'Add an item' a film of yours")
    print_line("                  needs a title, genres, tags and an image")


def _sample() -> Path:
    """Return the folder `sample/movielens` with the films, in a clone of the repository or in the current folder.

    Raises:
        DataError: there is no such folder.
    """
    import lirdrec

    for root in (*Path(lirdrec.__file__).resolve().parents, Path.cwd()):
        folder = root / "sample" / "movielens"
        if (folder / "manifest.json").is_file():
            return folder
    raise DataError(
        "the films of the demo are in the repository, not in the installed package: "
        "run the demo in a clone of the repository, or give the folder of a prepared dataset with --data"
    )


def _new_film(data: Dataset) -> Any:
    """Return the id of Toy Story 2, or in another dataset the id of the item with the most training users."""
    import numpy as np

    if NEW_FILM in data.items:
        return NEW_FILM
    return data.items.series[int(np.bincount(data.train.items, minlength=data.n_items).argmax())]


def _three_users(data: Dataset) -> list[Any]:
    """Return the ids of at most three users with few, some and many training films, always the same users.

    They have two or more test films and 12 or more training films, if there are such users.
    """
    import numpy as np

    degrees = np.bincount(data.train.users, minlength=data.n_users)
    tested = np.flatnonzero((np.bincount(data.test.users, minlength=data.n_users) >= 2) & (degrees >= 12))
    if not len(tested):
        tested = np.unique(data.train.users)
    order = tested[np.argsort(degrees[tested], kind="stable")]
    chosen = [order[int(share * (len(order) - 1))] for share in (0.2, 0.5, 0.8)]
    return [data.users.series[int(row)] for row in dict.fromkeys(chosen)]


def _show_user(recommender: Recommender, data: Dataset, user: Any) -> None:
    from rich.text import Text

    out = console()
    hidden = _hidden(data, user)
    liked = recommender.liked(user)
    typical = recommender.score([(user, item) for item in liked]).sort("score", descending=True, maintain_order=True)
    names = [_title(recommender, item) for item in typical["item"].head(SHOWN_LIKED)]
    more = f" … and {len(liked) - len(names)} more" if len(liked) > len(names) else ""
    out.print(Text.assemble((f"User {user}", "bold"), " liked ", (" · ".join(names), "italic"), more))
    rows = []
    film_width, near_width = _title_widths()
    reasons = [recommender.explain(user, item, n_liked=1) for item in recommender.recommend(user, 10)["item"]]
    # without the parts of the score that only new films have
    branches = [name for name in recommender.scorer.part_names if any(reason.parts[name] != 0 for reason in reasons)]
    for rank, reason in enumerate(reasons, start=1):
        mark = Text("✓" if reason.item in hidden else "", style="green")
        near = str(reason.liked[0].title or reason.liked[0].item) if reason.liked else ""
        parts = [f"{reason.parts[name]:.2f}" for name in branches]
        film = _short(str(reason.title or reason.item), film_width)
        because = [_short(near, near_width)] if near_width else []
        rows.append([rank, mark, film, f"{reason.score:.2f}", *parts, *because])
    columns = ["", " ", "film", "score", *branches, *(["most similar liked film"] if near_width else [])]
    out.print(table(None, columns, rows, right=("", "score", *branches)))


def _show_new(recommender: Recommender, complete: Dataset, film: Any, title: str) -> None:
    out = console()
    print_line("Added by its features alone, without retraining and without interactions.\nThe most similar films:")
    near = recommender.similar_items(film, k=5)
    rows = [[r["rank"], _title(recommender, r["neighbor"]), f"{r['score']:.3f}"] for r in near.iter_rows(named=True)]
    out.print(table(None, ["", "film", "similarity"], rows, right=("", "similarity")))
    ranks, fans = _ranks(recommender, film), _fans(complete, film)
    rows = []
    for r in ranks.head(SHOWN_USERS).iter_rows(named=True):
        liked = recommender.explain(r["user"], film, n_liked=1).liked
        near_title = _short(str(liked[0].title or liked[0].item), 40) if liked else ""
        rows.append([f"user {r['user']}", r["rank"], "✓" if r["user"] in fans else "", near_title])
    print_line("The users with the best rank of the film, among all films that they have not seen:")
    out.print(table(None, ["", "rank", "liked it", "most similar liked film"], rows, right=("rank",)))
    _compare_with_random(ranks, fans, title)


def _show_places(recommender: Recommender, complete: Dataset, film: Any) -> None:
    """Print how many lists of 20 films contain the new film, and its median rank for the users who liked it.

    This is done without an offset (a number that is added to its scores), with the offset, and after a few likes.
    """
    from lirdrec.recommender.recommender import Recommender

    fans = _fans(complete, film)
    likers = sorted(fans, key=str)[:: max(1, len(fans) // N_LIKES)][:N_LIKES]
    liked = Recommender.from_state(recommender.state)  # a copy, so that the run itself does not get the likes
    liked.update([(user, film) for user in likers])
    rows, medians = [], []
    for name, model, policy in (
        ("without an offset", recommender, "none"),
        ("calibrated offset", recommender, "calibrated"),
        (f"after {pluralize(len(likers), 'like')}", liked, "calibrated"),
    ):
        ranks = [r for r in _ranks(model, film, policy).iter_rows(named=True) if r["user"] not in likers]
        of_fans = sorted(r["rank"] for r in ranks if r["user"] in fans)
        in_list = sum(r["rank"] <= TOP for r in ranks)
        medians.append(of_fans[len(of_fans) // 2] if of_fans else 0)
        rows.append([name, in_list, sum(rank <= TOP for rank in of_fans), medians[-1] or ""])
    right = [f"lists of {TOP} with it", "of these, of users who liked it", "their median rank of it"]
    print_line(
        f"\nIts place among all films, for {pluralize(len(ranks), 'user')}, of whom {len(of_fans)} liked it"
        + (f" ({len(likers)} {'other gives' if len(likers) == 1 else 'others give'} the likes):" if likers else ":")
    )
    console().print(table(None, ["", *right], rows, right=right))
    if medians[2] > medians[1]:
        print_line(
            "Likes move a new item towards the users who give them."
            f" {len(likers)} of {len(fans)} do not represent all\nwho like this film: it moved away from the others."
            " docs/new_items.md has the mean over many items."
        )


def _ranks(recommender: Recommender, film: Any, policy: str = "calibrated") -> pl.DataFrame:
    """Return a row for each user with the rank of the film among the films that the user has not seen, best first."""
    import polars as pl

    ranking = recommender.recommend(None, recommender.n_items, new_items=policy)
    return ranking.filter(pl.col("item") == film).sort("rank", "user", maintain_order=True)


def _compare_with_random(ranks: pl.DataFrame, fans: set[Any], title: str) -> None:
    """Print how many of the `FIRST` users with the best ranks liked the film, and how many of random users would."""
    first = ranks["user"].head(FIRST).to_list()
    hits, expected = sum(user in fans for user in first), len(first) * len(fans) / ranks.height
    print_line(
        f"{len(fans)} of the {ranks.height} users actually liked {title};\n"
        f"{hits} of the first {len(first)} did, against {expected:.0f} expected at random."
    )


def _hidden(data: Dataset, user: Any) -> set[Any]:
    """Return the validation and test items of a user."""
    import numpy as np

    row = data.users.row(user)
    items = np.concatenate([split.items[split.users == row] for split in (data.valid, data.test)])
    return set(data.items.series.gather(items).to_list())


def _fans(data: Dataset, film: Any) -> set[Any]:
    """Return the users who have an interaction with the film, in any split."""
    import numpy as np

    row = data.items.row(film)
    users = np.concatenate([split.users[split.items == row] for split in (data.train, data.valid, data.test)])
    return set(data.users.series.gather(users).to_list())


def _title(recommender: Recommender, item: Any) -> str:
    return recommender.title(recommender.items.row(item)) or str(item)


def _title_widths() -> tuple[int, int]:
    """Return two column widths in characters: film, and most similar liked film (0: left out in a narrow window)."""
    room = min(console().width, 130) - 48  # the numbers and the gaps between columns
    return (room, 0) if room < 50 else (room - room * 9 // 20, room * 9 // 20)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def _heading(number: str, text: str) -> None:
    from rich.rule import Rule
    from rich.text import Text

    console().print()
    console().print(Rule(Text(f"{number}  {text}", style="bold"), align="left"))
