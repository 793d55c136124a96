"""Score recommendation lists of other systems on the sealed test, and report which other lists were scored on it.

`lirdrec evaluate --lists` scores one file, which has a list for each user. In `lirdrec experiment compare --lists
NAME=FILE` such a file is a row beside the models. The declaration of the lists has the checksum of the file: once they
have been scored on the test, their name cannot be used for another file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.errors import ConfigError
from lirdrec.experiments.config import CUTOFFS, FINAL_METRICS, beyond_accuracy
from lirdrec.experiments.sealed_test_set import (
    SEALED,
    Preregistration,
    SealedTestSet,
    declaration_name,
    without_test,
    write_test,
)
from lirdrec.experiments.trial_spec_and_result import TrialSpec, fingerprint
from lirdrec.experiments.trial_store import locked
from lirdrec.files.atomic import atomic_write, sha256
from lirdrec.files.input_file_checks import stat_path

if TYPE_CHECKING:
    from lirdrec.evaluation.evaluator import Metrics
    from lirdrec.experiments.worker import Job

WORK = "lirdrec.experiments.lists:score"  # `TrialSpec.work` of lists, with the module name of stored results
FOLDER = Path("experiments") / "lists"  # default folder of the sealed tests of `evaluate --lists`


@dataclass(frozen=True)
class ScoredLists:
    """Test metrics of recommendation lists.

    Attributes:
        metrics: the metrics of the lists with confidence intervals, and the values of each user.
        others: names of the other lists in the folder that have been scored on this test set.
    """

    metrics: Metrics
    others: tuple[str, ...]


def score_lists(
    dataset: str | Path,
    file: str | Path,
    *,
    name: str | None = None,
    folder: str | Path = FOLDER,
    k: Sequence[int] | None = None,
    metrics: Sequence[str] | None = None,
) -> ScoredLists:
    """Score recommendation lists on the sealed test of a dataset.

    A repeated call with the same file, cut-offs and metrics returns the recorded metrics.

    Args:
        dataset: path of a dataset, as read by `read_any`.
        file: the lists, as read by `read_lists`.
        name: name of the lists; None: the name of the file without its ending.
        folder: folder in which the sealed test, its declarations and its scores are stored.
        k, metrics: as in `evaluate_external`.

    Raises:
        ConfigError: the name is not allowed, or other lists of this name have been scored; a metric is unknown, or a
            cut-off exceeds the lists.
        DataError: the dataset or the lists cannot be read.
        FileNotFoundError: the file of the lists does not exist.
        RunFolderError: a file in `folder` is damaged.
    """
    import polars as pl

    from lirdrec.data.readers import read_any
    from lirdrec.evaluation.evaluator import Metrics
    from lirdrec.evaluation.external_lists import default_metrics, fitting_cutoffs, metrics_of_lists, read_lists
    from lirdrec.reporting.statistics import bootstrap_intervals

    trial = _trial(dataset, Path(file).name.partition(".")[0] if name is None else name, _digest(file))
    data = read_any(dataset)
    sealed_folder = Path(folder) / "sealed" / f"{trial.dataset_name}-{fingerprint(dataset)[:8]}"
    preregistration = Preregistration(sealed_folder)
    _check_same(preregistration, trial)
    development = without_test(data)
    lists = read_lists(file, development)
    names = default_metrics(data) if metrics is None else metrics_of_lists(metrics)
    cutoffs = fitting_cutoffs(lists, k)
    with locked(sealed_folder.parent / f"{sealed_folder.name}.lock"):
        if not (sealed_folder / SEALED).is_file():
            write_test(data, sealed_folder)
    preregistration.declare(trial)
    users = sealed_folder / "per_user" / f"{trial.variant}-{_digest(file)}.parquet"
    options: dict[str, Any] = {"cutoffs": cutoffs, "metrics": names, "per_user": users}
    users.unlink(missing_ok=True)
    values = SealedTestSet(sealed_folder).score_lists(trial, lists, development, **options)
    frame = pl.read_parquet(users, glob=False)
    columns = {name: frame[name].cast(pl.Float64).to_numpy() for name in frame.columns[1:]}
    scored = Metrics(values, frame.height, frame, intervals=bootstrap_intervals(columns))
    return ScoredLists(scored, tuple(n for n in _scored_names(preregistration) if n != trial.variant))


def _trial(dataset: str | Path, name: str, digest: str, file: str = "") -> TrialSpec:
    if not name.strip() or "|" in name or "/" in name:
        raise ConfigError(f"the name of the lists is {name!r}; it must not be empty, and must not contain | or /")
    extra = {"final": True, "lists": digest} | ({"file": file} if file else {})
    return TrialSpec(WORK, str(dataset), "", variant=name, extra=extra)


def _digest(file: str | Path) -> str:
    stat_path(Path(file))
    return sha256(Path(file))[:16]


def _check_same(preregistration: Preregistration, trial: TrialSpec) -> None:
    """Raise a ConfigError if another file of lists with the same name has been scored on the test."""
    declared = preregistration.declared(trial)
    if declared is not None and declared["extra"] != dict(trial.extra) and preregistration.scored(trial):
        raise ConfigError(
            f"lists '{trial.variant}': other lists with this name have been scored on this test; choose between lists"
            " by their validation metrics, and give these lists another name with --name"
        )


def _scored_names(preregistration: Preregistration) -> Iterator[str]:
    for declared in preregistration.declarations():
        parts = [part.strip() for part in declared.split("|")]
        trial = TrialSpec(WORK, "-", "", variant=parts[1])
        if parts[-1] == WORK and declaration_name(trial) == declared and preregistration.scored(trial):
            yield parts[1]


def planned(
    datasets: Sequence[str], lists: Mapping[str, str], output: Path, evaluation: Mapping[str, Any] | None = None
) -> Iterator[TrialSpec]:
    """Yield one trial for each file of `compare --lists NAME=FILE`, and copy the file into the experiment's folder.

    Args:
        datasets: the first one is the dataset of the lists.
        lists: name → file.
        output: the experiment's folder.
        evaluation: `ExperimentConfig.evaluation`, the same as for the models.

    Raises:
        ConfigError: lists have the name of a model, or a name that is not allowed.
        FileNotFoundError: a file does not exist.
    """
    from lirdrec.models.registry import model_names

    for name, file in lists.items():
        if name in model_names():
            raise ConfigError(f"--lists {name}: a model has this name; give the lists another name")
        digest = _digest(file)
        copy = output / "lists" / f"{digest}{''.join(Path(file).suffixes)}"
        if not copy.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(copy) as temporary:
                temporary.write_bytes(Path(file).read_bytes())
        trial = _trial(datasets[0], name, digest, copy.name)
        yield replace(trial, extra={**trial.extra, "evaluation": dict(evaluation)}) if evaluation else trial


def score(job: Job) -> dict[str, Any]:
    """Do the work of a trial with recommendation lists: score them on validation, if there is any, and on the test."""
    from lirdrec.evaluation.external_lists import evaluate_external, fitting_cutoffs, read_lists

    file = job.folder / "lists" / os.path.basename(str(job.trial.extra["file"]))
    lists = read_lists(file, job.dataset)
    chosen = job.trial.extra.get("evaluation", {})
    names = tuple(dict.fromkeys((*chosen.get("metrics", FINAL_METRICS), *beyond_accuracy(job.dataset))))
    cutoffs = fitting_cutoffs(lists, [k for k in chosen.get("cutoffs", CUTOFFS) if k <= lists.items.shape[1]] or None)
    if len(job.dataset.valid):
        job.figures["valid"] = dict(evaluate_external(lists, job.dataset, "valid", k=cutoffs, metrics=names).values)
    if job.sealed_folder is None:
        raise ConfigError(f"{job.trial.variant}: this trial is not final, and only a final trial may score the test")
    per_user = job.folder / "per_user" / f"{job.runs.name}.parquet"
    options: dict[str, Any] = {"cutoffs": cutoffs, "metrics": names, "per_user": per_user}
    options |= {name: chosen.get(name) for name in ("test_history", "test_target")}
    job.figures["test"] = SealedTestSet(job.sealed_folder).score_lists(job.trial, lists, job.dataset, **options)
    job.per_user = per_user.relative_to(job.folder).as_posix()
    return {"places": int(lists.items.shape[1])}
