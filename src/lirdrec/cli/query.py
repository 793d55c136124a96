"""`lirdrec recommend | similar | explain`: lists of items, similar items and explanations by a trained run."""

from __future__ import annotations

import json as json_module
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.cli.output import (
    add_titles,
    check_output,
    console,
    print_json,
    print_line,
    settings,
    table,
    write_frame,
    write_json,
)
from lirdrec.cli.shared_options import (
    CsvSafeOption,
    DeviceOption,
    JsonOption,
    KOption,
    OutputOption,
    RayOption,
    RunArgument,
    UsersOption,
    option,
)
from lirdrec.errors import ConfigError, UnknownIdError
from lirdrec.files.input_file_checks import read_text
from lirdrec.wording import pluralize

if TYPE_CHECKING:
    import polars as pl

    from lirdrec.data.ids import IdMap
    from lirdrec.ranking.item_filters import Filter
    from lirdrec.recommender.explanation import Explanation
    from lirdrec.recommender.new_item_encoder import NewItemPolicy
    from lirdrec.recommender.recommender import Recommender

INTEGER = re.compile(r"\s*([+-]?[0-9]{1,40})(\.0*)?\s*")  # also 1005.0, as spreadsheets write it; longer is no id
UNKNOWN_USERS = {"error": "raise", "skip": "skip", "popular": "popular"}  # option → argument of `recommend`


@dataclass(frozen=True)
class ForOptions:
    """Whom to recommend to"""

    user: UsersOption = None
    all_users: bool = option(False, "Every user.", "--all")
    history: list[str] | None = option(
        None, "Items of a new user, oldest first: ID,ID,… or @FILE; may be repeated.", metavar="IDS"
    )
    unknown_users: str | None = option(
        None, "What to do for users that the run does not know (default: error).", metavar="error|skip|popular"
    )

    def check(self) -> None:
        """Raise a ConfigError if --unknown-users is wrong, or not one of --user, --all and --history is given."""
        if sum((bool(self.user), self.all_users, bool(self.history))) != 1:
            raise ConfigError("give exactly one of --user ID, --all and --history ITEM,ITEM,…")
        if self.unknown_users not in (None, *UNKNOWN_USERS):
            raise ConfigError(f"--unknown-users {self.unknown_users}: choose {', '.join(UNKNOWN_USERS)}")


@dataclass(frozen=True)
class CandidateOptions:
    """Which items to recommend"""

    k: KOption = None
    candidates: list[str] | None = option(None, "Recommend these items only; written as for --history.", metavar="IDS")
    where: str | None = option(
        None, 'Recommend only items with such values: \'{"price": {"lt": 30}}\'.', "--filter", metavar="JSON"
    )
    include_seen: bool = option(False, "Also recommend items that the user has seen.")
    new_items: str | None = option(
        None,
        "How added items compete: calibrated (default), none, boost=0.05 (of the hits on known items) or share=0.2"
        " (of the places).",
        metavar="POLICY",
    )


