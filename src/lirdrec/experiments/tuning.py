"""Hyper-parameter tuning on validation, with the same budget for every model.

A search is a list of proposals (configurations to try) in the file `tuning/NAME.json`; each proposal becomes a trial.
`suggest` reads the results so far and adds proposals, so a search can be interrupted and resumed, and run by several
processes. Proposals are made in pairs, from the results of all earlier pairs, so they do not depend on the order in
which trials end. With a time limit they are made one at a time, each from all earlier results.

The first proposals are the published defaults with each loss; the next ones, up to `AT_RANDOM` in all, are random; then
Optuna's TPE proposes, with a seed for each number of a proposal. With the sampler "random" all are random. No
configuration is proposed twice. Trials are pruned (stopped early) by the median rule: from epoch `WARM_UP` on, a trial
stops if its best value so far is below the median of the earlier trials at that epoch. These thresholds are part of the
proposal, so an interrupted trial stops at the same epoch. Only validation metrics are used; the test is locked
(`sealed_test_set`).
"""

from __future__ import annotations

import json
import random
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.search_spaces import Choice, Space, all_numbers, branch_of, parts, space_of, with_loss
from lirdrec.experiments.trial_spec_and_result import TrialResult, TrialSpec, canonical, fingerprint, short_hash
from lirdrec.experiments.trial_store import locked
from lirdrec.files.atomic import write_json

PAIR = 2  # proposals made from the same results
AT_RANDOM = 4  # proposals before TPE starts, including the published ones
WARM_UP = 20  # first epochs, in which no trial is pruned


@dataclass(frozen=True)
class TuningState:
    """State of a search for the best configuration of a model.

    Attributes:
        cells: all trials proposed so far, computed or not.
        finished: whether the budget is spent and all trials have results.
        chosen: the best trial; None if unfinished or without a successful trial. It never changes once chosen with a
            budget. Without tuning, it has the published defaults.
        trials: the results so far, in the order of the proposals.
        base: the trial that all proposals of the search are made from.
    """

    cells: tuple[TrialSpec, ...]
    finished: bool
    chosen: TrialSpec | None
    trials: tuple[TrialResult, ...]
    base: TrialSpec

    @property
    def status(self) -> str:
        """State as a text: "running", "done" or, if no trial could be chosen, "out of memory" or "failed"."""
        if self.chosen is not None or not self.finished:
            return "done" if self.finished else "running"
        return "out of memory" if any(trial.status == "out of memory" for trial in self.trials) else "failed"

    def final(self, seed: int, variant: str = "", **extra: Any) -> TrialSpec:
        """Return the final trial of the best configuration with this seed; it scores the sealed test.

        Args:
            seed: seed of the training.
            variant: label of the trial in reports; "": the label of `base`.
            extra: entries that are added to `TrialSpec.extra`.

        Raises:
            ConfigError: no trial has been chosen.
        """
        if self.chosen is None:
            raise ConfigError(f"{self.base.model}: no tuning trial of this model has succeeded")
        return self.base.with_(
            model_options=self.chosen.model_options,
            training=self.chosen.training,
            seed=seed,
            variant=variant or self.base.variant,
            extra={**self.base.extra, "final": True, **extra},
        )


def base_trial(
    config: ExperimentConfig,
    dataset: str,
    model: str,
    feature_set: str = "",
    *,
    model_options: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
) -> TrialSpec:
    """Return a trial with the options that the configuration and the experiment fix.

    Its work is "train", and its seed 0. The trials of tuning and the final trials are made from it.

    Args:
        config: gives the fixed model and training options, the metric, and the feature sets.
        dataset, model: fields of the trial.
        feature_set: a label of `config.sets`; any other label means all feature matrices.
        model_options, training: options of the experiment; they override those of the configuration.
    """
    return TrialSpec(
        "train",
        dataset,
        model,
        {**config.options_of(model), **(model_options or {})},
        {"metric": config.metric, **config.training, **(training or {})},
        feature_set=feature_set,
        modalities=config.sets.get(feature_set),
        extra={"evaluation": config.evaluation} if config.evaluation else {},
    )


