"""Sealed test set: training and tuning have no access to it, and each preregistered model is scored once.

`seal` splits a dataset into two separate subfolders of the experiment's folder:

    data/NAME/          the development copy: a prepared dataset without test interactions, for training and tuning
    sealed/NAME/        test.npy, declarations.json, scores/

A declaration (model, variant, feature set … → options) is written before the first test score of these options and
cannot be changed after this score. Each (declaration, seed) is scored once; later calls return the recorded metrics.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.experiments.config import CUTOFFS, FINAL_METRICS, beyond_accuracy
from lirdrec.experiments.trial_spec_and_result import TrialSpec, fingerprint, short_hash
from lirdrec.experiments.trial_store import locked, read_checked, write_checked
from lirdrec.files.atomic import atomic_write, sha256, write_errors, write_json

if TYPE_CHECKING:
    from lirdrec.data.dataset import Dataset
    from lirdrec.evaluation.evaluation_protocol import TestHistory, TestTarget
    from lirdrec.evaluation.evaluator import Metrics
    from lirdrec.evaluation.external_lists import ExternalLists
    from lirdrec.recommender.recommender import Recommender

SEALED, COUNTS = "test.npy", "counts.json"
LABELS = ("model", "variant", "feature_set", "work")  # fields in the name of a declaration
OPTIONS = ("model_options", "training", "modalities", "extra")  # fields that a declaration fixes


@dataclass(frozen=True)
class Sealed:
    """Folders of a sealed dataset.

    Attributes:
        development: the prepared dataset without test interactions.
        sealed_folder: the folder of the test interactions, the declarations and the scores.
    """

    development: Path
    sealed_folder: Path

    def is_complete(self) -> bool:
        """Whether both folders have been written."""
        return (self.development / "manifest.json").is_file() and (self.sealed_folder / SEALED).is_file()


def seal(dataset: str | Path, folder: str | Path, split: Mapping[str, Any] | None = None) -> Sealed:
    """Split a dataset into its development copy and the sealed test set, and return their folders.

    If that was done before, nothing is written.

    Args:
        dataset: path of a dataset, as read by `read_any`.
        folder: the experiment's folder.
        split: another split of all interactions, as arguments of `Dataset.resplit`; None: the dataset's own.

    Raises:
        DataError: the dataset does not exist or cannot be read, or does not allow the split.
        RunFolderError: the folder cannot be written.
    """
    name = f"{Path(os.path.abspath(dataset)).name}-{fingerprint(dataset)[:8]}"
    if split:
        name += f"-{split.get('split', 'split')}-{short_hash(dict(split))[:8]}"
    sealed = Sealed(Path(folder) / "data" / name, Path(folder) / "sealed" / name)
    if not sealed.is_complete():
        with locked(Path(folder) / "locks" / f"seal-{name}"):
            if not sealed.is_complete():  # another process may have sealed it in the meantime
                _seal(dataset, split, sealed)
    return sealed


def _seal(dataset: str | Path, split: Mapping[str, Any] | None, sealed: Sealed) -> None:
    from lirdrec.data.readers import read_any
    from lirdrec.data.storage import verify_features

    data = read_any(dataset)
    verify_features(data)
    if split:
        data = data.resplit(**split)
    write_test(data, sealed.sealed_folder)
    without_test(data).save(sealed.development, overwrite=True)


def write_test(data: Dataset, sealed_folder: Path) -> None:
    """Write the test interactions of a dataset and its numbers of users, items, interactions into a sealed folder."""
    test = sealed_folder / SEALED
    with write_errors(sealed_folder):
        sealed_folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(test) as temporary, temporary.open("wb") as file:
        columns = [data.test.users, data.test.items, data.test.timestamps]
        np.save(file, np.stack([column for column in columns if column is not None]))
    counts: dict[str, Any] = {"users": data.n_users, "items": data.n_items}
    counts["interactions"] = len(data.train) + len(data.valid) + len(data.test)
    write_json(sealed_folder / COUNTS, counts | {"test_sha256": sha256(test)})


def without_test(dataset: Dataset) -> Dataset:
    """Return the dataset with an empty test split, and without its folder and other facts that name its source."""
    from lirdrec.data.dataset import Interactions

    empty = np.empty(0, dtype=np.int64)
    times = None if dataset.test.timestamps is None else empty
    return dataclasses.replace(
        dataset,
        test=Interactions(empty, empty, times),
        info={name: dataset.info[name] for name in ("split", "timestamps") if dataset.info.get(name)}
        | {"development": True},
        folder=None,
    )


def declaration_name(trial: TrialSpec) -> str:
    """Return the name of a final trial's declaration: model, variant, feature set and work; all seeds share it."""
    return " | ".join(str(getattr(trial, label)) for label in LABELS)


def declared_options(trial: TrialSpec) -> dict[str, Any]:
    """Return what the declaration of a final trial fixes: its model and training options, `modalities` and `extra`."""
    values = trial.to_json()
    return {name: values[name] for name in OPTIONS}


