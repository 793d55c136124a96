"""Experiment "gradients" (Fig. 1, Theorem 1, Lemma 2): gradients of item IDs compared with gradients of features.

Theorem 1 of the paper: in the first epoch the gradient of an item's ID embedding is no larger than that of its
projected features. Lemma 2: features bring information that random IDs lack; this is examined with the same model
on random features of the same size. `gradient_probe` defines the measurements. The ranking loss is BPR; the test set is
not used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.studies import report_parts
from lirdrec.experiments.studies.trial_settings import settled
from lirdrec.experiments.trial_spec_and_result import TrialResult, TrialSpec
from lirdrec.reporting import Column, Figure, Measure, Row, Section, Table, label, lines

if TYPE_CHECKING:
    import polars as pl

    from lirdrec.experiments.worker import Job

MODELS = ("vbpr", "freedom")
EPOCHS = 30
OPTIONS = ("tuned",)  # the loss is BPR
EVALUATION = ()  # no option has an effect, since only validation is scored
ONE_SEED = 0.05  # relative change that another seed may cause
REAL, RANDOM = "features", "random features"
# the two sides of the inequality, per item and in total
SIDES = (("id_per_item", "features_per_item"), ("id_table", "projection"))
SERIES = {
    "id_per_item": "IDs",
    "features_per_item": "features",
    "id_table": "IDs",
    "projection": "features",
    "loss_total": "whole score",
    "loss_id": "IDs alone",
    "loss_features": "features alone",
}
# model → option with the weight of the loss that trains the projection, if this is a separate loss
WEIGHTS = {"freedom": "regularization"}
NOTES = {
    "freedom": "FREEDOM projects features only for a loss of their own, weighted by `regularization`; its score is "
    "made of IDs, which the item graph of the features smooths. So its features' gradients are small by that weight."
}


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """Yield the trials of all models with real and with random features, with all seeds."""
    for trials in _trials(config).values():
        yield from trials


def measure(job: Job) -> list[dict[str, float]]:
    """Do the work: train with a gradient probe; return its norms, losses and recalls, one entry per epoch."""
    from lirdrec.data.storage import verify_features
    from lirdrec.devices import resolve_device
    from lirdrec.experiments.config import resolve_options
    from lirdrec.experiments.studies.gradient_probe import random_features, watch
    from lirdrec.models.registry import model_type
    from lirdrec.recommender.feature_pca import fit_projections
    from lirdrec.recommender.model_inputs import make_model_inputs

    config, training = resolve_options(job.trial)
    data = random_features(job.dataset, job.trial.seed) if job.trial.extra.get("random") else job.dataset
    device = resolve_device(job.device)
    verify_features(data)
    inputs = make_model_inputs(data, device, job.cache, training.seed, projections=fit_projections(data, config))
    truth = job.validation_truth().to(device)
    k = int(training.metric.partition("@")[2])
    return watch(model_type(job.trial.model), config, inputs, training, truth if len(truth.users) else None, k)


def report(config: ExperimentConfig, results: Results) -> Path:
    """Write the report on each model: gradients, losses, recall with random features; return its path.

    It says in which epochs the inequality of Theorem 1 holds.
    """
    done = {key: results.done(trials) for key, trials in _trials(config).items()}
    k = config.metric.partition("@")[2]
    many = len({dataset for dataset, _, _ in done}) > 1
    sections, answers = [], []
    for dataset, model in dict.fromkeys((dataset, model) for dataset, model, _ in done):
        real, random = done[dataset, model, REAL], done[dataset, model, RANDOM]
        name = label(model) + (f" on {label(dataset)}" if many else "")
        if real:
            stem = f"{model}-{dataset}".lower() if many else model
            sections.append(Section(name, _figures(stem, model, real, random, k)))
        answers.append(_answer(name, model, real, random, k))
    return report_parts.write_report(
        config,
        results,
        "Gradients of item IDs and of item features",
        "Do item IDs get smaller gradients than projected features, in which epochs, and do features say more than "
        "random ones?",
        "\n\n".join(answers),
        [*sections, Section("All metrics", [_table(done, many, k)])],
        {"epochs": _epochs(config), "loss": "bpr"},
    )


def holds(results: Sequence[TrialResult], small: str, large: str) -> list[bool]:
    """Return for each epoch whether the value `small` is at most the value `large`, in the means over the seeds."""
    return [a.mean <= b.mean for a, b in zip(means(results, small), means(results, large), strict=True)]


def means(results: Sequence[TrialResult], key: str) -> list[Measure]:
    """Return, for each epoch that has the value `key`, its mean and sd over the results (one per seed)."""
    epochs = zip(*(result.data for result in results), strict=True)
    measures = (Measure.of(line[key] for line in epoch if key in line) for epoch in epochs)
    return [measure for measure in measures if measure is not None]


def _figures(
    stem: str, model: str, real: Sequence[TrialResult], random: Sequence[TrialResult], k: str
) -> list[str | Figure]:
    """Return a note on the model, and the curves of gradients, losses and recall over the epochs."""
    blocks: list[str | Figure] = [NOTES[model]] if model in NOTES else []
    gradients = _curves(
        (panel, key, SERIES[key], real)
        for panel, keys in zip(("a mean item", "the table of IDs, the projection"), SIDES, strict=True)
        for key in keys
    )
    caption = "Norms of the gradients summed over each epoch."
    blocks.append(_lines(gradients, f"gradients-{stem}", "norm", caption, log_y=_is_wide(gradients)))
    variants = {"real features": real} | ({RANDOM: random} if random else {})
    losses = _curves(
        (panel, key, SERIES[key], some)
        for panel, some in variants.items()
        for key in ("loss_total", "loss_id", "loss_features")
        if means(real, key)
    )
    caption = "BPR loss on the training interactions after each epoch: of the whole score and of its parts alone."
    blocks.append(_lines(losses, f"losses-{stem}", "BPR loss", caption))
    recalls = _curves(
        (panel, key, variant, some)
        for key, panel in (("recall_total", "whole score"), ("recall_features", "features alone"))
        for variant, some in ((REAL, real), (RANDOM, random))
        if means(real, key)
    )
    if random and recalls.height:
        caption = f"Validation recall@{k} with the features and with random ones of the same size (Lemma 2)."
        blocks.append(_lines(recalls, f"recall-{stem}", f"valid R@{k}", caption, accent=REAL))
    return blocks


def _curves(curves: Iterable[tuple[str, str, str, Sequence[TrialResult]]]) -> pl.DataFrame:
    """Return curves over the epochs as rows (panel, epoch, series, value).

    A curve is given as (panel, key of the value in the results' data, name of the series, results).
    """
    import polars as pl

    rows = [
        (panel, line["epoch"], series, line[key])
        for panel, key, series, results in curves
        for result in results
        for line in result.data
        if key in line
    ]
    return pl.DataFrame(rows, schema={"panel": str, "epoch": int, "series": str, "value": float}, orient="row")


def _lines(frame: pl.DataFrame, name: str, y_label: str, caption: str, accent: str = "", log_y: bool = False) -> Figure:
    accent = accent or next((name for name in frame["series"] if name in ("features", "features alone")), "")
    style: dict[str, Any] = {"accent": accent, "y_label": y_label, "log_y": log_y, "caption": caption}
    return lines(frame, name, "epoch", series="series", panel="panel", **style)


def _is_wide(frame: pl.DataFrame) -> bool:
    """Whether the values of a panel differ so much that they need a logarithmic axis, or are not all positive."""
    panels = [panel["value"].to_list() for panel in frame.partition_by("panel")]
    return any(min(values) <= 0 or max(values) > 30 * min(values) for values in panels)


def _table(done: Mapping[tuple[str, str, str], Sequence[TrialResult]], many: bool, k: str) -> Table:
    texts = {"model": "Model", "variant": "Features", "epoch": "Epoch"}
    columns = [Column(key, title, format="text") for key, title in texts.items()]
    for keys, group in zip(SIDES, ("Gradient per item", "Gradient, all"), strict=True):
        columns += [Column(key, SERIES[key], group, format="text") for key in keys]
    parts = {"total": "whole", "id": "IDs", "features": "features"}
    columns += [Column(f"loss_{part}", title, "BPR loss") for part, title in parts.items()]
    columns += [Column(f"recall_{part}", parts[part], f"Valid R@{k}") for part in ("total", "features")]
    rows = []
    for (dataset, model, variant), results in done.items():
        for epoch in dict.fromkeys((1, len(results[0].data))) if results else ():
            cells: dict[str, Any] = {"model": label(model), "variant": variant, "epoch": str(epoch)}
            for column in columns[3:]:
                for measure in means(results, column.key)[epoch - 1 : epoch]:
                    cells[column.key] = f"{measure.mean:.2e}" if column.format == "text" else measure
            rows.append(Row(cells, label(dataset) if many else ""))
    return Table("gradients", columns, rows, "The first and the last epoch, means over the seeds.")


def _answer(name: str, model: str, real: Sequence[TrialResult], random: Sequence[TrialResult], k: str) -> str:
    if not real:
        return f"{name} has no results."
    (small, large), (table, projection) = SIDES
    per_item, together = holds(real, small, large), holds(real, table, projection)
    first = [means(real, key)[0].mean for key in (small, large)]
    text = (
        f"**{name}**: in the first epoch the mean gradient of an item's ID is {first[0]:.2e} and that of its projected "
        f"features {first[1]:.2e}, so the inequality of Theorem 1 **{'holds' if per_item[0] else 'does not hold'}** "
        f"there; it holds in {sum(per_item)} of {report_parts.count(len(per_item), 'epoch')}"
    )
    if 0 < sum(per_item) < len(per_item):
        text += f" ({'in' if per_item[0] else 'not in'} the first {per_item.index(not per_item[0])})"
    text += f". For the whole table against the projection it holds in {sum(together)} of {len(together)}."
    weight = real[0].options.get("model", {}).get(WEIGHTS.get(model, ""))
    if weight:
        text += (
            f" The features' loss has the weight {WEIGHTS[model]} = {weight:g}; without it their gradient per item "
            f"would be {first[1] / weight:.2e} in the first epoch."
        )
    ids, features = (means(real, key) for key in ("loss_id", "loss_features"))
    if ids and features:
        lower = sum(b.mean < a.mean for a, b in zip(ids, features, strict=True))
        text += (
            f" The loss of the features alone is below that of the IDs alone in {lower} of {len(per_item)} epochs "
            f"({features[-1].mean:.3f} against {ids[-1].mean:.3f} at the end)."
        )
    best, noise = (
        max(means(some, "recall_total"), key=lambda measure: measure.mean, default=None) for some in (real, random)
    )
    return text if best is None or noise is None else text + _lemma_2(best, noise, k)


def _lemma_2(real: Measure, random: Measure, k: str) -> str:
    """Write a sentence on the best recall with real and with random features."""
    text = (
        f" With random features the best validation recall@{k} is {random.mean:.4f} instead of {real.mean:.4f} "
        f"({report_parts.format_gain(random.mean, real.mean)})"
    )
    difference = abs(real.mean - random.mean)
    if real.sd is None and difference <= ONE_SEED * real.mean:
        return text + ", too small a difference for one seed: no support for Lemma 2."
    if difference <= (real.sd or 0.0) + (random.sd or 0.0):
        return text + ", a difference within the sd of the seeds: no support for Lemma 2."
    if real.mean > random.mean:
        return text + ": the features contain information that random ones do not."
    return text + ": random features are better than the real ones."


def _epochs(config: ExperimentConfig) -> int:
    return int(config.training.get("epochs", EPOCHS))


def _trials(config: ExperimentConfig) -> dict[tuple[str, str, str], list[TrialSpec]]:
    """Return (dataset's name, model, variant) → trials, one per seed."""
    trials: dict[tuple[str, str, str], list[TrialSpec]] = {}
    training = {"epochs": _epochs(config), "patience": _epochs(config)}
    for dataset, model, variant in product(config.datasets, config.models or MODELS, (REAL, RANDOM)):
        base = settled(config, dataset, model, next(iter(config.sets)), loss="bpr", training=training).with_(
            work="gradients:measure", variant=variant, extra={"random": True} if variant == RANDOM else {}
        )
        base = base.with_(model_options={**base.model_options, "loss": "bpr"})
        trials[base.dataset_name, model, variant] = [base.with_(seed=seed) for seed in range(config.seeds)]
    return trials
