"""The sealed test: what trains and tunes never holds a test pair; what is declared first is scored once.

`seal` splits a dataset into two places of the experiment's folder that do not lie below each other:

    data/NAME/          the development copy, a prepared dataset without its test pairs: all that training cells get
    sealed/NAME/        test.npy, declarations.json, scores/

A declaration (model, variant, feature set … → options) is written before the first test score of it and cannot change
after. Each (declaration, seed) is scored once: the figures are kept and are what every later call gets.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.experiments.config import CUTOFFS, FINAL_METRICS
from lirdrec.experiments.trial import (
    TrialSpec,
    fingerprint,
    locked,
    read_checked,
    short_hash,
    write_checked,
)
from lirdrec.files.atomic import atomic_write, sha256, write_errors, write_json

if TYPE_CHECKING:
    from lirdrec.data.dataset import Dataset
    from lirdrec.recommender.recommender import Recommender

SEALED = "test.npy"
LABELS = ("model", "variant", "feature_set", "work")  # what a declaration is named by
OPTIONS = ("model_options", "training", "modalities", "extra")  # what it fixes


@dataclass(frozen=True)
class Sealed:
    """Where the parts of a sealed dataset are.

    Attributes:
        development: the prepared dataset without test pairs.
        vault: the folder of the test pairs, the declarations and the scores.
    """

    development: Path
    vault: Path


def seal(dataset: str | Path, folder: str | Path, split: Mapping[str, Any] | None = None) -> Sealed:
    """Split a dataset into its development copy and the sealed test, if that was not done before.

    Args:
        dataset: anything that `read_any` reads.
        folder: the experiment's folder.
        split: another split of all its pairs, as arguments of `Dataset.resplit`, made before sealing; None: its own.

    Raises:
        DataError: no such dataset, or a split that it does not allow.
        RunFolderError: the folder cannot be written.
    """
    found = places(dataset, folder, split)
    if _is_whole(found):
        return found
    with locked(Path(folder) / "locks" / f"seal-{found.vault.name}"):
        if not _is_whole(found):  # another process may have done it in the meantime
            from lirdrec.data.readers import read_any
            from lirdrec.data.verification import verify_features

            whole = read_any(dataset)
            verify_features(whole)
            if split:
                whole = whole.resplit(**split)
            with write_errors(found.vault):
                found.vault.mkdir(parents=True, exist_ok=True)
            with atomic_write(found.vault / SEALED) as temporary, temporary.open("wb") as file:
                np.save(file, np.stack([whole.test.users, whole.test.items]))
            counts: dict[str, Any] = {"users": whole.n_users, "items": whole.n_items}
            counts["interactions"] = len(whole.train) + len(whole.valid) + len(whole.test)
            counts["test_sha256"] = sha256(found.vault / SEALED)
            write_json(found.vault / "counts.json", counts)
            without_test(whole).save(found.development, overwrite=True)
    return found


def places(dataset: str | Path, folder: str | Path, split: Mapping[str, Any] | None = None) -> Sealed:
    """Where `seal` puts what; makes nothing."""
    name = f"{Path(os.path.abspath(dataset)).name}-{fingerprint(dataset)[:8]}"
    if split:
        name += f"-{split.get('split', 'split')}-{short_hash(dict(split))[:8]}"
    return Sealed(Path(folder) / "data" / name, Path(folder) / "sealed" / name)


def without_test(dataset: Dataset) -> Dataset:
    """The dataset with an empty test split, and with no word of where it came from."""
    from lirdrec.data.dataset import Interactions

    nothing = np.empty(0, dtype=np.int64)
    times = None if dataset.test.timestamps is None else nothing
    split = dataset.info.get("split")
    return dataclasses.replace(
        dataset,
        test=Interactions(nothing, nothing, times),
        info={"split": split, "development": True} if split else {"development": True},
        folder=None,
    )


def declaration_name(cell: TrialSpec) -> str:
    """What the declaration of a final cell is called: the same for all its seeds."""
    return " | ".join(str(getattr(cell, label)) for label in LABELS)


def declared_options(cell: TrialSpec) -> dict[str, Any]:
    """What the declaration of a final cell fixes."""
    values = cell.to_json()
    return {name: values[name] for name in OPTIONS}


class Preregistration:
    """The declarations of one sealed test.

    Args:
        vault: the folder that `seal` gave.
    """

    def __init__(self, vault: str | Path):
        self.vault = Path(vault)
        self.path = self.vault / "declarations.json"

    def declarations(self) -> dict[str, dict[str, Any]]:
        """Name → options of all that is declared."""
        try:
            found: dict[str, dict[str, Any]] = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise RunFolderError(f"{self.path}: damaged ({error}); restore it, or begin in another folder") from None
        return found

    def declare(self, cell: TrialSpec) -> None:
        """Write down the options of a final cell, for all its seeds; what is declared already stays.

        Raises:
            ConfigError: it is declared with other options and its test has been scored.
        """
        name, options = declaration_name(cell), declared_options(cell)
        if self.declarations().get(name) == options:
            return
        with locked(self.vault / "lock"):
            known = self.declarations()
            if name in known and known[name] != options and self.scored(cell):
                raise ConfigError(
                    f"{name}: its test has been scored with other options ({_difference(known[name], options)}), and "
                    "what has been seen cannot be chosen again; go on with the same settings or name another --output"
                )
            write_json(self.path, {**known, name: options})

    def declared(self, cell: TrialSpec) -> dict[str, Any] | None:
        """The options declared for the cell's model and variant, or None."""
        return self.declarations().get(declaration_name(cell))

    def scored(self, cell: TrialSpec) -> list[int]:
        """The seeds of the cell's declaration whose test has been scored."""
        found = (self.vault / "scores").glob(f"{short_hash(declaration_name(cell))}-*.json")
        return sorted({int(path.stem.split("-")[1]) for path in found})


