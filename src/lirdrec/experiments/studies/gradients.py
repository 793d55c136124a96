"""Experiment "gradients" (Fig. 1, Theorem 1, Lemma 2): gradients of item IDs against those of projected features.

Theorem 1 of the paper: in the first epoch the gradient of an item's ID embedding is no larger than that of its
projected features. Lemma 2: features bring information that random IDs lack; its test is the same model with random
features of the same size. `gradient_probe` defines the measurements. The ranking loss is BPR;
the test is not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import sentences
from lirdrec.experiments.studies.defaults import settled
from lirdrec.experiments.trial import TrialResult, TrialSpec
from lirdrec.reporting import Column, Measure, Report, Row, Section, Table, label, lines

if TYPE_CHECKING:
    from lirdrec.experiments.worker import Job

MODELS = ("vbpr", "freedom")
EPOCHS = 30
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
# option that weighs the loss by which a model learns its projection, where that is a loss of its own
WEIGHTS = {"freedom": "regularization"}
NOTES = {
    "freedom": "FREEDOM projects features only for a loss of their own, weighted by `regularization`; its score is "
    "made of IDs, which the item graph of the features smooths. So its features' gradients are small by that weight."
}


def plan(context: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """All models with real and with random features, with all seeds."""
    for cells in _cells(context).values():
        yield from cells


def measure(job: Job) -> list[dict[str, float]]:
    """Work: train with a gradient probe; one entry per epoch."""
    import numpy as np
    import torch

    from lirdrec.data.storage import verify_features
    from lirdrec.devices import resolve_device
    from lirdrec.evaluation.evaluator import GroundTruth
    from lirdrec.experiments.config import resolve_options
    from lirdrec.experiments.studies.gradient_probe import random_features, watch
    from lirdrec.models.registry import model_type
    from lirdrec.recommender.inputs import make_model_inputs

    config, training = resolve_options(job.cell)
    data = random_features(job.dataset, job.cell.seed) if job.cell.extra.get("random") else job.dataset
    device = resolve_device(job.device)
    verify_features(data)
    inputs = make_model_inputs(data, device, job.cache, training.seed)
    train, valid = (
        (torch.from_numpy(np.array(part.users)).to(device), torch.from_numpy(np.array(part.items)).to(device))
        for part in (data.train, data.valid)
    )
    truth = GroundTruth.from_pairs(train, valid, data.n_users)
    k = int(training.metric.partition("@")[2])
    return watch(model_type(job.cell.model), config, inputs, training, truth if len(truth.users) else None, k)


def report(context: ExperimentConfig, results: Results) -> Path:
    """For each model: gradients, losses, random features, and the epochs in which the inequality holds."""
    cells = _cells(context)
    done = {place: [one for one in map(results.get, some) if one and one.done] for place, some in cells.items()}
    k = context.metric.partition("@")[2]
    places = list(dict.fromkeys((dataset, model) for dataset, model, _ in done))
    many = len({dataset for dataset, _ in places}) > 1
    sections, answers = [], []
    for dataset, model in places:
        real, random = done[dataset, model, REAL], done[dataset, model, RANDOM]
        name = label(model) + (f" on {label(dataset)}" if many else "")
        if real:
            sections.append(
                Section(name, _drawn(f"{model}-{dataset}".lower() if many else model, model, real, random, k))
            )
        answers.append(_answer(name, model, real, random, k))
    sections.append(Section("All metrics", [_table(done, many, k)]))
    return Report(
        title="Gradients of item IDs and of item features",
        question="Do item IDs get smaller gradients than projected features, in which epochs, and do features say more "
        "than random ones?",
        answer="\n\n".join(answers),
        sections=[*sections, *sentences.failures(results)],
        settings=sentences.settings(context) | {"epochs": _epochs(context), "loss": "bpr"},
        commands=sentences.commands(context),
        name=results.experiment,
    ).write(context.output, results, context.formats)


def holds(results: Sequence[TrialResult], small: str, large: str) -> list[bool]:
    """Per epoch: whether the mean over the seeds of `small` is no larger than that of `large`."""
    return [a.mean <= b.mean for a, b in zip(means(results, small), means(results, large), strict=True)]


def means(results: Sequence[TrialResult], key: str) -> list[Measure]:
    """Mean and sd over the seeds for each epoch that has the value."""
    epochs = zip(*(one.data for one in results), strict=True)
    found = (Measure.of(line[key] for line in lines_ if key in line) for lines_ in epochs)
    return [one for one in found if one is not None]


def _drawn(stem: str, model: str, real: Sequence[TrialResult], random: Sequence[TrialResult], k: str) -> list[Any]:
    blocks: list[Any] = [NOTES[model]] if model in NOTES else []
    kinds = {"a mean item": SIDES[0], "the table of IDs, the projection": SIDES[1]}
    frame = _frame({panel: (real, keys) for panel, keys in kinds.items()})
    about = "Norms of the gradients summed over each epoch"
    blocks.append(_lines(frame, f"gradients-{stem}", "norm", f"{about}.", log_y=_is_wide(frame)))
    losses = [key for key in ("loss_total", "loss_id", "loss_features") if means(real, key)]
    some = {"real features": (real, losses)} | ({RANDOM: (random, losses)} if random else {})
    caption = "BPR loss on the training pairs after each epoch: of the whole score and of its parts alone."
    blocks.append(_lines(_frame(some), f"losses-{stem}", "BPR loss", caption))
    recalls = {"recall_total": "whole score", "recall_features": "features alone"}
    shown = {key: said for key, said in recalls.items() if means(real, key)}
    if random and shown:
        import polars as pl

        rows = [
            {"panel": said, "epoch": line["epoch"], "series": variant, "value": line[key]}
            for key, said in shown.items()
            for variant, some_results in ((REAL, real), (RANDOM, random))
            for one in some_results
            for line in one.data
            if key in line
        ]
        caption = f"Validation recall@{k} with the features and with random ones of the same size (Lemma 2)."
        blocks.append(_lines(pl.DataFrame(rows), f"recall-{stem}", f"valid R@{k}", caption, accent=REAL))
    return blocks


def _frame(panels: Mapping[str, tuple[Sequence[TrialResult], Sequence[str]]]) -> Any:
    import polars as pl

    return pl.DataFrame(
        [
            {"panel": panel, "epoch": line["epoch"], "series": SERIES[key], "value": line[key]}
            for panel, (results, keys) in panels.items()
            for key in keys
            for one in results
            for line in one.data
            if key in line
        ]
    )


def _lines(frame: Any, name: str, y_label: str, caption: str, accent: str = "", log_y: bool = False) -> Any:
    featured = {"features", "features alone"}
    return lines(
        frame,
        name,
        x="epoch",
        series="series",
        panel="panel",
        accent=accent or next((one for one in frame["series"] if one in featured), None),
        y_label=y_label,
        log_y=log_y,
        caption=caption,
    )


def _is_wide(frame: Any) -> bool:
    """Whether the values of a panel need a logarithmic axis."""
    parts = frame.partition_by("panel")
    return any(part["value"].min() <= 0 or part["value"].max() > 30 * part["value"].min() for part in parts)


def _table(done: Mapping[tuple[str, str, str], list[TrialResult]], many: bool, k: str) -> Table:
    columns = [
        Column("model", "Model", format="text"),
        Column("variant", "Features", format="text"),
        Column("epoch", "Epoch", format="text"),
        Column("id_per_item", "IDs", "Gradient per item", format="text"),
        Column("features_per_item", "features", "Gradient per item", format="text"),
        Column("id_table", "IDs", "Gradient, all", format="text"),
        Column("projection", "features", "Gradient, all", format="text"),
        Column("loss_total", "whole", "BPR loss"),
        Column("loss_id", "IDs", "BPR loss"),
        Column("loss_features", "features", "BPR loss"),
        Column("recall_total", "whole", f"Valid R@{k}"),
        Column("recall_features", "features", f"Valid R@{k}"),
    ]
    rows = []
    for (dataset, model, variant), results in done.items():
        if not results:
            continue
        last = len(results[0].data)
        for epoch in dict.fromkeys((1, last)):
            cells: dict[str, Any] = {"model": label(model), "variant": variant, "epoch": str(epoch)}
            for column in columns[3:]:
                found = means(results, column.key)
                if len(found) >= epoch:
                    one = found[epoch - 1]
                    cells[column.key] = f"{one.mean:.2e}" if column.format == "text" else one
            rows.append(Row(cells, label(dataset) if many else ""))
    return Table("gradients", columns, rows, "The first and the last epoch, means over the seeds.")


def _answer(name: str, model: str, real: Sequence[TrialResult], random: Sequence[TrialResult], k: str) -> str:
    if not real:
        return f"{name} has no results."
    (small, large), (table, projection) = SIDES
    per_item = holds(real, small, large)
    first = [means(real, key)[0].mean for key in (small, large)]
    held = "holds" if per_item[0] else "does not hold"
    text = (
        f"**{name}**: in the first epoch the mean gradient of an item's ID is {first[0]:.2e} and that of its projected "
        f"features {first[1]:.2e}, so the inequality of Theorem 1 **{held}** there; it holds in "
        f"{sum(per_item)} of {sentences.count(len(per_item), 'epoch')}"
    )
    run = next((at for at, held in enumerate(per_item) if held != per_item[0]), len(per_item))
    if 0 < sum(per_item) < len(per_item):
        text += f" ({'in' if per_item[0] else 'not in'} the first {run})"
    together = holds(real, table, projection)
    text += f". For the whole table against the projection it holds in {sum(together)} of {len(together)}."
    weight = real[0].options.get("model", {}).get(WEIGHTS.get(model, ""))
    if weight:
        text += (
            f" The features' loss has the weight {WEIGHTS[model]} = {weight:g}; without it their gradient per item "
            f"would be {first[1] / weight:.2e} in the first epoch."
        )
    alone = [means(real, key) for key in ("loss_id", "loss_features")]
    if all(alone):
        lower = sum(b.mean < a.mean for a, b in zip(*alone, strict=True))
        text += (
            f" The loss of the features alone is below that of the IDs alone in {lower} of {len(per_item)} epochs "
            f"({alone[1][-1].mean:.3f} against {alone[0][-1].mean:.3f} at the end)."
        )
    if random:
        best = [max(means(some, "recall_total"), key=lambda one: one.mean, default=None) for some in (real, random)]
        if best[0] is not None and best[1] is not None:
            against = f"{best[1].mean:.4f} instead of {best[0].mean:.4f}"
            text += f" With random features the best validation recall@{k} is {against} "
            text += f"({sentences.format_gain(best[1].mean, best[0].mean)})"
            apart = abs(best[0].mean - best[1].mean)
            if best[0].sd is None and apart <= ONE_SEED * best[0].mean:
                text += ", too small a difference for one seed: no support for Lemma 2."
            elif apart <= sum(one.sd or 0.0 for one in best if one is not None):
                text += ", a difference within the sd of the seeds: no support for Lemma 2."
            elif best[0].mean > best[1].mean:
                text += ": the features contain information that random ones do not."
            else:
                text += ": random features are better than the real ones."
    return text


def _epochs(context: ExperimentConfig) -> int:
    return int(context.training.get("epochs", EPOCHS))


def _cells(context: ExperimentConfig) -> dict[tuple[str, str, str], list[TrialSpec]]:
    """(dataset's name, model, variant) → trials."""
    found: dict[tuple[str, str, str], list[TrialSpec]] = {}
    epochs = _epochs(context)
    for dataset in context.datasets:
        for model in context.models or MODELS:
            training = {"epochs": epochs, "patience": epochs}
            base = settled(context, dataset, model, next(iter(context.sets)), loss="bpr", training=training)
            base = base.with_(work="gradients:measure", model_options={**base.model_options, "loss": "bpr"})
            for variant in (REAL, RANDOM):
                extra = {"random": True} if variant == RANDOM else {}
                cells = [base.with_(seed=s, variant=variant, extra=extra) for s in range(context.seeds)]
                found[base.dataset_name, model, variant] = cells
    return found
