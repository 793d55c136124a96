"""`lirdrec recommend | similar | explain | add-items | slim`: questions to a run folder."""

from __future__ import annotations

import json as json_module
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lirdrec.cli.output import (
    CsvSafeOption,
    JsonOption,
    OutputOption,
    add_titles,
    check_output,
    console,
    print_json,
    settings,
    table,
    whole_number,
    write_frame,
    write_json,
)
from lirdrec.cli.prepare import named_file
from lirdrec.errors import ConfigError, UnknownIdError
from lirdrec.files.checks import read_text

if TYPE_CHECKING:
    import polars as pl

    from lirdrec.data.ids import IdMap
    from lirdrec.ranking.filters import Filter
    from lirdrec.recommender.explanation import Explanation
    from lirdrec.recommender.recommender import Recommender

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]
KOption = Annotated[
    int | None, typer.Option("-k", "--k", help="How many items (default: 10).", callback=whole_number())
]
WHOLE = re.compile(r"\s*([+-]?[0-9]{1,40})(\.0*)?\s*")  # 1005.0 as spreadsheets write 1005; longer ones are no ids
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda or mps.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(recommend)
    app.command()(similar)
    app.command()(explain)
    app.command("add-items")(add_items)
    app.command()(slim)


def recommend(
    run: RunArgument,
    user: Annotated[
        list[str] | None, typer.Option("--user", "-u", metavar="USER", help="User id; may be repeated.")
    ] = None,
    all_users: Annotated[bool, typer.Option("--all", help="Every user.")] = False,
    history: Annotated[
        list[str] | None,
        typer.Option("--history", metavar="IDS", help="What a new user liked: ID,ID,… or @FILE; may be repeated."),
    ] = None,
    k: KOption = None,
    candidates: Annotated[
        list[str] | None,
        typer.Option("--candidates", metavar="IDS", help="Choose among these items only; written as for --history."),
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", help='Choose among items with such columns: \'{"price": {"lt": 30}}\'.')
    ] = None,
    seen: Annotated[bool, typer.Option("--seen", help="Recommend items that the user has seen, too.")] = False,
    unknown: Annotated[str | None, typer.Option("--unknown", help="raise, skip or popular, for unknown users.")] = None,
    device: DeviceOption = "cpu",
    resume: Annotated[
        bool, typer.Option("--resume/--restart", help="--all into a file: go on with unfinished work, or forget it.")
    ] = True,
    json: JsonOption = False,
    output: OutputOption = None,
    csv_safe: CsvSafeOption = False,
) -> None:
    """Recommend items to known users, or to a new one by what they liked.

    \b
      lirdrec recommend runs/demo --user 15 -k 5
      lirdrec recommend runs/demo --history 1,50,260
      lirdrec recommend runs/demo --user 15 --where '{"genres": {"contains": "Comedy"}}'
      lirdrec recommend runs/demo --all -k 50 --output all.parquet

    An id that has commas in it is taken whole where the run knows it; @FILE holds an id in each line.
    For every user, a file is written as it comes; stopped at any moment, the same command goes on where it was.
    """
    check_output(output, csv_safe)
    if sum((bool(user), all_users, bool(history))) != 1:
        raise ConfigError("say for whom: one of --user ID, --all and --history ITEM,ITEM,…")
    _check_questions(k, unknown)
    conditions = None if where is None else _conditions(where)
    recommender = _load(run, device)
    options: dict[str, Any] = {} if k is None else {"k": k}
    options["exclude_seen"] = not seen
    if candidates or conditions is not None:
        options["candidates"] = _candidates(recommender, candidates, conditions, where)
    if all_users and output is not None:
        return _everyone(recommender, output, resume, options | {"csv_safe": csv_safe})
    liked = _named(history or [], recommender.items)
    if history:
        frame = recommender.recommend_for_history(ids(liked, recommender.items), **options)
    else:
        if unknown is not None:
            options["unknown"] = unknown
        frame = recommender.recommend(None if all_users else ids(user or [], recommender.users), **options)
    if output is not None:
        return write_frame(frame, output, csv_safe)
    frame = add_titles(frame, recommender)
    if json:
        return print_json(frame.to_dicts())
    for (owner,), part in frame.group_by(frame.columns[0], maintain_order=True):
        who = "For someone who liked " + ", ".join(liked) if history else f"For user {owner}"
        console().print(_ranking(part, who))