class TestVault:
    """The test pairs of one sealed dataset; they are read only while something declared is scored for the first time.

    Args:
        vault: the folder that `seal` gave.
    """

    def __init__(self, vault: str | Path):
        self.vault = Path(vault)
        self.ledger = Preregistration(vault)

    def score(
        self,
        cell: TrialSpec,
        recommender: Recommender,
        development: Dataset,
        *,
        candidates: Literal["all", "cold"] = "all",
        cutoffs: Sequence[int] = CUTOFFS,
        per_user: Path | None = None,
    ) -> dict[str, float]:
        """Test figures of a declared model: computed the first time, recorded ones ever after.

        Args:
            cell: the final cell; its options must be those declared.
            recommender: trained with exactly these options and the cell's seed.
            development: the development copy that it was trained on.
            candidates: "cold" ranks only items without a training pair.
            cutoffs: of recall and NDCG.
            per_user: a Parquet file to write each user's values to.

        Raises:
            ConfigError: it is not declared, or the options of the cell or of the recommender are not those declared.
        """
        name, options = declaration_name(cell), self.ledger.declared(cell)
        if options is None:
            raise ConfigError(f"{name}: not declared, so its test cannot be scored; declare its options first")
        if options != declared_options(cell):
            different = _difference(options, declared_options(cell))
            raise ConfigError(f"{name}: declared with other options ({different}), so its test cannot be scored")
        _check_trained(cell, recommender)
        if len(development.test):
            raise ConfigError(f"{name}: this dataset holds test pairs; score with the development copy")
        stem = f"{short_hash(name)}-{cell.seed}" + ("" if candidates == "all" else f"-{candidates}")
        path = self.vault / "scores" / f"{stem}.json"
        with locked(self.vault / "locks" / stem):
            if path.is_file():
                values = _recorded(path)
                kept = path.with_suffix(".parquet")
                if per_user is not None and kept.is_file() and not per_user.is_file():
                    _copy(kept, per_user)
                return values
            from lirdrec.data.dataset import Interactions
            from lirdrec.evaluation.evaluator import evaluate

            users, items = _test_pairs(self.vault)
            found = evaluate(
                recommender,
                dataclasses.replace(development, test=Interactions(users, items), folder=None),
                "test",
                k=cutoffs,
                metrics=FINAL_METRICS,
                candidates=candidates,
                per_user=True,
            )
            assert found.per_user is not None
            path.parent.mkdir(exist_ok=True)
            for file_name in (path.with_suffix(".parquet"), per_user):
                if file_name is not None:
                    file_name.parent.mkdir(parents=True, exist_ok=True)
                    with atomic_write(file_name) as temporary:
                        found.per_user.write_parquet(temporary)
            write_checked(path, {"declaration": name, "seed": cell.seed, "options": options, "figures": found.values})
        return dict(found.values)


def _recorded(path: Path) -> dict[str, float]:
    """The figures of a test that was scored before."""
    try:
        figures: dict[str, float] = read_checked(path)["figures"]
    except (ValueError, KeyError) as error:
        raise RunFolderError(f"{path}: damaged ({error}); restore it, or begin in another folder") from None
    return figures


def _test_pairs(vault: Path) -> np.ndarray:
    """User rows and item rows of the test pairs, `(2, T)` int64."""
    from lirdrec.data.features import open_array

    path = vault / SEALED
    try:
        counts = json.loads((vault / "counts.json").read_text(encoding="utf-8"))
        if counts.get("test_sha256") not in (None, sha256(path)):  # earlier versions recorded none
            raise ValueError("wrong checksum")
        return open_array(path, mapped=False)
    except (OSError, ValueError, AttributeError) as error:
        raise RunFolderError(f"{path}: damaged ({error}); begin in another folder") from None


def _is_whole(sealed: Sealed) -> bool:
    return (sealed.development / "manifest.json").is_file() and (sealed.vault / SEALED).is_file()


def _check_trained(cell: TrialSpec, recommender: Recommender) -> None:
    """The recommender must be what the cell says: model, model options, training options, seed."""
    from lirdrec.config import to_dict
    from lirdrec.experiments.config import resolved

    model, training = resolved(cell)
    info = recommender.info
    told = {"model": cell.model, **to_dict(model), "seed": cell.seed}
    found = {"model": info.get("model"), **info.get("model_config", {}), "seed": info.get("seed")}
    if "training" in info:
        told |= {f"training.{key}": value for key, value in to_dict(training).items()}
        found |= {f"training.{key}": value for key, value in info["training"].items()}
    if told != found:
        raise ConfigError(f"{declaration_name(cell)}: the recommender was trained with {_difference(found, told)}")


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first difference, in words."""
    for key in [*old, *(key for key in new if key not in old)]:
        one, other = old.get(key), new.get(key)
        if one != other:
            if isinstance(one, Mapping) and isinstance(other, Mapping):
                return f"{key}: {_difference(one, other)}"
            return f"{key} = {one!r}, not {other!r}"
    return "nothing else"


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as temporary:
        temporary.write_bytes(source.read_bytes())
