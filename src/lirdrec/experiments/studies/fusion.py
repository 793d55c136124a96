"""Experiment "fusion": a weighted mix of models, with weights chosen on validation, against the best single model.

Each model is trained with each seed, and its run folder is kept. A grid of mixes, whose weights sum to 1, is evaluated
on validation, for normalized scores and for normalized ranks (`fusion_scorer`). The mix with the best mean over the
seeds is declared (its options are fixed), and then scored on the test once per seed. So are the single models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.errors import ConfigError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.studies import report_parts
from lirdrec.experiments.studies.trial_settings import settled
from lirdrec.experiments.trial_spec_and_result import RESULTS_VERSION, TrialResult, TrialSpec, fingerprint, short_hash
from lirdrec.reporting import Column, Measure, Row, Section, Table, dots, label
from lirdrec.reporting.statistics import ALPHA, compare_pairs

if TYPE_CHECKING:
    from lirdrec.experiments.worker import Job
    from lirdrec.recommender.recommender import Recommender

MODELS = ("lirdrec", "freedom")
SETTINGS = {"steps": (10, "weights are multiples of 1 / steps")}
MIX = "mix"


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """Yield the trials of the single models; then trials that evaluate all mixes; then trials of the chosen mix.

    Each of these steps waits for the results of the step before.
    """
    for members, trials in _groups(config):
        singles = [trial for trials_of_model in members.values() for trial in trials_of_model]
        yield from singles
        if len(results.done(singles)) < len(singles):
            continue
        yield from trials
        chosen = choose([results.get(trial) for trial in trials], config.metric)
        if chosen is not None:
            yield from _finals(trials, chosen)


def try_mixes(job: Job) -> list[dict[str, Any]]:
    """Do the work: return the validation metrics of all mixes of the grid, as in `fusion_scorer.try_mixes`."""
    from lirdrec.experiments.studies import fusion_scorer

    name, _, k = job.trial.training.get("metric", "recall@20").partition("@")
    return fusion_scorer.try_mixes(
        [member.scorer for member in _members(job)],
        job.validation_truth(),
        steps=int(job.trial.extra["steps"]),
        names=tuple(dict.fromkeys((name, "recall", "ndcg"))),
        cutoffs=(int(k),),
    )


def score_mix(job: Job) -> dict[str, Any]:
    """Do the work: score the declared mix on validation and sealed test; return its weights and normalization."""
    from lirdrec.experiments.studies.fusion_scorer import FusedScorer

    members, extra = _members(job), job.trial.extra
    names = [member["name"] for member in extra["members"]]
    mixed = members[0]  # all members have the same users and items; only the scores differ
    mixed.scorer = FusedScorer([member.scorer for member in members], names, extra["weights"], extra["how"])
    job.score_valid(mixed)
    job.score_test(mixed)
    return {"weights": extra["weights"], "how": extra["how"]}


def choose(results: Sequence[TrialResult | None], metric: str) -> dict[str, Any] | None:
    """Return `weights`, `how` and `value` of the mix with the best mean of `metric` over the seeds.

    Of equal mixes it is the first one. Return None until all results are there, and if one has failed.

    Args:
        results: for each seed the result of `try_mixes`.
        metric: validation metric.
    """
    done = [result for result in results if result is not None and result.done]
    if not done or len(done) < len(results):
        return None
    means = [sum(result.data[n]["figures"][metric] for result in done) / len(done) for n in range(len(done[0].data))]
    best = max(range(len(means)), key=lambda n: (round(means[n], 12), -n))
    entry = done[0].data[best]
    return {"weights": entry["weights"], "how": entry["how"], "value": means[best]}


def report(config: ExperimentConfig, results: Results) -> Path:
    """Write the report: metrics of single models and mix, best weights, whether the mix is better; return its path."""
    stage = report_parts.stage_of(results)
    metrics = report_parts.metrics_of(results, stage, config.metric)[1]
    models = config.models or MODELS
    rows, grid_rows, answers, values = [], [], [], []
    for members, trials in _groups(config):
        dataset = trials[0].dataset_name
        block = label(dataset) if len(config.datasets) > 1 else ""
        grids = [results.get(trial) for trial in trials]
        chosen = choose(grids, config.metric)
        by_model = {name: results.done(some) for name, some in members.items()}
        if chosen is not None:
            by_model[MIX] = results.done(_finals(trials, chosen))
        for name, some in by_model.items():
            title = label(name)
            if chosen is not None and name == MIX:
                used = [f"{w:g} {label(n)}" for n, w in zip(members, chosen["weights"], strict=True) if w > 0]
                title = "Mix: " + " + ".join(used)
            cells: dict[str, Any] = {"model": title, "valid": report_parts.measured(some, config.metric, "valid")}
            cells |= {metric: report_parts.measured(some, metric, stage) for metric in metrics}
            rows.append(Row(cells, block, accent=name == MIX))
            metric_values = [result.figure(config.metric, stage) for result in some]
            values += [(dataset, name, value) for value in metric_values if value is not None]
        grid_rows += _grid_rows(models, results.done(trials), config.metric, block)
        answers.append(_answer(config, results, dataset, by_model, chosen, stage))
    columns = [Column("model", "Model", format="text"), Column("valid", label(config.metric), "Valid", "higher")]
    columns += [Column(name, label(name), stage.capitalize(), "higher") for name in metrics]
    table = Table("fusion", columns, rows, "Single models, and the mix chosen on validation.")
    figure = report_parts.draw(
        dots,
        values,
        ["dataset", "model", "value"],
        "fusion",
        rows="model",
        panel="dataset" if len(config.datasets) > 1 else None,
        accent=MIX,
        x_label=f"{stage} {config.metric}",
        caption=f"{stage.capitalize()} {config.metric} of single models and of the mix, "
        f"{report_parts.over(config.seeds)}.",
    )
    sections = [Section("The mix", [*figure, table])]
    if grid_rows:
        sections.append(Section("Weights", [_grid_table(models, config.metric, grid_rows)]))
    return report_parts.write_report(
        config,
        results,
        "Mix of models",
        f"Is a mix of {report_parts.listed(map(label, models))} better than the best single model?",
        " ".join(answers),
        sections,
    )


def _grid_table(names: Sequence[str], metric: str, rows: Sequence[Row]) -> Table:
    columns = [Column("how", "Normalization", format="text")]
    columns += [Column(name, label(name), "Weight", digits=2) for name in names]
    columns.append(Column("value", label(metric), "Valid", "higher"))
    return Table("fusion-grid", columns, rows, "The best mixes on validation, and the single models.")


def _answer(
    config: ExperimentConfig,
    results: Results,
    dataset: str,
    by_model: Mapping[str, list[TrialResult]],
    chosen: Mapping[str, Any] | None,
    stage: str,
) -> str:
    subject, metric = f"On {label(dataset)}", config.metric
    if chosen is None or not by_model.get(MIX):
        return f"{subject} there is no mix yet."
    measures = {
        name: measure
        for name, some in by_model.items()
        if (measure := report_parts.measured(some, metric, stage)) is not None
    }
    mix = measures.pop(MIX, None)
    if mix is None or not measures:
        return f"{subject} there are no results."
    best = max(measures, key=lambda name: measures[name].mean)
    models = [name for name in by_model if name != MIX]
    weights = report_parts.listed(f"{label(n)} {w:g}" for n, w in zip(models, chosen["weights"], strict=True))
    text = (
        f"{subject}, the weights chosen on validation are {weights}, over {chosen['how']}s. The mix has a {stage} "
        f"{metric} of **{report_parts.format_mean_sd(mix)}**, the best single model, {label(best)}, "
        f"{report_parts.format_mean_sd(measures[best])}: {report_parts.format_gain(mix.mean, measures[best].mean)}."
    )
    ours, theirs = (results.mean_per_user(by_model[name]) for name in (MIX, best))
    for comparison in compare_pairs([("", ours, theirs)], [metric]).get("", {}).values():
        p = max(comparison.t_p_holm, comparison.w_p_holm)
        verdict, users = "is" if p < ALPHA else "is not", comparison.test.n
        text += f" A difference {verdict} shown by paired tests over {users} users (larger p-value of both: {p:.2g})."
    if sum(weight > 0 for weight in chosen["weights"]) == 1:
        text += " The chosen mix is a single model: mixing does not help here."
    return text


def _grid_rows(names: Sequence[str], results: Sequence[TrialResult], metric: str, block: str) -> list[Row]:
    """Return rows of the five best mixes by the mean over the seeds, and of the mixes that are a single model."""
    mixes = [
        (entry["weights"], entry["how"], Measure.of(result.data[n]["figures"][metric] for result in results))
        for n, entry in enumerate(results[0].data if results else ())
    ]
    mixes.sort(key=lambda mix: -(mix[2].mean if mix[2] is not None else 0.0))
    shown = mixes[:5] + [mix for mix in mixes[5:] if max(mix[0]) == 1 and mix[1] == mixes[0][1]]
    return [Row({"how": how, **dict(zip(names, weights, strict=True)), "value": m}, block) for weights, how, m in shown]


def _groups(config: ExperimentConfig) -> Iterator[tuple[dict[str, list[TrialSpec]], list[TrialSpec]]]:
    """Yield for each dataset (model → its trials, one per seed; trials that evaluate all mixes, one per seed)."""
    models = config.models or MODELS
    if len(models) < 2:
        raise ConfigError(
            "a mix needs two models or more: give them with --models, for instance --models lirdrec,freedom"
        )
    steps = config.setting("steps", SETTINGS["steps"][0])
    if not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"steps is {steps!r}; give an integer of 1 or more, for instance --set steps=10")
    for dataset in config.datasets:
        # the same seeds for all models, deterministic ones too: each mix has one member per model
        bases = {model: settled(config, dataset, model, next(iter(config.sets))) for model in models}
        evaluation = bases[models[0]].extra
        extra = {**evaluation, "final": True, "keep": True}
        members = {
            model: [base.with_(seed=seed, variant="alone", extra=extra) for seed in range(config.seeds)]
            for model, base in bases.items()
        }
        same = {"dataset": fingerprint(dataset), "seed": None}  # the seed is that of the mix, see `_members`
        described = [{"name": model, "cell": {**cells[0].to_json(), **same}} for model, cells in members.items()]
        trial = bases[models[0]].with_(
            work="fusion:try_mixes",
            variant="mixes on validation",
            extra={**evaluation, "members": described, "steps": steps},
        )
        yield members, [trial.with_(seed=seed) for seed in range(config.seeds)]


def _finals(trials: Sequence[TrialSpec], chosen: Mapping[str, Any]) -> list[TrialSpec]:
    extra = {key: value for key, value in trials[0].extra.items() if key != "steps"}
    extra |= {"weights": chosen["weights"], "how": chosen["how"], "final": True}
    return [trial.with_(work="fusion:score_mix", variant=MIX, extra=extra) for trial in trials]


def _members(job: Job) -> list[Recommender]:
    """Return the trained models of the mix with the job's seed, from their run folders."""
    from lirdrec.recommender.recommender import Recommender

    # the key of the member's trial with this seed, as in `TrialSpec.key`
    same = {"seed": job.trial.seed, "version": RESULTS_VERSION}
    keys = [short_hash({**member["cell"], **same}) for member in job.trial.extra["members"]]
    return [Recommender.load(job.folder / "runs" / key / "model") for key in keys]
