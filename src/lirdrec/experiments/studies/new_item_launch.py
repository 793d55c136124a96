"""Experiment "launch": recommendation of items that are added after the training, together with known items.

For each seed a tenth of the items is launched for validation and another tenth for the test; models are trained
without them (`data.cold_start.draw_launch`). All parts are drawn from the development copy, so the sealed test
interactions of the dataset are never used.
A policy says how new items compete with known ones; an offset is a number that is added to the scores of new items.
Each policy is measured in Recall@20 of known items, of new items alone, of new items among all items, and of known and
new items together. The report also has the shares of new items in the places of the lists and in all interactions.

    content      new items have the vectors of `Model.add_items`, and no offset
    none         these vectors are mixed with those of the nearest trained items; no offset
    calibrated   as none, with the calibrated offset, the default of `Recommender.recommend`
    boost=x      as none, with the largest offset that costs at most the share x of the hits on known items, in
                 simulated launches
    share=x      as calibrated, but new items get the share x of the places in each list
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.data.column_names import SPLITS
from lirdrec.errors import ConfigError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.studies import report_parts
from lirdrec.experiments.studies.trial_settings import with_tuned_settings
from lirdrec.experiments.trial_spec_and_result import TrialResult, TrialSpec
from lirdrec.experiments.tuning import base_trial
from lirdrec.models.registry import model_type
from lirdrec.reporting import Column, Figure, Row, Section, Table, label, lines

if TYPE_CHECKING:
    from lirdrec.data.cold_start import Launch, LaunchedItems
    from lirdrec.evaluation.new_item_metrics import LaunchMetrics
    from lirdrec.experiments.worker import Job
    from lirdrec.recommender.recommender import Recommender

MODELS = ("content_knn", "lirdrec")
SETTINGS = {
    "by": ("random", "which items are launched: random, or time (those whose first interactions are the latest)"),
    "likes": ((1, 2, 5, 10), "numbers of likes of each new item; new items are measured again after each number"),
    "retrain": (False, "also train from scratch with these likes, to show what updates can reach at most"),
}
OPTIONS = ("tuned",)
EVALUATION = ("test_history",)  # the metric is always Recall@20 without seen items
COSTS = (0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.05, 0.1, 0.2)
POLICIES = ("content", "none", "calibrated", "share=0.1")
COLUMNS = {
    "known": "Known items",
    "alone": "New items alone",
    "among": "New among all",
    "together": "Together",
    "share": "Share of places",
    "demand": "Share of interactions",
}


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """Yield one trial for each dataset, model and seed.

    With the setting `retrain`, models trained by gradients get one more for each number of likes.
    """
    by, likes = config.setting("by", "random"), _likes(config)
    if by not in ("random", "time"):
        raise ConfigError(f"by is {by!r}; choose random or time, for instance --set by=time")
    for dataset in config.datasets:
        for model in config.models or MODELS:
            if not model_type(model).capabilities.cold_items:
                raise ConfigError(f"{model} cannot add items after the training; choose other models with --models")
            for seed in range(config.seeds):
                trial = _base_trial(config, dataset, model).with_(seed=seed, variant=by)
                yield trial.with_(work="launch:launched", extra={**trial.extra, "by": by, "likes": likes})
                if config.setting("retrain", False) and model_type(model).capabilities.training == "gradient":
                    for number in likes:
                        extra = {**trial.extra, "by": by, "likes": [number]}
                        yield trial.with_(work="launch:retrained", variant=f"{number} likes", extra=extra)


def launched(job: Job) -> dict[str, Any]:
    """Do the work: train without the launched items, add them, and measure every policy.

    For models trained by gradients, the policy "calibrated" is also measured after updates by some likes of the new
    items. Return the calibrated offset, the number of new items, and why the training ended.
    """
    launch = _draw(job)
    recommender = job.fit(launch.dataset, calibrate_new_items=True)
    encoder = recommender.new_item_encoder
    history = _test_history(job)
    names = [*POLICIES, *(f"boost={cost:g}" for cost in COSTS if encoder is not None and encoder.frontier)]
    for stage in ("valid", "test"):
        items = getattr(launch, stage)
        for name in names:
            job.figures[f"{stage} {name}"] = asdict(_measure(recommender, launch, items, stage, name, history))
    if job.trial.extra["likes"] and model_type(job.trial.model).capabilities.training == "gradient":
        for number in (0, *job.trial.extra["likes"]):
            liked, rest = _reveal(launch.test, number, job.trial.seed)
            metrics = _measure(recommender, launch, rest, "test", "calibrated", history, liked)
            job.figures[f"test after {number}"] = asdict(metrics)
    return {"offset": None if encoder is None else encoder.offset, "new": launch.test.table.height, **job.end}


def retrained(job: Job) -> dict[str, Any]:
    """Do the work: train from scratch with some likes of the launched items; measure on their other interactions."""
    from lirdrec.data.cold_start import with_launched_items

    launch, number = _draw(job), job.trial.extra["likes"][0]
    liked, rest = _reveal(launch.test, number, job.trial.seed)
    recommender = job.fit(with_launched_items(launch.dataset, liked))
    metrics = _score(recommender, launch, rest, "test", _test_history(job))
    job.figures[f"test retrained {number}"] = asdict(metrics)
    return {"new": launch.test.table.height, **job.end}


def report(config: ExperimentConfig, results: Results) -> Path:
    """Write the report on new items: recall by policy, cost for known items, recall after likes; return its path."""
    done = list(results.where(status="done"))
    datasets = list(dict.fromkeys(result.trial.dataset_name for result in done))
    blocks: list[Any] = [*_frontier_figures(config, done), _policy_table(done, datasets)]
    after = _likes_table(done, datasets, [0, *_likes(config)])
    sections = [Section("Policies", blocks), *([Section("After likes", [after])] if after.rows else [])]
    answers = [_answer(dataset, [r for r in done if r.trial.dataset_name == dataset]) for dataset in datasets]
    return report_parts.write_report(
        config,
        results,
        "Launches of new items",
        "How are items recommended that are added after the training, and what does it cost the known ones?",
        " ".join(answers) or "There are no results yet.",
        sections,
    )


def _base_trial(config: ExperimentConfig, dataset: str, model: str) -> TrialSpec:
    """Return the trial of a model: tuned settings from `config.tuned`, else those of its fast preset.

    Options in `config` have priority.
    """
    from lirdrec.recommender.presets import preset

    base = base_trial(config, dataset, model, next(iter(config.sets)))
    tuned = with_tuned_settings(config, base)
    if tuned is not None:
        return tuned
    options, training = preset(model)
    return base.with_(
        model_options={**_changed(options), **base.model_options}, training={**_changed(training), **base.training}
    )


def _changed(config: Any) -> dict[str, Any]:
    """Return name → value of the options of a config that differ from the defaults of its class, without the seed."""
    plain = type(config)()
    names = [field.name for field in fields(config) if getattr(config, field.name) != getattr(plain, field.name)]
    return {name: getattr(config, name) for name in names if name != "seed"}


def _likes(config: ExperimentConfig) -> list[int]:
    given = config.setting("likes", SETTINGS["likes"][0])
    numbers = [given] if isinstance(given, int) else list(given)
    if not all(isinstance(number, int) and not isinstance(number, bool) and number > 0 for number in numbers):
        raise ConfigError(f"likes is {given!r}; give positive integers, for instance --set likes=[1,5]")
    return numbers


def _draw(job: Job) -> Launch:
    from lirdrec.data.cold_start import draw_launch

    return draw_launch(job.dataset, seed=job.trial.seed, by=job.trial.extra["by"])


def _measure(
    recommender: Recommender,
    launch: Launch,
    items: LaunchedItems,
    stage: str,
    name: str,
    history: str | None,
    liked: LaunchedItems | None = None,
) -> LaunchMetrics:
    """Add the items to a copy of the recommender, update it by the likes if there are any, and measure policy `name`.

    Recall is measured on the known items in the split `stage`, and on the interactions of `items`.
    """
    from lirdrec.recommender.new_item_encoder import NEW_ITEMS, NewItemPolicy

    state = recommender.state
    if name == "content":
        state = replace(state, info={key: value for key, value in state.info.items() if key != NEW_ITEMS})
    added = type(recommender).from_state(state)
    added.add_items(items.table, items.features)
    if liked is not None and len(liked.users):
        users = launch.dataset.users.series.gather(liked.users).to_list()
        added.update(list(zip(users, items.table["item"].gather(liked.items).to_list(), strict=True)))
    policy = NewItemPolicy.parse("none" if name == "content" else name)
    return _score(added, launch, items, stage, history, policy)


def _test_history(job: Job) -> str | None:
    return job.trial.extra.get("evaluation", {}).get("test_history")


def _score(
    recommender: Recommender,
    launch: Launch,
    items: LaunchedItems,
    stage: str,
    test_history: str | None,
    policy: Any = None,
) -> LaunchMetrics:
    import torch

    from lirdrec.data.dataset import Interactions
    from lirdrec.evaluation.evaluation_protocol import protocol_of, with_histories
    from lirdrec.evaluation.new_item_metrics import evaluate_launch
    from lirdrec.ranking.histories import Histories

    def histories(*parts: Interactions) -> Histories:
        together = Interactions.concatenate(parts).oldest_first()
        return Histories(torch.tensor(together.users), torch.tensor(together.items), n).to(recommender.device)

    n, first, pairs = launch.dataset.n_users, launch.dataset.n_items, launch.dataset.split(stage)
    known, new = (
        Histories(torch.tensor(users), torch.tensor(rows), n)
        for users, rows in ((pairs.users, pairs.items), (items.users, items.items + first))
    )
    scorer = recommender.scorer if policy is None else recommender.policy_scorer(policy)
    quota = None if policy is None else policy.quota(20, first)
    seen, valid = recommender.histories, launch.dataset.valid
    protocol = protocol_of(recommender, launch.dataset.info, stage, test_history if stage == "test" else None, None)
    if protocol.test_history == "train+valid":
        assert recommender.train is not None
        seen = histories(recommender.train, valid)  # with the likes of the launched items
        if protocol.queries == "histories":
            scorer = with_histories(recommender, scorer, histories(launch.dataset.train, valid), histories(valid))
    metrics = evaluate_launch(scorer, seen, known, new, first, quota=quota)
    # all interactions of the launched items are held out, and only some of those of the known ones
    n_known = sum(len(launch.dataset.split(name)) for name in SPLITS)
    return replace(metrics, demand=len(items.users) / max(1, len(items.users) + n_known))


def _reveal(items: LaunchedItems, number: int, seed: int) -> tuple[LaunchedItems, LaunchedItems]:
    """Split the interactions of new items: `number` random ones of each item (its likes), and the rest.

    All interactions of an item that has `number` or fewer are in the rest.
    """
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(items.items))
    by_item = order[np.argsort(items.items[order], kind="stable")]
    counts = np.bincount(items.items, minlength=items.table.height)
    rank = np.arange(len(by_item)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.zeros(len(order), bool)
    chosen[by_item] = (rank < number) & (counts[items.items[by_item]] > number)
    return items.take(chosen), items.take(~chosen)


def _runs(done: Sequence[TrialResult], dataset: str) -> dict[str, list[TrialResult]]:
    """Return model → finished trials of the launch, for one dataset."""
    runs: dict[str, list[TrialResult]] = {}
    for result in done:
        if result.trial.dataset_name == dataset and result.trial.work == "launch:launched":
            runs.setdefault(result.trial.model, []).append(result)
    return runs


def _policy_table(done: Sequence[TrialResult], datasets: Sequence[str]) -> Table:
    columns = [Column("model", "Model", format="text"), Column("policy", "New items", format="text")]
    for name, heading in COLUMNS.items():
        is_recall = name not in ("share", "demand")
        columns.append(Column(name, heading, "Test, Recall@20" if is_recall else "", "higher" if is_recall else None))
    rows = []
    for dataset in datasets:
        for model, runs in _runs(done, dataset).items():
            for policy in POLICIES:
                cells: dict[str, Any] = {"model": label(model), "policy": policy}
                cells |= {name: report_parts.measured(runs, name, f"test {policy}") for name in COLUMNS}
                rows.append(Row(cells, label(dataset) if len(datasets) > 1 else "", accent=policy == "calibrated"))
    notes = ["Each seed launches its own items; the sd is over draws and trainings together."]
    return Table("launch", columns, rows, "Known and new items in the test launch.", notes)


def _likes_table(done: Sequence[TrialResult], datasets: Sequence[str], numbers: Sequence[int]) -> Table:
    columns = [Column("model", "Model", format="text"), Column("likes", "Likes of each new item", format="text")]
    columns += [
        Column("alone", COLUMNS["alone"], "Updated", "higher"),
        Column("among", COLUMNS["among"], "Updated", "higher"),
    ]
    columns += [
        Column("ceiling alone", COLUMNS["alone"], "Retrained"),
        Column("ceiling among", COLUMNS["among"], "Retrained"),
    ]
    rows = []
    for dataset in datasets:
        for model, runs in _runs(done, dataset).items():
            again = [
                r
                for r in done
                if r.trial.dataset_name == dataset and r.trial.work == "launch:retrained" and r.trial.model == model
            ]
            for number in numbers:
                stage, ceiling = f"test after {number}", f"test retrained {number}"
                measures = {name: report_parts.measured(runs, name, stage) for name in ("alone", "among")}
                measures |= {
                    f"ceiling {name}": report_parts.measured(again, name, ceiling) for name in ("alone", "among")
                }
                if measures["alone"] is not None:
                    cells: dict[str, Any] = {"model": label(model), "likes": str(number), **measures}
                    rows.append(Row(cells, label(dataset) if len(datasets) > 1 else ""))
    notes = ["The interactions that are not revealed as likes are the ground truth, so the rows differ in it."]
    return Table("likes", columns, rows, "Test Recall@20 of new items after likes.", notes)


def _frontier_figures(config: ExperimentConfig, done: Sequence[TrialResult]) -> list[Figure]:
    """Draw what new items get, and what known items lose, for each policy `boost=x`; return [] without results."""
    import polars as pl

    entries = []
    for result in done:
        base = result.figure("known", "test content")
        for stage, metrics in result.figures.items():
            if stage.startswith("test boost=") and base:
                cost = float(stage.partition("=")[2])
                loss = 100 * (1 - metrics["known"] / base)
                for name in ("among", "share"):
                    entries.append(
                        (result.trial.dataset_name, result.trial.model, cost, loss, COLUMNS[name], metrics[name])
                    )
    if not entries:
        return []
    names = ["dataset", "model", "boost", "loss", "panel", "value"]
    frame = pl.DataFrame(entries, schema=names, orient="row")
    # runs with the same boost lose different shares of recall: a point has the means of loss and value
    means = frame.group_by("dataset", "model", "boost", "panel", maintain_order=True).agg(
        pl.col("loss", "value").mean()
    )
    figure = lines(
        means,
        "frontier",
        x="loss",
        series="dataset" if means["dataset"].n_unique() > 1 else "model",
        panel="panel",
        x_label="loss of recall on known items, %",
        y_label="test",
        points=True,
        caption=f"New items along the offsets: Recall@20 and share of places, {report_parts.over(config.seeds)}.",
    )
    return [figure]


def _answer(dataset: str, done: Sequence[TrialResult]) -> str:
    runs = _runs(done, dataset).get("lirdrec") or next(iter(_runs(done, dataset).values()), [])
    values: Mapping[str, Any] = {
        f"{name} {policy}": report_parts.measured(runs, name, f"test {policy}")
        for name in COLUMNS
        for policy in ("content", "calibrated")
    }
    if any(value is None for value in values.values()):
        return f"On {label(dataset)} there are no results."
    known, among = (
        report_parts.format_gain(values[f"{name} calibrated"].mean, values[f"{name} content"].mean)
        for name in ("known", "among")
    )
    reached, kept = (report_parts.format_mean_sd(values[f"{name} calibrated"]) for name in ("among", "known"))
    return (
        f"On {label(dataset)} new items reach a test Recall@20 of {reached} among all items with the calibrated offset"
        f" ({among} of content vectors alone), and known items {kept} ({known}); new items get"
        f" {values['share calibrated'].mean:.1%} of the places, and users take them in"
        f" {values['demand calibrated'].mean:.1%} of the interactions."
    )
