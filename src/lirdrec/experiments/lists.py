"""Recommendation lists made elsewhere, under the sealed test: each name has one content, and all of them are counted.

`lirdrec evaluate --lists` scores one file; in `lirdrec experiment compare --lists NAME=FILE` a list is a row beside
the models. The declaration of a list is the checksum of its file: once its test is scored, the name cannot stand for
another file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.errors import ConfigError
from lirdrec.experiments.config import CUTOFFS, FINAL_METRICS, beyond_accuracy
from lirdrec.experiments.trial import TrialSpec, fingerprint, locked
from lirdrec.experiments.vault import SEALED, Preregistration, Vault, declaration_name, without_test, write_test
from lirdrec.files.atomic import atomic_write, sha256
from lirdrec.files.checks import stat_path

if TYPE_CHECKING:
    from lirdrec.evaluation.evaluator import Metrics
    from lirdrec.experiments.worker import Job

WORK = "lirdrec.experiments.lists:score"  # `TrialSpec.work` of a list
FOLDER = Path("experiments") / "lists"  # of the sealed test of `evaluate --lists`


@dataclass(frozen=True)
class ScoredLists:
    """Test metrics of lists.

    Attributes:
        metrics: their metrics with intervals, and the values of each user.
        others: names of the other lists that have been scored on this test set in the folder.
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
    """Score lists on the sealed test of a dataset; a repeated call returns the recorded metrics.

    Args:
        dataset: path of a dataset, as read by `read_any`.
        file: the lists, as read by `read_lists`.
        name: stands for the lists; None: the name of the file without its ending.
        folder: where the declarations and scores of the test set are kept.
        k, metrics: as of `evaluate_external`.

    Raises:
        ConfigError: other lists of this name have been scored; an unknown metric, a cut-off beyond the lists.
        DataError: the dataset or the lists cannot be read.
    """
    import polars as pl

    from lirdrec.data.readers import read_any
    from lirdrec.evaluation.evaluator import Metrics
    from lirdrec.evaluation.external_lists import default_metrics, fitting_cutoffs, metrics_of_lists, read_lists
    from lirdrec.reporting.statistics import bootstrap_intervals

    trial = _trial(dataset, Path(file).name.partition(".")[0] if name is None else name, _digest(file))
    data = read_any(dataset)
    vault = Path(folder) / "sealed" / f"{trial.dataset_name}-{fingerprint(dataset)[:8]}"
    preregistration = Preregistration(vault)
    _check_same(preregistration, trial)
    development = without_test(data)
    lists = read_lists(file, development)
    names = default_metrics(data) if metrics is None else metrics_of_lists(metrics)
    cutoffs = fitting_cutoffs(lists, k)
    with locked(vault.parent / f"{vault.name}.lock"):
        if not (vault / SEALED).is_file():
            write_test(data, vault)
    preregistration.declare(trial)
    users = vault / "per_user" / f"{trial.variant}-{_digest(file)}.parquet"
    options: dict[str, Any] = {"cutoffs": cutoffs, "metrics": names, "per_user": users}
    users.unlink(missing_ok=True)
    values = Vault(vault).score_lists(trial, lists, development, **options)
    frame = pl.read_parquet(users, glob=False)
    columns = {name: frame[name].cast(pl.Float64).to_numpy() for name in frame.columns[1:]}
    scored = Metrics(values, frame.height, frame, intervals=bootstrap_intervals(columns))
    return ScoredLists(scored, tuple(n for n in _scored_names(preregistration) if n != trial.variant))


def _trial(dataset: str | Path, name: str, digest: str, file: str = "") -> TrialSpec:
    if not name.strip() or "|" in name or "/" in name:
        raise ConfigError(f"the name of lists {name!r} must not be empty or hold | or /")
    extra = {"final": True, "lists": digest} | ({"file": file} if file else {})
    return TrialSpec(WORK, str(dataset), "", variant=name, extra=extra)


def _digest(file: str | Path) -> str:
    stat_path(Path(file))
    return sha256(Path(file))[:16]


def _check_same(preregistration: Preregistration, trial: TrialSpec) -> None:
    """Raise where the name stands for other lists whose test has been scored."""
    declared = preregistration.declared(trial)
    if declared is not None and declared["extra"] != dict(trial.extra) and preregistration.scored(trial):
        raise ConfigError(
            f"lists '{trial.variant}': others of this name have been scored on this test; choose between lists on"
            " validation, and give these a name of their own (--name)"
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
    """The trials of `compare --lists NAME=FILE`; each file is copied into the experiment's folder.

    `evaluation` are the options of the evaluation of the models, which the lists share.

    Raises:
        ConfigError: a name that a model has.
        DataError: a file does not exist.
    """
    from lirdrec.models.registry import model_names

    for name, file in lists.items():
        if name in model_names():
            raise ConfigError(f"--lists {name} is the name of a model; give the lists another name")
        digest = _digest(file)
        copy = output / "lists" / f"{digest}{''.join(Path(file).suffixes)}"
        if not copy.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(copy) as temporary:
                temporary.write_bytes(Path(file).read_bytes())
        trial = _trial(datasets[0], name, digest, copy.name)
        yield replace(trial, extra={**trial.extra, "evaluation": dict(evaluation)}) if evaluation else trial


def score(job: Job) -> dict[str, Any]:
    """Work of a list in an experiment: score it on the sealed test."""
    from lirdrec.evaluation.external_lists import evaluate_external, fitting_cutoffs, read_lists

    file = job.folder / "lists" / os.path.basename(str(job.cell.extra["file"]))
    lists = read_lists(file, job.dataset)
    chosen = job.cell.extra.get("evaluation", {})
    names = tuple(dict.fromkeys((*chosen.get("metrics", FINAL_METRICS), *beyond_accuracy(job.dataset))))
    cutoffs = fitting_cutoffs(lists, [k for k in chosen.get("cutoffs", CUTOFFS) if k <= lists.items.shape[1]] or None)
    if len(job.dataset.valid):
        job.figures["valid"] = dict(evaluate_external(lists, job.dataset, "valid", k=cutoffs, metrics=names).values)
    if job.vault is None:
        raise ConfigError(f"{job.cell.variant}: only a final trial may score the test")
    per_user = job.folder / "per_user" / f"{job.runs.name}.parquet"
    options: dict[str, Any] = {"cutoffs": cutoffs, "metrics": names, "per_user": per_user}
    options |= {name: chosen.get(name) for name in ("test_history", "test_target")}
    job.figures["test"] = Vault(job.vault).score_lists(job.cell, lists, job.dataset, **options)
    job.per_user = per_user.relative_to(job.folder).as_posix()
    return {"places": int(lists.items.shape[1])}