class Preregistration:
    """The declarations of final models (their options, fixed before the test), stored in the sealed folder."""

    def __init__(self, sealed_folder: str | Path):
        self.sealed_folder = Path(sealed_folder)
        self.path = self.sealed_folder / "declarations.json"

    def declarations(self) -> dict[str, dict[str, Any]]:
        """Return name → options of all declarations; {} if there is no file of declarations yet.

        Raises:
            RunFolderError: the file is damaged.
        """
        try:
            return dict(json.loads(self.path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise RunFolderError(
                f"{self.path}: the file is damaged ({error}); restore it, or start again in another folder"
            ) from None

    def declare(self, trial: TrialSpec) -> None:
        """Record the options of a final trial, for all its seeds; they replace other options that were not scored yet.

        Raises:
            ConfigError: the trial is declared with other options, and its test has been scored already.
            RunFolderError: the file of declarations is damaged.
        """
        name, options = declaration_name(trial), declared_options(trial)
        if self.declared(trial) == options:
            return
        with locked(self.sealed_folder / "lock"):
            declarations = self.declarations()
            declared = declarations.get(name, options)
            if declared != options and self.scored(trial):
                raise ConfigError(
                    f"{name}: its test has been scored with other options ({_difference(declared, options)}), which "
                    "cannot be changed afterwards; use the same settings, or another --output"
                )
            write_json(self.path, {**declarations, name: options})

    def declared(self, trial: TrialSpec) -> dict[str, Any] | None:
        """Return the options that were declared for the trial, or None if it is not declared."""
        return self.declarations().get(declaration_name(trial))

    def scored(self, trial: TrialSpec) -> list[int]:
        """Return the seeds with which the trial's declaration has been scored on the test, in ascending order."""
        paths = (self.sealed_folder / "scores").glob(f"{short_hash(declaration_name(trial))}-*.json")
        return sorted({int(path.stem.split("-")[1]) for path in paths})


class SealedTestSet:
    """Test interactions in the sealed folder that `seal` made.

    They are read only when a declared model is scored for the first time with a seed.
    """

    def __init__(self, sealed_folder: str | Path):
        self.sealed_folder = Path(sealed_folder)
        self.preregistration = Preregistration(sealed_folder)

    def score(
        self,
        trial: TrialSpec,
        recommender: Recommender,
        development: Dataset,
        *,
        candidates: Literal["all", "cold"] = "all",
        metrics: Sequence[str] = FINAL_METRICS,
        cutoffs: Sequence[int] = CUTOFFS,
        test_history: TestHistory | None = None,
        test_target: TestTarget | None = None,
        mask_seen: bool = True,
        per_user: Path | None = None,
    ) -> dict[str, float]:
        """Return the test metrics of a declared model.

        The first call for a declaration, seed and `candidates` computes and records them. Later calls return the
        recorded metrics, even if they ask for other metrics or cut-offs.

        Args:
            trial: the final trial; its options must be the declared ones.
            recommender: trained with these options and the trial's seed, on `development`.
            development: the dataset without test interactions.
            candidates: "all": rank all items; "cold": rank only items without training interactions.
            metrics: names of metrics, without cut-off; metrics beyond accuracy are added.
            cutoffs: the cut-offs of these metrics.
            test_history, test_target, mask_seen: as in `evaluate`.
            per_user: Parquet file to write with the values of each user; None: no file.

        Raises:
            ConfigError: the trial is not declared; its options or those of the recommender differ from the
                declaration; or `development` has test interactions.
            RunFolderError: the test interactions or the recorded scores are damaged.
        """
        from lirdrec.evaluation.evaluator import evaluate

        self._check_declared(trial, development)
        _check_trained(trial, recommender)
        metrics = tuple(dict.fromkeys((*metrics, *beyond_accuracy(development))))
        options: dict[str, Any] = {"metrics": metrics, "candidates": candidates, "per_user": True}
        options |= {"test_history": test_history, "test_target": test_target, "mask_seen": mask_seen}

        def measure(complete: Dataset) -> Metrics:
            return evaluate(recommender, complete, "test", k=cutoffs, **options)

        return self._once(trial, measure, development, "" if candidates == "all" else f"-{candidates}", per_user)

    def score_lists(
        self,
        trial: TrialSpec,
        lists: ExternalLists,
        development: Dataset,
        *,
        cutoffs: Sequence[int],
        metrics: Sequence[str],
        test_history: TestHistory | None = None,
        test_target: TestTarget | None = None,
        per_user: Path | None = None,
    ) -> dict[str, float]:
        """Return the test metrics of declared recommendation lists that were made elsewhere.

        The same lists may be scored again with other cut-offs or metrics; a repeated call returns the recorded metrics.

        Args:
            trial: the trial of the lists; its declaration has their checksum.
            lists: lists that were read with the ids of `development`.
            cutoffs, metrics, test_history, test_target: as in `evaluate_external`.
            per_user: Parquet file to write with the values of each user; None: no file.

        Raises:
            ConfigError, RunFolderError: as for `score`.
        """
        from lirdrec.evaluation.external_lists import evaluate_external

        self._check_declared(trial, development)

        def measure(complete: Dataset) -> Metrics:
            protocol: dict[str, Any] = {"test_history": test_history, "test_target": test_target}
            return evaluate_external(lists, complete, k=cutoffs, metrics=metrics, per_user=True, **protocol)

        suffix = f"-{short_hash([*cutoffs, *metrics])[:8]}"
        return self._once(trial, measure, development, suffix, per_user)

    def _once(
        self,
        trial: TrialSpec,
        measure: Callable[[Dataset], Metrics],
        development: Dataset,
        suffix: str,
        per_user: Path | None,
    ) -> dict[str, float]:
        """Return the recorded metrics of a trial; the first call computes them by `measure` and records them.

        `measure` gets `development` with the test interactions.
        """
        from lirdrec.data.dataset import Interactions

        name = declaration_name(trial)
        stem = f"{short_hash(name)}-{trial.seed}{suffix}"
        path = self.sealed_folder / "scores" / f"{stem}.json"
        with locked(self.sealed_folder / "locks" / stem):
            users = path.with_suffix(".parquet")
            if path.is_file():
                if per_user is not None and users.is_file() and not per_user.is_file():
                    _write(per_user, lambda temporary: temporary.write_bytes(users.read_bytes()))
                return _recorded(path)
            test = Interactions(*_test_interactions(self.sealed_folder))
            result = measure(dataclasses.replace(development, test=test, folder=None))
            assert result.per_user is not None
            for file in (users, per_user):
                if file is not None:
                    _write(file, result.per_user.write_parquet)
            content = {"declaration": name, "seed": trial.seed, "options": declared_options(trial)}
            write_checked(path, content | {"figures": result.values})
        return dict(result.values)

    def _check_declared(self, trial: TrialSpec, development: Dataset) -> None:
        """Raise a ConfigError unless the trial is declared with its options, and the dataset has no test."""
        name, options = declaration_name(trial), self.preregistration.declared(trial)
        if options is None:
            raise ConfigError(
                f"{name}: this trial is not declared, so its test cannot be scored; declare its options first"
                " (Preregistration.declare)"
            )
        if options != declared_options(trial):
            different = _difference(options, declared_options(trial))
            raise ConfigError(
                f"{name}: the trial was declared with other options ({different}), so its test cannot be scored;"
                " use the declared options"
            )
        if len(development.test):
            raise ConfigError(f"{name}: this dataset has test interactions; score with the development copy")


def _recorded(path: Path) -> dict[str, float]:
    """Return the metrics in the file of an earlier test score; raise a RunFolderError if it is damaged."""
    try:
        return dict(read_checked(path)["figures"])
    except (ValueError, KeyError) as error:
        raise RunFolderError(
            f"{path}: the file is damaged ({error}); restore it, or start again in another folder"
        ) from None


def _test_interactions(sealed_folder: Path) -> np.ndarray:
    """Read user rows, item rows and, if known, timestamps of the T test interactions: `(2, T)` or `(3, T)` int64.

    Raises:
        RunFolderError: the file, or that of the counts, is damaged; or the file does not have its recorded checksum.
    """
    from lirdrec.data.features import open_array

    path = sealed_folder / COUNTS
    try:
        recorded = json.loads(path.read_text(encoding="utf-8")).get("test_sha256")
        path = sealed_folder / SEALED
        if recorded not in (None, sha256(path)):  # earlier versions recorded none
            raise ValueError("wrong checksum")
        return open_array(path, mapped=False)
    except (OSError, ValueError, AttributeError) as error:
        raise RunFolderError(f"{path}: the file is damaged ({error}); start again in another folder") from None


def _check_trained(trial: TrialSpec, recommender: Recommender) -> None:
    """Raise a ConfigError unless the recommender has the trial's model, model and training options, and seed."""
    from lirdrec.config import to_dict
    from lirdrec.experiments.config import resolve_options

    model, training = resolve_options(trial)
    info = recommender.info
    expected = {"model": trial.model, **to_dict(model), "seed": trial.seed}
    actual = {"model": info.get("model"), **info.get("model_config", {}), "seed": info.get("seed")}
    if "training" in info:
        expected |= {f"training.{key}": value for key, value in to_dict(training).items()}
        actual |= {f"training.{key}": value for key, value in info["training"].items()}
    if actual != expected:
        raise ConfigError(
            f"{declaration_name(trial)}: the recommender is not of this trial; it was trained with"
            f" {_difference(actual, expected)}"
        )


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Describe the first option whose values differ: `key = 3, not 4`, the value in `old` first."""
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if before != after:
            if isinstance(before, Mapping) and isinstance(after, Mapping):
                return f"{key}: {_difference(before, after)}"
            return f"{key} = {before!r}, not {after!r}"
    return "nothing else"


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        write(temporary)