def recommend(
    run: RunArgument,
    users: ForOptions,
    items: CandidateOptions,
    device: DeviceOption = "cpu",
    resume: bool = option(True, "--all into a file: continue unfinished work, or discard it.", "--resume/--no-resume"),
    ray: RayOption = None,
    json: JsonOption = False,
    output: OutputOption = None,
    csv_safe: CsvSafeOption = False,
) -> None:
    """Recommend items to users of the run, or to a new user who is described by a history of items.

    \b
      lirdrec recommend runs/demo --user 15 -k 5
      lirdrec recommend runs/demo --history 1,50,260
      lirdrec recommend runs/demo --user 15 --filter '{"genres": {"contains": "Comedy"}}'
      lirdrec recommend runs/demo --all -k 50 --output all.parquet
      lirdrec recommend runs/demo --all -k 50 --output all.parquet --new-items share=0.1
      lirdrec recommend runs/demo --all -k 50 --output all.parquet --ray-address auto

    An id with commas is read as one id if the run knows it. @FILE means the ids in a file, one per line.
    --all with --output writes the file in parts; if it is interrupted, the same command resumes.
    """
    from lirdrec.recommender.new_item_encoder import NewItemPolicy
    from lirdrec.recommender.query_arguments import check_k

    check_output(output, csv_safe)
    users.check()
    if ray is not None and not (users.all_users and output is not None):
        raise ConfigError("--ray-address: is only for lists of all users in a file (--all --output FILE); leave it out")
    check_k(10 if items.k is None else items.k)
    policy = None if items.new_items is None else NewItemPolicy.parse(items.new_items)
    conditions = None if items.where is None else _conditions(items.where)
    recommender = load_run(run, device)
    options: dict[str, Any] = {"exclude_seen": not items.include_seen} | ({} if items.k is None else {"k": items.k})
    options |= {} if policy is None else _competing(recommender, policy, str(items.new_items))
    if items.candidates or conditions is not None:
        options["candidates"] = _candidates(recommender, items, conditions)
    if users.all_users and output is not None:
        return _recommend_all(recommender, output, resume, options | {"csv_safe": csv_safe, "ray": ray})
    history = _named(users.history or [], recommender.items)
    if users.history:
        frame = recommender.recommend_for_history(ids(history, recommender.items), **options)
    else:
        if users.unknown_users is not None:
            options["unknown"] = UNKNOWN_USERS[users.unknown_users]
        frame = recommender.recommend(None if users.all_users else ids(users.user or [], recommender.users), **options)
    n_new = int((recommender.items.rows(frame["item"]) >= recommender.n_trained_items).sum())
    if output is not None:
        write_frame(frame, output, csv_safe)
        return _show_share(recommender, n_new, frame.height)
    frame = add_titles(frame, recommender)
    if json:
        print_json(frame.to_dicts())
        return _show_share(recommender, n_new, frame.height)
    for (user,), ranking in frame.group_by(frame.columns[0], maintain_order=True):
        title = "For a user of the items " + ", ".join(history) if users.history else f"For user {user}"
        console().print(_ranking(ranking, title))
    _show_share(recommender, n_new, frame.height, errors=False)


def similar(
    run: RunArgument,
    item: list[str] | None = option(None, "Item id; may be repeated.", "--item", "-i", metavar="ITEM"),
    user: UsersOption = None,
    k: int | None = option(None, "How many items or users (default: 10).", "-k", "--k"),
    device: DeviceOption = "cpu",
    json: JsonOption = False,
    output: OutputOption = None,
    csv_safe: CsvSafeOption = False,
) -> None:
    """Show the items most similar to an item, or the users most similar to a user.

    \b
      lirdrec similar runs/demo --item 260
    """
    from lirdrec.recommender.query_arguments import check_k

    check_output(output, csv_safe)
    if bool(item) == bool(user):
        raise ConfigError("give either --item ID, for similar items, or --user ID, for similar users")
    check_k(10 if k is None else k)
    recommender = load_run(run, device)
    entity, id_map = ("item", recommender.items) if item else ("user", recommender.users)
    most_similar = recommender.similar_items if item else recommender.similar_users
    frame = most_similar(ids(item or user or [], id_map), **({} if k is None else {"k": k}))
    if output is not None:
        return write_frame(frame, output, csv_safe)
    if item:
        frame = add_titles(frame, recommender, "neighbor")
    if json:
        return print_json(frame.to_dicts())
    for (query,), ranking in frame.group_by(entity, maintain_order=True):
        title = recommender.title(int(recommender.items.rows([query])[0])) if item else None
        console().print(_ranking(ranking, f"Similar to {entity} {query}" + (f", {title}" if title else "")))