def similar(
    run: RunArgument,
    item: Annotated[
        list[str] | None, typer.Option("--item", "-i", metavar="ITEM", help="Item id; may be repeated.")
    ] = None,
    user: Annotated[
        list[str] | None, typer.Option("--user", "-u", metavar="USER", help="User id, for similar users.")
    ] = None,
    k: KOption = None,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
    output: OutputOption = None,
    csv_safe: CsvSafeOption = False,
) -> None:
    """The items most similar to an item, or the users most similar to a user.

    \b
      lirdrec similar runs/demo --item 260
    """
    check_output(output, csv_safe)
    if bool(item) == bool(user):
        raise ConfigError("say what is to be similar: either --item ID or --user ID")
    _check_questions(k)
    recommender = _load(run, device)
    options: dict[str, Any] = {} if k is None else {"k": k}
    if item:
        frame = recommender.similar_items(ids(item, recommender.items), **options)
    else:
        frame = recommender.similar_users(ids(user or [], recommender.users), **options)
    if output is not None:
        return write_frame(frame, output, csv_safe)
    if item:
        frame = add_titles(frame, recommender, "neighbour")
    if json:
        return print_json(frame.to_dicts())
    what = "item" if item else "user"
    for (owner,), part in frame.group_by(what, maintain_order=True):
        title = recommender.title(int(recommender.items.rows([owner])[0])) if item else None
        console().print(_ranking(part, f"Similar to {what} {owner}" + (f", {title}" if title else "")))