def suggest(config: ExperimentConfig, results: Results, base: TrialSpec) -> TuningState:
    """Continue the search for the best configuration of `base.model`, and return its state.

    New proposals are added to the search's file as soon as the results that they need are known, so the `plan` of an
    experiment calls this function each time. If `config.trials` is 0, the state has the published defaults as chosen.

    Args:
        config: gives the budget, losses, metric, sampler, pruning and output folder.
        results: the results so far.
        base: a "train" trial (see `base_trial`): its options are fixed, other options of the search space are tuned.
            Its seed is the seed of the trials and of the random proposals.

    Raises:
        ConfigError: Optuna is needed, but not installed.
        RunFolderError: the file of proposals is damaged.
    """
    space = _space(config, base)
    if config.trials == 0:
        return TuningState((), True, _trials(base, [{"options": space.first[0]}])[0], (), base)
    content = {
        "space": json.loads(json.dumps(asdict(space))),
        "sampler": config.sampler,
        "prune": config.prune,
        "base": base.to_json() | {"dataset": fingerprint(base.dataset)},
        "by": "trials" if config.minutes is None else "time",
    }
    name = "-".join(filter(None, (base.dataset_name, base.model, base.feature_set, base.variant)))
    name = re.sub(r"[^\w.-]", "_", name)
    path = config.output / "tuning" / f"{name}-{short_hash(content)[:8]}.json"
    budget = [config.trials, config.minutes]
    limit = n_trials(config, base)
    proposals, choices = _read(path)
    trials = _trials(base, proposals[:limit])
    if not _is_complete(config, trials, results, limit) or _chosen(choices, budget) is None:
        with locked(path.with_suffix(".lock")):
            proposals, choices = _read(path)  # another process may have added proposals
            before = len(proposals), len(choices)
            _add_proposals(config, space, base, results, proposals, limit)
            trials = _trials(base, proposals[:limit])
            if _is_complete(config, trials, results, limit) and _chosen(choices, budget) is None:
                best = _best(results.of(trials), config.metric)
                choices += [] if best is None else [{"budget": budget, "number": best}]
            if before != (len(proposals), len(choices)):
                write_json(path, {"search": content, "trials": proposals, "chosen": choices})
    number = _chosen(choices, budget)
    finished = number is not None or _is_complete(config, trials, results, limit)
    return TuningState(
        tuple(trials), finished, None if number is None else trials[number], tuple(results.of(trials)), base
    )


def _add_proposals(
    config: ExperimentConfig,
    space: Space,
    base: TrialSpec,
    results: Results,
    proposals: list[dict[str, Any]],
    limit: int,
) -> None:
    """Append proposals until there are `limit` of them, or the next one needs a missing result, or the time is over."""
    while len(proposals) < limit:
        n = len(proposals) if config.minutes is not None else len(proposals) // PAIR * PAIR
        past = results.of(_trials(base, proposals[:n]))
        left = _left(config, past)
        if len(past) < n or (left is not None and left <= 0):
            return
        stop = _threshold(past, config.metric) if config.prune else []
        options = _propose(config, space, proposals, past, base.seed)
        proposals.append({"options": options, "stop_below": stop, "seconds": left})


def n_trials(config: ExperimentConfig, base: TrialSpec) -> int:
    """Return the maximum number of trials of the search: `config.trials`, but at most the size of the search space."""
    size = _space(config, base).size
    return size if config.trials is None else min(size, config.trials)


def _space(config: ExperimentConfig, base: TrialSpec) -> Space:
    modalities = base.modalities if base.modalities is not None else feature_names(base.dataset)
    return space_of(base.model, {**base.model_options, **base.training}, config.losses, modalities)


@lru_cache
def feature_names(dataset: str) -> tuple[str, ...]:
    """Return the names of the feature matrices of a dataset, in alphabetical order, which models use."""
    from lirdrec.data.readers import read_any
    from lirdrec.data.storage import MANIFEST, read_manifest

    if (Path(dataset) / MANIFEST).is_file():
        return tuple(sorted(read_manifest(dataset)["features"]))
    return tuple(sorted(read_any(dataset).features))


@lru_cache
def keeps_order(dataset: str) -> bool:
    """Whether a dataset is split by time, as models of ordered histories need it."""
    from lirdrec.data.readers import read_any
    from lirdrec.data.splits import is_split_by_time
    from lirdrec.data.storage import MANIFEST, read_manifest

    prepared = (Path(dataset) / MANIFEST).is_file()
    return is_split_by_time(read_manifest(dataset)["info"] if prepared else read_any(dataset).info)


def _chosen(choices: Sequence[Mapping[str, Any]], budget: list[Any]) -> int | None:
    """Return the index of the trial that was chosen with this budget `[trials, minutes]`; None if there is none."""
    return next((choice["number"] for choice in choices if choice["budget"] == budget), None)


def _best(results: Sequence[TrialResult], metric: str) -> int | None:
    """Return the index of the trial with the best validation metric, the first of equals; None if none has a value."""
    values = {n: result.figure(metric) for n, result in enumerate(results) if result.done}
    known = {n: value for n, value in values.items() if value is not None}
    return max(known, key=known.__getitem__, default=None)


def _trials(base: TrialSpec, proposals: Sequence[Mapping[str, Any]]) -> list[TrialSpec]:
    """Return a trial for each proposal, with the options of `base` and of the proposal."""
    trials = []
    for number, proposal in enumerate(proposals, 1):
        model_options, training = parts(proposal["options"])
        limits = {name: proposal[name] for name in ("stop_below", "seconds") if proposal.get(name)}
        trial = base.with_(
            work="trial",
            model_options={**base.model_options, **model_options},
            training={**base.training, **training},
            variant=f"{base.variant} trial {number}".strip(),
            extra={**{name: value for name, value in base.extra.items() if name != "final"}, **limits},
        )
        trials.append(trial)
    return trials


def _is_complete(config: ExperimentConfig, trials: Sequence[TrialSpec], results: Results, limit: int) -> bool:
    """Whether there are trials, all of them have results, and the budget is spent."""
    past = results.of(trials)
    left = _left(config, past)
    spent = len(trials) >= limit or (left is not None and left <= 0)
    return bool(past) and len(past) == len(trials) and spent