def explain(
    run: RunArgument,
    user: str = option(..., "User id.", "--user", "-u", show_default=False),
    item: str = option(..., "Item id.", "--item", "-i", show_default=False),
    history_size: int | None = option(None, "How many items of the user to show (default: 5)."),
    json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """Explain the score of an item for a user: the parts of the score, and similar items that the user liked.

    \b
      lirdrec explain runs/demo --user 15 --item 260
    """
    check_output(output)
    if output is not None and output.suffix.lower() != ".json":
        raise ConfigError(f"--output {output}: an explanation is written as JSON; choose a name that ends in .json")
    recommender = load_run(run, "cpu")
    user_id, item_id = ids([user], recommender.users)[0], ids([item], recommender.items)[0]
    reason = recommender.explain(user_id, item_id, **({} if history_size is None else {"n_liked": history_size}))
    if output is not None:
        return write_json(reason.to_dict(), output)
    if json:
        return print_json(reason.to_dict())
    _show_reason(reason)


def _show_reason(reason: Explanation) -> None:
    """Print the parts of a score and the most similar liked items.

    The parts belong to branches (parts of the vectors, one for each feature source), or to liked items if the score is
    a sum over liked items.
    """
    from lirdrec.recommender.explanation import OF_NEW_ITEMS

    title = f"{reason.title or 'Item ' + str(reason.item)} for user {reason.user}"
    score = f"{reason.score:+.4f}"
    titled = any(liked.title for liked in reason.liked)
    names = ["item", *(["title"] if titled else [])]
    items = [[liked.item, *([liked.title] if titled else [])] for liked in reason.liked]
    parts = [liked.part for liked in reason.liked if liked.part is not None]
    if parts:
        blank = [""] * (len(names) - 1)
        rows = [[*item, f"{part:+.4f}"] for item, part in zip(items, parts, strict=True)]
        rows += [["all others", *blank, f"{reason.score - sum(parts):+.4f}"], ["score", *blank, score]]
        return console().print(table(title, ["liked item", *names[1:], "adds"], rows, right=["adds"]))
    shown = reason.shown_parts
    if len(shown) == 1:
        print_line(f"{title}: score {score}")
    else:
        weights = {name: f"{weight:.3f}" for name, weight in (reason.weights or {}).items()}
        rows = [[name, *([weights.get(name, "")] if weights else []), f"{part:+.4f}"] for name, part in shown.items()]
        columns = ["branch", *(["weight"] if weights else []), "part"]
        rows.append(["score", *([""] if weights else []), score])
        console().print(table(title, columns, rows, right=("weight", "part")))
        for name, meaning in OF_NEW_ITEMS.items():
            if name in shown:
                print_line(f"{name}: {meaning}")
    if reason.liked:
        if reason.liked[0].moved is None:
            heading, column, values = (
                "Most similar liked items",
                "similarity",
                [f"{a.similarity:.3f}" for a in reason.liked],
            )
        else:
            heading, column = "How much each liked item moved the score (these do not sum to it)", "moved"
            values = [f"{liked.moved:+.4f}" for liked in reason.liked]
        rows = [[*item, value] for item, value in zip(items, values, strict=True)]
        console().print(table(heading, [*names, column], rows, right=[column]))


def ids(texts: list[str], id_map: IdMap) -> list[Any]:
    """Convert texts of the command line to the type of the run's ids: integers or strings; unknown ids are kept.

    Raises:
        UnknownIdError: the run's ids are integers, and a text is not an integer.
    """
    if not id_map.is_integer:
        return list(texts)
    numbers, entity = [], id_map.entity
    for text in texts:
        if (match := INTEGER.fullmatch(text)) is None:
            raise UnknownIdError(f"no {entity} has the id {text!r}: the {entity} ids are integers below 2^63")
        numbers.append(int(match[1]))
    return numbers


def load_run(run: Path, device: str) -> Recommender:
    """Load the run of a command; raises a RunFolderError that names the folder if it is no run."""
    from lirdrec.recommender.recommender import Recommender

    recommender = Recommender.load(run, device=device)
    recommender.frames = "polars"
    return recommender


def _conditions(where: str) -> Filter:
    """Convert the JSON of --filter to a filter of items; raise a ConfigError for another form."""
    from lirdrec.ranking.item_filters import Filter

    try:
        conditions = json_module.loads(where)
    except RecursionError:
        raise ConfigError("--filter: the JSON is nested too deeply") from None
    except ValueError as error:
        raise ConfigError(f'--filter: is not JSON ({error}); write it like \'{{"price": {{"lt": 30}}}}\'') from None
    if not isinstance(conditions, dict):
        raise ConfigError('--filter: give columns and conditions, like \'{"price": {"lt": 30}}\'')
    return Filter.parse(conditions)


def _competing(recommender: Recommender, policy: NewItemPolicy, given: str) -> dict[str, Any]:
    """Return {"new_items": policy} for `recommend`; print a warning if no item was added to the run after training.

    Args:
        recommender: the run.
        policy: the parsed value of --new-items: how added items compete with the others.
        given: the same value as the user wrote it, for the warning.
    """
    if recommender.n_items == recommender.n_trained_items:
        problem = "changes nothing, since no item was added to the run after its training"
        print_line(f"--new-items {given}: {problem}", "yellow", errors=True)
    return {"new_items": policy}


def _candidates(recommender: Recommender, items: CandidateOptions, conditions: Filter | None) -> list[Any]:
    """Return the ids of the items to rank: the items of --candidates, or all items, that match --filter.

    Raises:
        ConfigError: no item matches the filter.
    """
    id_map = recommender.items
    candidates = ids(_named(items.candidates, id_map), id_map) if items.candidates else id_map.series.to_list()
    if conditions is None:
        return candidates
    matches = conditions.mask(recommender.item_table).tolist()
    rows = id_map.rows(candidates).tolist()
    # keep unknown ids: the error of `recommend` names them
    matching = [item for item, row in zip(candidates, rows, strict=True) if row < 0 or matches[row]]
    if not matching:
        raise ConfigError(f"--filter {items.where}: no item has such values; change the conditions")
    return matching


def _recommend_all(recommender: Recommender, output: Path, resume: bool, options: dict[str, Any]) -> None:
    from lirdrec.recommender.recommend_all import recommend_all

    try:
        done = recommend_all(recommender, output, restart=not resume, progress=not settings.quiet, **options)
    except KeyboardInterrupt:
        print_line("The finished lists are saved. To continue, run the same command", errors=True)
        raise
    print_line(f"{pluralize(done.rows, 'row')} written to {output}", errors=True)
    _show_share(recommender, done.new_rows, done.rows)


def _show_share(recommender: Recommender, n_new: int, n_rows: int, errors: bool = True) -> None:
    """Print how many of the `n_rows` places in the lists were taken by items that were added after training.

    Nothing is printed if the run has no added items.
    """
    n_added = recommender.n_items - recommender.n_trained_items
    if n_added and n_rows:
        added = pluralize(n_added, "added item")
        print_line(f"{added} got {n_new:,} of {pluralize(n_rows, 'place')} ({n_new / n_rows:.1%})", errors=errors)


def _named(texts: list[str], id_map: IdMap) -> list[str]:
    """Return the ids in the values of an option that may be repeated, as texts.

    A value is an id of the run, several ids separated by commas, or @FILE, a file with one id in each line.

    Raises:
        ConfigError: the file cannot be read.
    """
    names: list[str] = []
    for text in texts:
        if not id_map.is_integer and text in id_map:
            names.append(text)
        elif text.startswith("@"):
            lines = read_text(text[1:], ConfigError).removeprefix("\ufeff").splitlines()
            names += [line if line in id_map else line.strip() for line in lines if line.strip()]
        else:
            names += [name.strip() for name in text.split(",") if name.strip()]
    return names


def _ranking(frame: pl.DataFrame, title: str) -> Any:
    columns = ["rank", frame.columns[1], *(["title"] if "title" in frame.columns else []), "score"]
    rows = [[*values, f"{score:.4f}"] for *values, score in frame.select(columns).iter_rows()]
    return table(title, columns, rows, right=("rank", "score"))
