"""`lirdrec demo`: real films, from training to reasons, in a few minutes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lirdrec.cli.output import console, metrics_table, settings, table, whole_number
from lirdrec.cli.train import SetOption, configuration, evaluate_with_baseline, headline_metrics
from lirdrec.errors import DataError

if TYPE_CHECKING:
    import polars as pl

    from lirdrec.data.dataset import Dataset
    from lirdrec.recommender.recommender import Recommender

# 643 people are few: a step is cheap, so larger ones reach the same validation recall in a minute
TRAINING = ("learning_rate=2e-3", "batch_size=4096", "epochs=50", "patience=8")
NEW_FILM = 3114  # Toy Story 2: its predecessor is in the catalogue, so a reader can judge the answer
SHOWN_LIKED = 6
SHOWN_USERS = 6
FIRST = 50  # people to whom a shop would show the new film first


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(demo)


def demo(
    run: Annotated[Path, typer.Option("--run", help="The run folder to write; an earlier run in it goes.")] = Path(
        "runs/demo"
    ),
    data: Annotated[
        Path | None, typer.Option("--data", help="A prepared dataset (default: the films of the repository).")
    ] = None,
    assignments: SetOption = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Another start of the training.", callback=whole_number())
    ] = None,
) -> None:
    """Train on real films, show test figures, recommendations with reasons, and add a film that is new.

    \b
      lirdrec demo
    """
    from lirdrec.data.dataset import Dataset
    from lirdrec.data.holdout import hold_out_items
    from lirdrec.recommender.fit import fit

    out, began = console(), time.monotonic()
    model, training = configuration("lirdrec", None, None, [*TRAINING, *(assignments or [])], seed)
    whole = Dataset.load(data or _sample())
    film = _new_film(whole)
    films, described, features = hold_out_items(whole, film)
    title = described["title"][0] if "title" in described.columns else str(film)
    _heading("1", "Train")
    out.print(
        f"{films.n_users:,} people, {films.n_items:,} films that they rated 4 stars or more; "
        f"{', '.join(f'{name} vectors for {int(m.present.sum()):,}' for name, m in films.features.items())}.\n"
        f"[b]{_safe(title)}[/b] is kept out altogether: it comes back in part 4 as a new film.\n"
    )
    recommender = fit(films, model, training, run=run, overwrite=True, progress=not settings.quiet)

    _heading("2", "Test: ranking the films that were hidden from training")
    out.print(metrics_table(headline_metrics(_figures(recommender, films))))

    _heading("3", "Recommendations, and why")
    out.print(
        "The score is the exact sum of the branches' parts. [green]✓[/green]: the person did like it; "
        "the data hid that from training.\n"
    )
    for user in _three_users(films):
        _show_user(recommender, films, user)

    _heading("4", f"A film that is new: {title}")
    recommender.add_items(described, features)
    _show_new(recommender, whole, film, title)

    recommender.save(run, overwrite=True)
    _heading("5", "What is left on disk")
    user = films.users.series[0]
    curves = run / "curves.png"
    out.print(f"Run folder        {run} (with the new film)", markup=False)
    if curves.is_file():
        out.print(f"Training curves   {curves}", markup=False)
    out.print(
        f"Ask it yourself   lirdrec recommend {run} --user {user}\n"
        f"                  lirdrec similar {run} --item {film}\n"
        f"                  lirdrec explain {run} --user {user} --item {film}\n"
        f"Look at it        lirdrec serve {run} --ui\n"
        "                  and open http://127.0.0.1:8000/ui/ in a browser\n"
        f"\nAll of this took {time.monotonic() - began:.0f} s.",
        markup=False,
    )


def _sample() -> Path:
    """The films: beside the package in a checkout, or below the current folder."""
    import lirdrec

    for root in (*Path(lirdrec.__file__).resolve().parents, Path.cwd()):
        folder = root / "sample" / "movielens"
        if (folder / "manifest.json").is_file():
            return folder
    raise DataError(
        "the films of the demo come with the repository, not with the installed package: "
        "run it in a clone of the repository, or name a prepared dataset with --data"
    )


def _new_film(data: Dataset) -> Any:
    """Toy Story 2, or in another dataset the item with the most training users."""
    import numpy as np

    if NEW_FILM in data.items:
        return NEW_FILM
    return data.items.series[int(np.bincount(data.train.items, minlength=data.n_items).argmax())]


def _figures(recommender: Recommender, data: Dataset) -> dict[str, dict[str, float]]:
    results = evaluate_with_baseline(recommender, data)
    recommender.record_metrics("test", results["lirdrec"])
    return {{"lirdrec": "LIRDRec"}.get(who, who): values for who, values in results.items()}


def _three_users(data: Dataset) -> list[Any]:
    """A quiet, a middling and an eager user, among those with test films: always the same three."""
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
    out.print(Text.assemble((f"Person {user}", "bold"), " liked ", (" · ".join(names), "italic"), more))
    rows, branches = [], []
    film_width, near_width = _title_widths()
    for row in recommender.recommend(user, 10).iter_rows(named=True):
        reason = recommender.explain(user, row["item"], n_liked=1)
        branches = list(reason.parts)
        mark = Text("✓" if row["item"] in hidden else "", style="green")
        near = str(reason.liked[0].title or reason.liked[0].item) if reason.liked else ""
        parts = [f"{part:.2f}" for part in reason.parts.values()]
        name = _short(str(reason.title or reason.item), film_width)
        because = [_short(near, near_width)] if near_width else []
        rows.append([row["rank"], mark, name, f"{reason.score:.2f}", *parts, *because])
    columns = ["", " ", "film", "score", *branches, *(["nearest of what they liked"] if near_width else [])]
    out.print(table(None, columns, rows, right=("", "score", *branches)))


def _show_new(recommender: Recommender, whole: Dataset, film: Any, title: str) -> None:
    out = console()
    out.print(
        "Added from its features alone, without retraining; nobody's likes of it were used.\n"
        "The films nearest to it now:",
        markup=False,
    )
    near = recommender.similar_items(film, k=5)
    rows = [[r["rank"], _title(recommender, r["neighbour"]), f"{r['score']:.3f}"] for r in near.iter_rows(named=True)]
    out.print(table(None, ["", "film", "similarity"], rows, right=("", "similarity")))
    places, fans = _places(recommender, film), _fans(whole, film)
    rows = []
    for r in places.head(SHOWN_USERS).iter_rows(named=True):
        liked = recommender.explain(r["user"], film, n_liked=1).liked
        near_title = _short(str(liked[0].title or liked[0].item), 40) if liked else ""
        rows.append([f"person {r['user']}", r["rank"], "✓" if r["user"] in fans else "", near_title])
    out.print("Who would get it first, by its place among all films that the person has not seen:", markup=False)
    out.print(table(None, ["", "place", "liked it", "nearest of what they liked"], rows, right=("place",)))
    _judge(places, fans, title)


def _places(recommender: Recommender, film: Any) -> pl.DataFrame:
    """The film's place in everyone's list of unseen films, best place first."""
    import polars as pl

    ranking = recommender.recommend(None, recommender.n_items)
    return ranking.filter(pl.col("item") == film).sort("rank", "user", maintain_order=True)


def _judge(places: pl.DataFrame, fans: set[Any], title: str) -> None:
    """How many of the people chosen first really liked the film, against people chosen by lot."""
    first = places["user"].head(FIRST).to_list()
    hits, by_lot = sum(user in fans for user in first), len(first) * len(fans) / places.height
    console().print(
        f"In truth {len(fans)} of {places.height} people liked {title}. Of the first {len(first)} people in this order "
        f"{hits} did;\nof {len(first)} people chosen by lot it would be {by_lot:.0f}.",
        markup=False,
    )


def _hidden(data: Dataset, user: Any) -> set[Any]:
    """What the user liked in valid and test."""
    import numpy as np

    row = data.users.row(user)
    items = np.concatenate([pairs.items[pairs.users == row] for pairs in (data.valid, data.test)])
    return set(data.items.series.gather(items).to_list())


def _fans(data: Dataset, film: Any) -> set[Any]:
    """All who liked the film, in whatever split."""
    import numpy as np

    row = data.items.row(film)
    users = np.concatenate([pairs.users[pairs.items == row] for pairs in (data.train, data.valid, data.test)])
    return set(data.users.series.gather(users).to_list())


def _title(recommender: Recommender, item: Any) -> str:
    return recommender.title(recommender.items.row(item)) or str(item)


def _title_widths() -> tuple[int, int]:
    """Room for the film and for the liked film nearest to it; the latter is left out of a narrow window (0)."""
    room = min(console().width, 130) - 48  # the numbers and the gaps between columns
    return (room, 0) if room < 50 else (room - room * 9 // 20, room * 9 // 20)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def _heading(number: str, text: str) -> None:
    from rich.rule import Rule
    from rich.text import Text

    console().print()
    console().print(Rule(Text(f"{number}  {text}", style="bold"), align="left"))


def _safe(text: str) -> str:
    from rich.markup import escape

    return escape(text)