def explain(
    run: RunArgument,
    user: Annotated[str, typer.Option("--user", "-u", help="User id.", show_default=False)],
    item: Annotated[str, typer.Option("--item", "-i", help="Item id.", show_default=False)],
    liked: Annotated[
        int | None, typer.Option("--liked", help="How many liked items to show (default: 5).", callback=whole_number())
    ] = None,
    json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """Why an item suits a user: the parts of its score and the liked items nearest to it.

    \b
      lirdrec explain runs/demo --user 15 --item 260
    """
    check_output(output)
    if output is not None and output.suffix.lower() != ".json":
        raise ConfigError(f"--output {output}: an explanation is written as .json")
    recommender = _load(run, "cpu")
    user_id, item_id = ids([user], recommender.users)[0], ids([item], recommender.items)[0]
    reason = recommender.explain(user_id, item_id, **({} if liked is None else {"n_liked": liked}))
    if output is not None:
        return write_json(reason.to_dict(), output)
    if json:
        return print_json(reason.to_dict())
    _show_reason(reason)


def _show_reason(reason: Explanation) -> None:
    """Print the parts of a score: of each branch, or of each liked item where the score is a sum over these."""
    title = f"{reason.title or 'Item ' + str(reason.item)} for user {reason.user}"
    score = f"{reason.score:+.4f}"
    titled = any(one.title for one in reason.liked)
    names = ["item", *(["title"] if titled else [])]
    known = [[one.item, *([one.title] if titled else [])] for one in reason.liked]
    blank = [""] * (len(names) - 1)
    if reason.liked and reason.liked[0].part is not None:
        parts = [one.part or 0.0 for one in reason.liked]
        rows = [[*row, f"{part:+.4f}"] for row, part in zip(known, parts, strict=True)]
        rows += [["all others", *blank, f"{reason.score - sum(parts):+.4f}"], ["score", *blank, score]]
        return console().print(table(title, ["liked item", *names[1:], "adds"], rows, right=["adds"]))
    weights = reason.weights or {}
    rows = [
        [name, f"{weights[name]:.3f}" if name in weights else "", f"{part:+.4f}"] for name, part in reason.parts.items()
    ]
    if len(rows) == 1:
        console().print(f"{title}: score {score}", markup=False)
    else:
        rows.append(["score", "", score])
        console().print(table(title, ["branch", "weight", "part"], rows, right=("weight", "part")))
    if reason.liked:
        near = [[*row, f"{one.similarity:.3f}"] for row, one in zip(known, reason.liked, strict=True)]
        console().print(table("Nearest of what they liked", [*names, "similarity"], near, right=["similarity"]))


def add_items(
    run: RunArgument,
    items: Annotated[Path, typer.Option("--items", help="Table of the new items (CSV, Parquet, JSON …).")],
    features: Annotated[
        list[str] | None,
        typer.Option("--features", metavar="NAME=FILE", help="A row per new item, or with ids; may be repeated."),
    ] = None,
    item: Annotated[str, typer.Option("--item", help="Column of the item ids.")] = "item",
    separator: Annotated[
        str | None, typer.Option("--separator", help="Between values: ';', tab, '::' … Found by itself by default.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option("--encoding", help="Of a text file that is not UTF-8: cp1252, latin-1, gb18030 …")
    ] = None,
    save_as: Annotated[Path | None, typer.Option("--save-as", help="A new run folder; else RUN is updated.")] = None,
) -> None:
    """Add items to a trained run, without retraining; they are ranked from now on.

    \b
      lirdrec add-items runs/demo --items new.csv --features text=new_text.npy

    Until somebody takes it, a new item ranks well among new items (recommend --candidates), and rarely high among all.
    """
    from contextlib import nullcontext

    from lirdrec.data.ids import count
    from lirdrec.recommender.run_folder import is_run, run_lock

    # from reading the run to writing it, so that no item is lost that another process adds meanwhile
    with run_lock(run) if save_as is None and is_run(run) else nullcontext():
        recommender = _load(run, "cpu")
        layout = {"separator": separator, "encoding": encoding}
        frame = _read_items(items, item, recommender.items, recommender.item_table, layout)
        recommender.add_items(frame, dict(named_file(one) for one in features or []))
        target = recommender.save(save_as or run, overwrite=save_as is None)
    console().print(f"{count(frame.height, 'item')} added; {target} now has {recommender.n_items:,}", markup=False)


def slim(
    run: RunArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.", show_default=False)],
) -> None:
    """Keep vectors and ids only: a small run that recommends and finds similar items, and nothing else.

    \b
      lirdrec slim runs/demo --output runs/demo-slim
    """
    _load(run, "cpu").slim(output)
    console().print(
        f"{output} holds vectors and ids only: it cannot leave out seen items, add items, serve new users or explain",
        markup=False,
    )


def ids(texts: list[str], known: IdMap) -> list[Any]:
    """Ids as the run knows them: text from the command line becomes integers where the run's ids are integers.

    Raises:
        UnknownIdError: a text that is no integer where the ids are integers.
    """
    if not known.is_integer:
        return list(texts)
    found = []
    for text in texts:
        if (whole := WHOLE.fullmatch(text)) is None:
            raise UnknownIdError(
                f"no {known.entity} has the id {text!r}: the {known.entity} ids are integers below 2^63"
            )
        found.append(int(whole[1]))
    return found


def _load(run: Path, device: str) -> Recommender:
    from lirdrec.recommender.recommender import Recommender

    recommender = Recommender.load(run, device=device)
    recommender.frames = "polars"
    return recommender


def _check_questions(k: int | None, unknown: str | None = None) -> None:
    """Refuse what no run could answer, before one is read."""
    from lirdrec.recommender.queries import check_k, check_unknown

    if k is not None:
        check_k(k)
    if unknown is not None:
        check_unknown(unknown)


def _conditions(where: str) -> Filter:
    """The conditions of --where."""
    from lirdrec.ranking.filters import Filter

    try:
        conditions = json_module.loads(where)
    except RecursionError:
        raise ConfigError("--where: is nested too deeply") from None
    except ValueError as error:
        raise ConfigError(f'--where: is not JSON ({error}); write it like \'{{"price": {{"lt": 30}}}}\'') from None
    if not isinstance(conditions, dict):
        raise ConfigError('--where: give columns and conditions, like \'{"price": {"lt": 30}}\'')
    return Filter.of(conditions)


def _candidates(
    recommender: Recommender, named: list[str] | None, conditions: Filter | None, where: str | None
) -> list[Any]:
    """Ids of the items to choose from: those that are named, those that the conditions hold for, or what is both."""
    known = recommender.items
    chosen = ids(_named(named, known), known) if named else known.series.to_list()
    if conditions is None:
        return chosen
    holds = conditions.mask(recommender.item_table).tolist()
    rows = known.rows(chosen).tolist()
    left = [one for one, row in zip(chosen, rows, strict=True) if row < 0 or holds[row]]  # unknown ids are told later
    if not left:
        raise ConfigError(f"--where {where}: there is no such item")
    return left


def _everyone(recommender: Recommender, output: Path, resume: bool, options: dict[str, Any]) -> None:
    from lirdrec.data.ids import count
    from lirdrec.recommender.batch import recommend_all

    show = not settings.quiet
    try:
        done = recommend_all(recommender, output, restart=not resume, progress=show, **options)
    except KeyboardInterrupt:
        console(errors=True).print("What was ranked is kept. Go on: the same command again", markup=False)
        raise
    console(errors=True).print(f"{count(done.rows, 'row')} written to {output}", markup=False)


def _named(texts: list[str], known: IdMap) -> list[str]:
    """Ids of an option that may be repeated: an id of the run, ids with commas between, or @FILE with one in each line.

    Raises:
        ConfigError: the file cannot be read.
    """
    found: list[str] = []
    for text in texts:
        if not known.is_integer and text in known:
            found.append(text)
        elif text.startswith("@"):
            lines = read_text(text[1:], ConfigError).removeprefix("\ufeff").splitlines()
            found += [line if line in known else line.strip() for line in lines if line.strip()]
        else:
            found += [one.strip() for one in text.split(",") if one.strip()]
    return found


def _ranking(part: pl.DataFrame, title: str) -> Any:
    found = part.columns[1]
    columns = ["rank", found, *(["title"] if "title" in part.columns else []), "score"]
    rows = [[row[c] if c != "score" else f"{row[c]:.4f}" for c in columns] for row in part.iter_rows(named=True)]
    return table(title, columns, rows, right=("rank", "score"))


def _read_items(
    path: Path, column: str, known: IdMap, table: pl.DataFrame, layout: dict[str, str | None]
) -> pl.DataFrame:
    import polars as pl

    from lirdrec.data.alignment import same_type
    from lirdrec.data.delimited import typed
    from lirdrec.data.raw_ids import read_ids
    from lirdrec.data.tables import read_table

    layout = {key: value for key, value in layout.items() if value is not None}
    read = read_table(path, **layout)  # a text file gives texts, which the types of the run's item table decide about
    read.need([column])
    where = f"{path}, column '{column}'"
    given = read_ids(read.frame[column], where, "item", read.place)
    kind = pl.Int64() if known.is_integer else pl.String()
    rest = read.frame.drop(column, *(["item"] if "item" in read.frame.columns else []))
    if read.decimal_comma:
        numbers = [name for name in rest.columns if name in table.columns and table.schema[name].is_float()]
        rest = rest.with_columns(pl.col(numbers).str.replace(",", ".", literal=True))
    if read.text:
        rest = rest.with_columns(typed(rest[name]) for name in rest.columns if name not in table.columns)
    return rest.with_columns(same_type(given, kind, where).alias("item"))
