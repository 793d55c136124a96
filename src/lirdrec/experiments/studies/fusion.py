"""Experiment "fusion": a weighted mix of models, with weights chosen on validation, against the best single model.

Each model is trained with each seed and kept. All mixes of a grid over the simplex are evaluated on validation, for
normalized scores and normalized ranks (`fusion_scorer`); the mix with the best mean over the seeds is declared, then
scored on the test once per seed. The single models are declared and scored, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.errors import ConfigError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import sentences
from lirdrec.experiments.studies.defaults import settled
from lirdrec.experiments.trial import RESULTS_VERSION, TrialResult, TrialSpec, fingerprint, short_hash
from lirdrec.reporting import Column, Figure, Measure, Report, Row, Section, Table, dots, label
from lirdrec.reporting.statistics import ALPHA, PairedTest, over_seeds, paired

if TYPE_CHECKING:
    import polars as pl

    from lirdrec.experiments.worker import Job

MODELS = ("lirdrec", "freedom")
SETTINGS = {"steps": (10, "weights are multiples of 1 / steps")}
MIX = "mix"


def plan(context: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """The models; then the grid of mixes on validation for each seed; then the chosen mix."""
    for members, trials in _groups(context):
        for cells in members.values():
            yield from cells
        if not all((one := results.get(cell)) is not None and one.done for cells in members.values() for cell in cells):
            continue
        yield from trials
        chosen = choose([results.get(cell) for cell in trials], context.metric)
        if chosen is not None:
            yield from _finals(trials, chosen)


def try_mixes(job: Job) -> list[dict[str, Any]]:
    """Work: validation metrics of all mixes of the grid."""
    from lirdrec.experiments.studies import fusion_scorer

    recommenders = _members(job)
    metric = job.cell.training.get("metric", "recall@20")
    name, _, k = metric.partition("@")
    names = tuple(dict.fromkeys((name, "recall", "ndcg")))
    truth = _truth(job)
    found = fusion_scorer.try_mixes(
        [one.scorer for one in recommenders],
        truth,
        steps=int(job.cell.extra["steps"]),
        names=names,
        cutoffs=(int(k),),
    )
    return [{"weights": list(mix.weights), "how": mix.how, "figures": mix.figures} for mix in found]


def score_mix(job: Job) -> dict[str, Any]:
    """Work: validation and test metrics of the declared mix."""
    from lirdrec.experiments.studies.fusion_scorer import FusedScorer

    recommenders = _members(job)
    extra = job.cell.extra
    names = [member["name"] for member in extra["members"]]
    mixed = recommenders[0]  # all members have the same users and items; only the scores differ
    mixed.scorer = FusedScorer([one.scorer for one in recommenders], names, extra["weights"], extra["how"])
    job.score_valid(mixed)
    job.score_test(mixed)
    return {"weights": extra["weights"], "how": extra["how"]}


def choose(results: Sequence[TrialResult | None], metric: str) -> dict[str, Any] | None:
    """The mix with the best mean of `metric` over the seeds, the first of tied ones; None until all are done."""
    done = [result for result in results if result is not None and result.done]
    if not done or len(done) < len(results):
        return None
    means = [sum(result.data[n]["figures"][metric] for result in done) / len(done) for n in range(len(done[0].data))]
    best = max(range(len(means)), key=lambda n: (round(means[n], 12), -n))
    entry = done[0].data[best]
    return {"weights": entry["weights"], "how": entry["how"], "value": means[best]}


def report(context: ExperimentConfig, results: Results) -> Path:
    """Metrics of single models and of the mix, the best weights, and whether the mix is better."""
    stage = sentences.stage_of(results)
    have = sentences.metrics_of(results, stage, (context.metric,))
    metrics = tuple(name for name in sentences.SHOWN if name in have) or have
    many = len(context.datasets) > 1
    rows, grid_rows, answers = [], [], []
    scored: dict[tuple[str, str], list[TrialResult]] = {}
    for members, trials in _groups(context):
        dataset = trials[0].dataset_name
        block = label(dataset) if many else ""
        chosen = choose([results.get(cell) for cell in trials], context.metric)
        by_model = {name: _done(results, cells) for name, cells in members.items()}
        if chosen is not None:
            by_model[MIX] = _done(results, _finals(trials, chosen))
        for name, some in by_model.items():
            cells: dict[str, Any] = {"model": _mix_title(members, chosen) if name == MIX else label(name)}
            cells["valid"] = sentences.measured(some, context.metric, "valid")
            cells |= {metric: sentences.measured(some, metric, stage) for metric in metrics}
            rows.append(Row(cells, block, accent=name == MIX))
            scored[dataset, name] = some
        grid_rows += _grid_rows(list(members), [results.get(cell) for cell in trials], context.metric, block)
        answers.append(_answer(context, results, dataset, members, by_model, chosen, stage))
    columns = [Column("model", "Model", format="text"), Column("valid", label(context.metric), "Valid", "higher")]
    columns += [Column(name, label(name), stage.capitalize(), "higher") for name in metrics]
    table = Table("fusion", columns, rows, "Single models, and the mix chosen on validation.")
    names = list(dict.fromkeys(name for members, _ in _groups(context) for name in members))
    sections = [Section("The mix", [*_figure(context, scored, stage), table])]
    if grid_rows:
        sections.append(Section("Weights", [_grid_table(names, context.metric, grid_rows)]))
    return Report(
        title="Mix of models",
        question=f"Is a mix of {sentences.listed(map(label, names))} better than the best single model?",
        answer=" ".join(answers),
        sections=[*sections, *sentences.failures(results)],
        settings=sentences.settings(context),
        commands=sentences.commands(context),
        name=results.experiment,
    ).write(context.output, results, context.formats)


def _done(results: Results, cells: Sequence[TrialSpec]) -> list[TrialResult]:
    return [result for result in map(results.get, cells) if result is not None and result.done]


def _figure(context: ExperimentConfig, scored: Mapping[tuple[str, str], list[TrialResult]], stage: str) -> list[Figure]:
    """Dots of (dataset, model) → results; [] without any metric."""
    import polars as pl

    rows = [
        {"dataset": dataset, "model": name, "value": result.figures[stage][context.metric]}
        for (dataset, name), some in scored.items()
        for result in some
        if context.metric in result.figures.get(stage, {})
    ]
    if not rows:
        return []
    caption = f"{stage.capitalize()} {context.metric} of single models and of the mix, {sentences.over(context.seeds)}."
    panel = "dataset" if len(context.datasets) > 1 else None
    frame, x_label = pl.DataFrame(rows), f"{stage} {context.metric}"
    return [dots(frame, "fusion", rows="model", panel=panel, accent=MIX, x_label=x_label, caption=caption)]


def _grid_table(names: Sequence[str], metric: str, rows: Sequence[Row]) -> Table:
    columns = [Column("how", "Normalization", format="text")]
    columns += [Column(name, label(name), "Weight", digits=2) for name in names]
    columns.append(Column("value", label(metric), "Valid", "higher"))
    return Table("fusion-grid", columns, rows, "The best mixes on validation, and the single models.")


def _answer(
    context: ExperimentConfig,
    results: Results,
    dataset: str,
    members: Mapping[str, Sequence[TrialSpec]],
    by_model: Mapping[str, list[TrialResult]],
    chosen: Mapping[str, Any] | None,
    stage: str,
) -> str:
    where = f"On {label(dataset)}"
    if chosen is None or not by_model.get(MIX):
        return f"{where} there is no mix yet."
    figures = {name: sentences.measured(some, context.metric, stage) for name, some in by_model.items()}
    known = {name: measure for name, measure in figures.items() if measure is not None}
    alone = {name: measure for name, measure in known.items() if name != MIX}
    if MIX not in known or not alone:
        return f"{where} there are no results."
    best = max(alone, key=lambda name: alone[name].mean)
    weights = sentences.listed(f"{label(n)} {w:g}" for n, w in zip(members, chosen["weights"], strict=True))
    text = (
        f"{where}, the weights chosen on validation are {weights}, over {chosen['how']}s. The mix has a {stage} "
        f"{context.metric} of **{sentences.format_mean_sd(known[MIX])}**, the best single model, {label(best)}, "
        f"{sentences.format_mean_sd(alone[best])}: {sentences.format_gain(known[MIX].mean, alone[best].mean)}."
    )
    test = _tested(context, results, by_model[MIX], by_model[best])
    if test is not None:
        p = max(test.t_p, test.w_p)
        verdict = "is" if p < ALPHA else "is not"
        text += (
            f" A difference {verdict} shown by paired tests over {test.n} users (larger of the two p-values: {p:.2g})."
        )
    if sum(weight > 0 for weight in chosen["weights"]) == 1:
        text += " The chosen mix is a single model: mixing does not help here."
    return text


def _tested(
    context: ExperimentConfig, results: Results, ours: list[TrialResult], theirs: list[TrialResult]
) -> PairedTest | None:
    frames = [_per_user(results, one) for one in (ours, theirs)]
    if any(frame is None or context.metric not in frame.columns for frame in frames):
        return None
    one, other = (frame.sort("user") for frame in frames if frame is not None)
    if not one["user"].equals(other["user"]):
        return None
    return paired(one[context.metric].to_numpy(), other[context.metric].to_numpy())


def _per_user(results: Results, found: list[TrialResult]) -> pl.DataFrame | None:
    import polars as pl

    if results.folder is None or any(one.per_user is None for one in found) or not found:
        return None
    return over_seeds([pl.read_parquet(results.folder / str(one.per_user), glob=False) for one in found])


def _grid_rows(names: Sequence[str], results: Sequence[TrialResult | None], metric: str, block: str) -> list[Row]:
    """Rows of the five best mixes and of the single models, by the mean over the seeds."""
    known = [one for one in results if one is not None and one.done]
    if not known:
        return []
    entries = []
    for place, entry in enumerate(known[0].data):
        measure = Measure.of(one.data[place]["figures"][metric] for one in known)
        entries.append((entry["weights"], entry["how"], measure))
    entries.sort(key=lambda one: -(one[2].mean if one[2] is not None else 0.0))
    single = [one for one in entries if max(one[0]) == 1 and one[1] == entries[0][1]]
    kept = entries[:5] + [one for one in single if one not in entries[:5]]
    return [Row({"how": how, **dict(zip(names, weights, strict=True)), "value": m}, block) for weights, how, m in kept]


def _mix_title(members: Mapping[str, Any], chosen: Mapping[str, Any] | None) -> str:
    weights = chosen["weights"] if chosen is not None else []
    return "Mix: " + " + ".join(f"{w:g} {label(n)}" for n, w in zip(members, weights, strict=False) if w > 0)


def _groups(context: ExperimentConfig) -> Iterator[tuple[dict[str, list[TrialSpec]], list[TrialSpec]]]:
    """For each dataset: model → trials of the model, and the trials that evaluate mixes on validation."""
    models = context.models or MODELS
    if len(models) < 2:
        raise ConfigError("a mix needs two models or more: name them with --models, for instance lirdrec,freedom")
    steps = context.setting("steps", SETTINGS["steps"][0])
    if not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"steps is {steps!r}; give an integer of 1 or more")
    for dataset in context.datasets:
        # the same seeds for all models, deterministic ones too: each mix has one member per model
        bases = {model: settled(context, dataset, model, next(iter(context.sets))) for model in models}
        extra = {"final": True, "keep": True}
        members = {
            model: [base.with_(seed=seed, variant="alone", extra=extra) for seed in range(context.seeds)]
            for model, base in bases.items()
        }
        same = {"dataset": fingerprint(dataset), "seed": None}  # the seed is that of the mix, see `_members`
        described = [{"name": model, "cell": {**cells[0].to_json(), **same}} for model, cells in members.items()]
        first = bases[models[0]]
        trials = [
            first.with_(
                work="fusion:try_mixes",
                variant="mixes on validation",
                seed=seed,
                extra={"members": described, "steps": steps},
            )
            for seed in range(context.seeds)
        ]
        yield members, trials


def _finals(trials: Sequence[TrialSpec], chosen: Mapping[str, Any]) -> list[TrialSpec]:
    named = {"members": trials[0].extra["members"], "weights": chosen["weights"], "how": chosen["how"], "final": True}
    return [trial.with_(work="fusion:score_mix", variant=MIX, extra=named) for trial in trials]


def _members(job: Job) -> list[Any]:
    """The trained models with the job's seed, loaded from the kept run folders."""
    from lirdrec.recommender.recommender import Recommender

    found = []
    for member in job.cell.extra["members"]:
        # the key of the member's trial with this seed, as in `TrialSpec.key`
        key = short_hash({**member["cell"], "seed": job.cell.seed, "version": RESULTS_VERSION})
        found.append(Recommender.load(job.folder / "runs" / key / "model"))
    return found


def _truth(job: Job) -> Any:
    import numpy as np
    import torch

    from lirdrec.evaluation.evaluator import GroundTruth

    data = job.dataset
    train, valid = (
        (torch.from_numpy(np.array(part.users)), torch.from_numpy(np.array(part.items)))
        for part in (data.train, data.valid)
    )
    return GroundTruth.from_pairs(train, valid, data.n_users)
