"""Do models together recommend better than the best of them? A mix with weights that validation chooses.

Each model is trained with each seed and kept. Every mix of a grid over the simplex is tried on validation, for scores
and for ranks made comparable (`fused`); the mix with the best mean over the seeds is declared, then scored on the test,
once for each seed. The models alone are declared and scored, too.
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
from lirdrec.reporting import Column, Measure, Report, Row, Section, Table, dots, label
from lirdrec.reporting.statistics import ALPHA, PairedTest, over_seeds, paired

if TYPE_CHECKING:
    import polars as pl

    from lirdrec.experiments.worker import Job

MODELS = ("lirdrec", "freedom")
SETTINGS = {"steps": (10, "weights are multiples of 1 / steps")}
MIX = "mix"


def plan(context: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """The models; then, for each seed, the grid on validation; then the chosen mix."""
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
    """Work: the validation figures of every mix of the grid."""
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
    """Work: validation and test figures of the declared mix."""
    from lirdrec.experiments.studies.fusion_scorer import FusedScorer

    recommenders = _members(job)
    extra = job.cell.extra
    names = [member["name"] for member in extra["members"]]
    mixed = recommenders[0]  # of the users and items that all members share; only its scores are replaced
    mixed.scorer = FusedScorer([one.scorer for one in recommenders], names, extra["weights"], extra["how"])
    job.score_valid(mixed)
    job.score_test(mixed)
    return {"weights": extra["weights"], "how": extra["how"]}


def choose(results: Sequence[TrialResult | None], metric: str) -> dict[str, Any] | None:
    """The mix with the best mean of `metric` over the seeds; ties go to the earlier; None before all are done."""
    known = [one for one in results if one is not None and one.done]
    if not known or len(known) < len(results):
        return None
    means = [
        sum(one.data[place]["figures"][metric] for one in known) / len(known) for place in range(len(known[0].data))
    ]
    best = max(range(len(means)), key=lambda place: (round(means[place], 12), -place))
    entry = known[0].data[best]
    return {"weights": entry["weights"], "how": entry["how"], "value": means[best]}


def report(context: ExperimentConfig, results: Results) -> Path:
    """Each model alone and the mix; the figure over the weights; whether the mix is shown to be better."""
    import polars as pl

    stage = sentences.stage_of(results)
    have = sentences.metrics_of(results, stage, (context.metric,))
    metrics = tuple(name for name in sentences.SHOWN if name in have) or have
    many = len(context.datasets) > 1
    rows: list[Row] = []
    tidy: list[dict[str, Any]] = []
    grids: list[Row] = []
    answers = []
    for members, trials in _groups(context):
        dataset = trials[0].dataset_name
        block = label(dataset) if many else ""
        chosen = choose([results.get(cell) for cell in trials], context.metric)
        of: dict[str, list[TrialResult]] = {}
        for name, cells in members.items():
            of[name] = [one for one in map(results.get, cells) if one is not None and one.done]
        if chosen is not None:
            of[MIX] = [one for one in map(results.get, _finals(trials, chosen)) if one is not None and one.done]
        for name, some in of.items():
            cells_of: dict[str, Any] = {"model": _called(members, chosen) if name == MIX else label(name)}
            cells_of["valid"] = sentences.measured(some, context.metric, "valid")
            cells_of |= {metric: sentences.measured(some, metric, stage) for metric in metrics}
            rows.append(Row(cells_of, block, accent=name == MIX))
            tidy += [
                {"dataset": dataset, "model": name, "value": one.figures[stage][context.metric]}
                for one in some
                if context.metric in one.figures.get(stage, {})
            ]
        grids += _grid_rows(list(members), [results.get(cell) for cell in trials], context.metric, block)
        answers.append(_answer(context, results, dataset, members, of, chosen, stage))
    columns = [Column("model", "Model", format="text"), Column("valid", label(context.metric), "Valid", "higher")]
    columns += [Column(name, label(name), stage.capitalize(), "higher") for name in metrics]
    names = list(dict.fromkeys(name for members, _ in _groups(context) for name in members))
    grid_columns = [Column("how", "Made comparable by", format="text")]
    grid_columns += [Column(name, label(name), "Weight", digits=2) for name in names]
    grid_columns.append(Column("value", label(context.metric), "Valid", "higher"))
    blocks: list[Any] = [Table("fusion", columns, rows, "Models alone and the mix that validation chose.")]
    if tidy:
        drawn = dots(
            pl.DataFrame(tidy),
            "fusion",
            rows="model",
            panel="dataset" if many else None,
            accent=MIX,
            x_label=f"{stage} {context.metric}",
            caption=f"{stage.capitalize()} {context.metric} of each model alone and of the mix,"
            f" {sentences.over(context.seeds)}.",
        )
        blocks.insert(0, drawn)
    sections = [Section("The mix", blocks)]
    if grids:
        table = Table("fusion-grid", grid_columns, grids, "The best mixes on validation, and each model alone.")
        sections.append(Section("Weights", [table]))
    return Report(
        title="Models together",
        question=f"Is a mix of {sentences.listed(map(label, names))} better than the best of them alone?",
        answer=" ".join(answers),
        sections=[*sections, *sentences.failures(results)],
        settings=sentences.settings(context),
        commands=sentences.commands(context),
        name=results.experiment,
    ).write(context.output, results, context.formats)


def _answer(
    context: ExperimentConfig,
    results: Results,
    dataset: str,
    members: Mapping[str, Sequence[TrialSpec]],
    of: Mapping[str, list[TrialResult]],
    chosen: Mapping[str, Any] | None,
    stage: str,
) -> str:
    where = f"On {label(dataset)}"
    if chosen is None or not of.get(MIX):
        return f"{where} there is no mix yet."
    figures = {name: sentences.measured(some, context.metric, stage) for name, some in of.items()}
    known = {name: measure for name, measure in figures.items() if measure is not None}
    alone = {name: measure for name, measure in known.items() if name != MIX}
    if MIX not in known or not alone:
        return f"{where} there is no figure."
    best = max(alone, key=lambda name: alone[name].mean)
    weights = sentences.listed(f"{label(n)} {w:g}" for n, w in zip(members, chosen["weights"], strict=True))
    text = (
        f"{where}, validation chooses the weights {weights}, over {chosen['how']}s. The mix reaches a {stage} "
        f"{context.metric} of **{sentences.format_mean_sd(known[MIX])}**, the best model alone, {label(best)}, "
        f"{sentences.format_mean_sd(alone[best])}: {sentences.format_gain(known[MIX].mean, alone[best].mean)}."
    )
    test = _tested(context, results, of[MIX], of[best])
    if test is not None:
        p = max(test.t_p, test.w_p)
        sure = "is shown by" if p < ALPHA else "is not shown by"
        text += f" A difference {sure} paired tests over {test.n} users (p = {p:.2g}, the larger of the two tests)."
    if sum(weight > 0 for weight in chosen["weights"]) == 1:
        text += " The chosen mix is one model alone: nothing is gained by mixing here."
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
    """The five best mixes and each model alone, by the mean over the seeds."""
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


def _called(members: Mapping[str, Any], chosen: Mapping[str, Any] | None) -> str:
    weights = chosen["weights"] if chosen is not None else []
    return "Mix: " + " + ".join(f"{w:g} {label(n)}" for n, w in zip(members, weights, strict=False) if w > 0)


def _groups(context: ExperimentConfig) -> Iterator[tuple[dict[str, list[TrialSpec]], list[TrialSpec]]]:
    """For each dataset: the models' cells by name, and the cells that try the mixes."""
    models = context.models or MODELS
    if len(models) < 2:
        raise ConfigError("a mix needs two models or more: name them with --models, for instance lirdrec,freedom")
    steps = context.setting("steps", SETTINGS["steps"][0])
    if not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"steps is {steps!r}; give a whole number of 1 or more")
    for dataset in context.datasets:
        # the same seeds for all, also for models without chance: a mix has a member of each
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
    """The trained models of the job's seed, from the run folders that their cells kept."""
    from lirdrec.recommender.recommender import Recommender

    found = []
    for member in job.cell.extra["members"]:
        # the key of the member's cell with this seed, as `Cell.key` makes it
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
    return GroundTruth.of(train, valid, data.n_users)