def _left(config: ExperimentConfig, past: Sequence[TrialResult]) -> float | None:
    """Return `config.minutes` in seconds, less the time of all trials; None without a time limit."""
    if config.minutes is None:
        return None
    return round(config.minutes * 60 - sum(result.seconds for result in past), 1)


def _propose(
    config: ExperimentConfig,
    space: Space,
    proposals: Sequence[Mapping[str, Any]],
    past: Sequence[TrialResult],
    seed: int,
) -> Choice:
    """Return the next configuration, which is different from all earlier proposals."""
    number = len(proposals)
    proposed = {canonical(proposal["options"]) for proposal in proposals}
    if number < len(space.first):
        return space.first[number]
    generator = random.Random(f"{seed}:{number}")

    def candidates() -> Iterator[Choice]:
        if config.sampler == "tpe" and number >= AT_RANDOM:
            for attempt in range(10):
                yield _by_tpe(space, proposals, past, config.metric, generator.randrange(2**31) + attempt)
        for _ in range(100):
            yield space.draw(generator)
        yield from space.all()

    return next(choice for choice in candidates() if canonical(choice) not in proposed)


def _by_tpe(
    space: Space, proposals: Sequence[Mapping[str, Any]], past: Sequence[TrialResult], metric: str, seed: int
) -> Choice:
    """Return the next configuration by Optuna's TPE.

    Optuna gets the branch (a ranking loss or similarity) and, for each option, the index of its value.
    """
    optuna = _optuna()
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(n_startup_trials=0, seed=seed))
    losses = list(space.branches)

    def dimensions(loss: str) -> dict[str, tuple[str, tuple[Any, ...]]]:
        """Return name of an Optuna parameter → (option, its values), for one branch."""
        shared = {name: (name, values) for name, values in space.shared.items()}
        return shared | {f"{loss}.{name}": (name, values) for name, values in space.branches[loss].items()}

    def distribution(values: Sequence[Any]) -> Any:
        """Return a distribution over the indices of the values: ordered for numbers, else categorical."""
        if all_numbers(values):
            return optuna.distributions.IntDistribution(0, len(values) - 1)
        return optuna.distributions.CategoricalDistribution(list(range(len(values))))

    for proposal, result in zip(proposals, past, strict=False):
        value, options = result.figure(metric), proposal["options"]
        if not result.done or value is None:
            continue
        indices: dict[str, Any] = {}
        distributions = {}
        loss = losses[0]
        if len(losses) > 1:
            indices["loss"] = loss = branch_of(options)
            distributions["loss"] = optuna.distributions.CategoricalDistribution(losses)
        for key, (name, values) in dimensions(loss).items():
            indices[key] = [canonical(known) for known in values].index(canonical(options[name]))
            distributions[key] = distribution(values)
        study.add_trial(optuna.trial.create_trial(params=indices, distributions=distributions, value=value))
    trial = study.ask()
    loss = trial.suggest_categorical("loss", losses) if len(losses) > 1 else losses[0]
    choice = {}
    for key, (name, values) in dimensions(loss).items():
        if len(values) == 1:
            index = 0
        elif all_numbers(values):
            index = trial.suggest_int(key, 0, len(values) - 1)
        else:
            index = trial.suggest_categorical(key, list(range(len(values))))
        choice[name] = values[index]
    return with_loss(loss, choice)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            f"tuning with more than {AT_RANDOM} trials needs the package optuna: pip install 'lirdrec[experiments]', "
            "or use --sampler random"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _threshold(past: Sequence[TrialResult], metric: str) -> list[list[float]]:
    """Return pruning thresholds `[epoch, value]`: from the epoch on, a trial stops if its best value is below `value`.

    The value is the median of the best values that earlier trials had reached by that epoch; of two middle values, the
    lower one. Trials that were pruned before that epoch do not count; a trial that ended unpruned counts with its best.
    Return [] if fewer than two trials count.
    """
    curves = []
    for result in past:
        if result.done and result.history:
            best, curve = float("-inf"), {}
            for line in result.history:
                best = max(best, line.get(metric, float("-inf")))
                curve[int(line["epoch"])] = best
            curves.append((curve, bool((result.data or {}).get("stopped_early"))))
    if len(curves) < PAIR:
        return []
    steps: list[list[float]] = []
    for epoch in range(WARM_UP, max(max(curve) for curve, _ in curves) + 1):
        values = [curve.get(epoch, max(curve.values())) for curve, cut in curves if not cut or epoch in curve]
        if len(values) < PAIR:
            break
        value = statistics.median_low(values)
        if value > float("-inf") and (not steps or value != steps[-1][1]):
            steps.append([epoch, value])
    return steps


def _read(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the proposals, and the index of the trial chosen for each budget; both lists are empty without a file.

    Raises:
        RunFolderError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return list(content["trials"]), list(content["chosen"])
    except FileNotFoundError:
        return [], []
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path}: the file is damaged ({error}); delete it to start the search again") from None
