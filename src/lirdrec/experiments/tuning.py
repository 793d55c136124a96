"""Hyper-parameter tuning on validation, with the same budget for every model.

A search is a list of proposals in `tuning/NAME.json`, each a trial. `suggest` reads the results so far and returns the
trials to compute next, so a search can be interrupted and resumed, and run by several processes. Proposals are made in
pairs, from the results of all earlier pairs, so they do not depend on the number of parallel trials or on the order in
which trials end.

The first proposals are the published defaults with each loss; the next pair is random; then Optuna's TPE proposes, with
one seed per number. Trials are pruned by the median rule: from epoch `WARM_UP` on, a trial stops if its best value so
far is below the median of the earlier trials at that epoch. The thresholds are part of the proposal, so an interrupted
trial stops at the same epoch.

Only validation metrics are used; trials get the development copy of the dataset (`vault`).
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results
from lirdrec.experiments.search_spaces import Choice, Space, parts, space_of, with_loss
from lirdrec.experiments.trial import TrialResult, TrialSpec, canonical, fingerprint, locked, short_hash
from lirdrec.files.atomic import write_json

PAIR = 2  # proposals made from the same results
AT_RANDOM = 4  # proposals before TPE starts, including the published ones
WARM_UP = 20  # epochs without pruning


@dataclass(frozen=True)
class TuningState:
    """State of a search.

    Attributes:
        cells: all trials proposed so far, computed or not.
        finished: whether the budget is spent and all trials have results.
        chosen: the best trial; None if unfinished or without a successful trial. It never changes once chosen.
        trials: the results so far, in the order of the proposals.
        base: the base trial of the search.
    """

    cells: tuple[TrialSpec, ...]
    finished: bool
    chosen: TrialSpec | None
    trials: tuple[TrialResult, ...]
    base: TrialSpec

    @property
    def best(self) -> TrialResult | None:
        """The result of the best trial, or None."""
        return next((result for result in self.trials if result.cell == self.chosen), None)

    @property
    def seconds(self) -> float:
        """Total time of the trials."""
        return sum(result.seconds for result in self.trials)

    @property
    def status(self) -> str:
        """ "running", "done" or, if nothing is chosen, "out of memory" or "failed"."""
        if self.chosen is not None or not self.finished:
            return "done" if self.finished else "running"
        return "out of memory" if any(trial.status == "out of memory" for trial in self.trials) else "failed"

    def final(self, seed: int, variant: str = "", **extra: Any) -> TrialSpec:
        """The final trial of the best configuration with a seed; it scores the sealed test.

        Raises:
            ConfigError: no trial is chosen.
        """
        if self.chosen is None:
            raise ConfigError(f"{self.base.model}: no trial of its tuning has succeeded")
        return self.base.with_(
            model_options=self.chosen.model_options,
            training=self.chosen.training,
            seed=seed,
            variant=variant or self.base.variant,
            extra={**self.base.extra, "final": True, **extra},
        )


def base_cell(
    config: ExperimentConfig,
    dataset: str,
    model: str,
    feature_set: str = "",
    *,
    split: Mapping[str, Any] | None = None,
    variant: str = "",
    model_options: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> TrialSpec:
    """A "train" trial with the options of the configuration and of the experiment, the base of other trials.

    Args:
        config: gives the fixed model and training options, the metric, and the feature sets.
        dataset, model, split, variant, extra: fields of the trial.
        feature_set: a label of `config.sets`; any other label means all features.
        model_options, training: options of the experiment; they override those of the configuration.
    """
    return TrialSpec(
        "train",
        dataset,
        model,
        {**config.options_of(model), **(model_options or {})},
        {"metric": config.metric, **config.training, **(training or {})},
        variant=variant,
        feature_set=feature_set,
        modalities=config.sets.get(feature_set),
        split=split,
        extra=extra or {},
    )


def suggest(config: ExperimentConfig, results: Results, base: TrialSpec) -> TuningState:
    """Continue the search for the best configuration of `base.model`; called by every `plan`.

    Args:
        config: gives the budget, losses, sampler and output folder.
        results: the results so far.
        base: a "train" trial (see `base_cell`): its options are fixed, other options of the search space are tuned. Its
            seed is that of the trials and of the proposals.

    Raises:
        ConfigError: Optuna is needed, but not installed.
        RunFolderError: the file of proposals is damaged.
    """
    space = _space(config, base)
    if config.trials == 0:
        return TuningState((), True, _cell(base, 0, {"options": space.first[0]}), (), base)
    content: dict[str, Any] = {"space": _described(space), "sampler": config.sampler, "prune": config.prune}
    content["base"] = base.to_json() | {"dataset": fingerprint(base.dataset)}
    by_time = config.minutes is not None
    content["by"] = "time" if by_time else "trials"
    name = "-".join(filter(None, (base.dataset_name, base.model, base.feature_set, base.variant)))
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    path = config.output / "tuning" / f"{name}-{short_hash(content)[:8]}.json"
    budget = [config.trials, config.minutes]
    limit = n_trials(config, base)
    proposals, choices = _read(path)
    found = _results(base, proposals, results)
    if not _complete(config, found, limit) or not _is_chosen(choices, budget):
        with locked(path.with_suffix(".lock")):
            proposals, choices = _read(path)  # another process may have added proposals
            before = len(proposals), len(choices)
            while len(proposals) < limit:
                found = _results(base, proposals, results)
                known = len(proposals) if by_time else len(proposals) // PAIR * PAIR
                past = [one for one in found[:known] if one is not None]
                left = _left(config, past)
                if len(past) < known or (left is not None and left <= 0):
                    break
                stop = _threshold(past, config.metric) if config.prune else []
                options = _propose(config, space, proposals, past, base.seed)
                proposals.append({"options": options, "stop_below": stop, "seconds": left})
            found = _results(base, proposals[:limit], results)
            number = _best(found, config.metric)
            if _complete(config, found, limit) and number is not None and not _is_chosen(choices, budget):
                choices.append({"budget": budget, "number": number})
            if before != (len(proposals), len(choices)):
                write_json(path, {"search": content, "trials": proposals, "chosen": choices})
    proposals = proposals[:limit]
    found = _results(base, proposals, results)
    cells = tuple(_cell(base, number, proposal) for number, proposal in enumerate(proposals))
    chosen = next((cells[one["number"]] for one in choices if one["budget"] == budget), None)
    finished = chosen is not None or _complete(config, found, limit)
    return TuningState(cells, finished, chosen, tuple(one for one in found if one is not None), base)


def n_trials(config: ExperimentConfig, base: TrialSpec) -> int:
    """Maximum number of trials of the search: at most the size of the search space."""
    size = _space(config, base).size
    return size if config.trials is None else min(size, config.trials)


def _space(config: ExperimentConfig, base: TrialSpec) -> Space:
    modalities = base.modalities if base.modalities is not None else feature_names(base.dataset)
    return space_of(base.model, {**base.model_options, **base.training}, config.losses, modalities)


@lru_cache
def feature_names(dataset: str) -> tuple[str, ...]:
    """Names of the feature matrices of a dataset, in the order used by models."""
    from lirdrec.data.readers import read_any
    from lirdrec.data.storage import MANIFEST, read_manifest

    if (Path(dataset) / MANIFEST).is_file():
        return tuple(sorted(read_manifest(dataset)["features"]))
    return tuple(sorted(read_any(dataset).features))


def _is_chosen(choices: Sequence[Mapping[str, Any]], budget: list[Any]) -> bool:
    return any(one["budget"] == budget for one in choices)


def _best(found: Sequence[TrialResult | None], metric: str) -> int | None:
    """Number of the best trial, the first of tied ones."""
    best: tuple[float, int] | None = None
    for number, result in enumerate(found):
        value = result.figure(metric) if result is not None and result.done else None
        if value is not None and (best is None or value > best[0]):
            best = value, number
    return None if best is None else best[1]


def _cell(base: TrialSpec, number: int, proposal: Mapping[str, Any]) -> TrialSpec:
    of_model, of_training = parts(proposal["options"])
    limits = {name: proposal[name] for name in ("stop_below", "seconds") if proposal.get(name)}
    return base.with_(
        work="trial",
        model_options={**base.model_options, **of_model},
        training={**base.training, **of_training},
        variant=" ".join(one for one in (base.variant, f"trial {number + 1}") if one),
        extra={**{name: value for name, value in base.extra.items() if name != "final"}, **limits},
    )


def _results(base: TrialSpec, proposals: Sequence[Mapping[str, Any]], results: Results) -> list[TrialResult | None]:
    return [results.get(_cell(base, number, proposal)) for number, proposal in enumerate(proposals)]


def _complete(config: ExperimentConfig, found: Sequence[TrialResult | None], limit: int) -> bool:
    past = [one for one in found if one is not None]
    if not past or len(past) < len(found):
        return False
    left = _left(config, past)
    return len(found) >= limit or (left is not None and left <= 0)


def _left(config: ExperimentConfig, past: Sequence[TrialResult]) -> float | None:
    """Remaining seconds of tuning; None without a time budget."""
    if config.minutes is None:
        return None
    return round(config.minutes * 60 - sum(one.seconds for one in past), 1)


def _propose(
    config: ExperimentConfig,
    space: Space,
    proposals: Sequence[Mapping[str, Any]],
    past: Sequence[TrialResult],
    seed: int,
) -> Choice:
    """The next configuration, different from all earlier proposals."""
    number = len(proposals)
    proposed = {canonical(proposal["options"]) for proposal in proposals}
    if number < len(space.first):
        return space.first[number]
    generator = random.Random(f"{seed}:{number}")
    if config.sampler == "tpe" and number >= AT_RANDOM:
        for attempt in range(10):
            choice = _by_tpe(space, proposals, past, config.metric, generator.randrange(2**31) + attempt)
            if canonical(choice) not in proposed:
                return choice
    for _ in range(100):
        choice = space.draw(generator)
        if canonical(choice) not in proposed:
            return choice
    return next(choice for choice in space.all() if canonical(choice) not in proposed)


def _by_tpe(
    space: Space, proposals: Sequence[Mapping[str, Any]], past: Sequence[TrialResult], metric: str, seed: int
) -> Choice:
    optuna = _optuna()
    sampler = optuna.samplers.TPESampler(n_startup_trials=0, seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    kinds = {name: _distribution(optuna, values) for name, values in space.shared.items()}
    if len(space.branches) > 1:
        kinds["loss"] = optuna.distributions.CategoricalDistribution(list(space.branches))
    for loss, branch in space.branches.items():
        kinds |= {f"{loss}.{name}": _distribution(optuna, values) for name, values in branch.items()}
    for proposal, result in zip(proposals, past, strict=False):
        value = result.figure(metric)
        if not result.done or value is None:
            continue
        loss = proposal["options"].get("loss", "") if len(space.branches) > 1 else next(iter(space.branches))
        indices: dict[str, Any] = {"loss": loss} if len(space.branches) > 1 else {}
        indices |= {name: _index(values, proposal["options"][name]) for name, values in space.shared.items()}
        indices |= {
            f"{loss}.{name}": _index(values, proposal["options"][name]) for name, values in space.branches[loss].items()
        }
        distributions = {name: kinds[name] for name in indices}
        study.add_trial(optuna.trial.create_trial(params=indices, distributions=distributions, value=value))
    trial = study.ask()

    def ask(name: str, values: tuple[Any, ...]) -> Any:
        if len(values) == 1:
            return values[0]
        if _ordered(values):
            return values[trial.suggest_int(name, 0, len(values) - 1)]
        return values[trial.suggest_categorical(name, list(range(len(values))))]

    loss = next(iter(space.branches))
    if len(space.branches) > 1:
        loss = trial.suggest_categorical("loss", list(space.branches))
    choice = {name: ask(name, values) for name, values in space.shared.items()}
    choice |= {name: ask(f"{loss}.{name}", values) for name, values in space.branches[loss].items()}
    return with_loss(loss, choice)


def _ordered(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _distribution(optuna: Any, values: Sequence[Any]) -> Any:
    """Distribution over the indices of the values: ordered for numbers, else categorical."""
    if _ordered(values):
        return optuna.distributions.IntDistribution(0, len(values) - 1)
    return optuna.distributions.CategoricalDistribution(list(range(len(values))))


def _index(values: Sequence[Any], value: Any) -> int:
    return [canonical(one) for one in values].index(canonical(value))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            f"tuning with more than {AT_RANDOM} trials needs the package optuna: pip install 'lirdrec[experiments]', "
            "or take the sampler grid"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _threshold(past: Sequence[TrialResult], metric: str) -> list[list[float]]:
    """`[epoch, value]`: from the epoch on, a trial whose best value so far is below is stopped; steps of a rising line.

    The median (the lower one of an even number) of the best values so far of the earlier trials that were not cut off
    themselves before that epoch; a trial that ended by itself counts on with its best.
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


def _described(space: Space) -> dict[str, Any]:
    described = {"shared": space.shared, "branches": space.branches, "first": space.first}
    plain: dict[str, Any] = json.loads(json.dumps(described))
    return plain


def _read(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The proposals, and the trials chosen for each budget."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return list(content["trials"]), list(content["chosen"])
    except FileNotFoundError:
        return [], []
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path}: damaged ({error}); delete it to start the search again") from None
