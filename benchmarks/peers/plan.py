"""Which models are compared: those of a library, with options, and the same of lirdrec; and the runs that follow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

OURS = "lirdrec"
SAME = {"embedding_size": 64, "batch_size": 2048, "learning_rate": 1e-3}


@dataclass(frozen=True)
class Entry:
    """A model of a library.

    Attributes:
        library: a key of `environments.ENVIRONMENTS`, or "lirdrec".
        model: the runner's name of it.
        label: shown in the report.
        options: by the library's names.
        epochs: passes over the training interactions; 0 for closed forms.
        ours: labels of the models of lirdrec that it is compared with; none: lirdrec does not have this model.
        needs_features: it runs only on data with features.
    """

    library: str
    model: str
    label: str
    options: dict[str, Any] = field(default_factory=dict)
    epochs: int = 0
    ours: tuple[str, ...] = ()
    needs_features: bool = False


def _ours(model: str, label: str, epochs: int = 0, needs_features: bool = False, **options: Any) -> Entry:
    return Entry(OURS, model, label, options, epochs, needs_features=needs_features)


LIRDREC = (
    _ours("item_knn", "item_knn", n_neighbors=100, shrinkage=0.0),
    _ours("ease", "ease", regularization=250.0),
    _ours("mf", "mf", 60, **SAME),
    _ours("mf", "mf, fast", 60, preset="fast"),
    _ours("lightgcn", "lightgcn", 60, n_layers=2, **SAME),
    _ours("lightgcn", "lightgcn, fast", 60, preset="fast", n_layers=2),
    _ours("vbpr", "vbpr", 60, True, **SAME),
    _ours("vbpr", "vbpr, fast", 60, True, preset="fast"),
    _ours("lirdrec", "lirdrec", 60, True, n_layers=2),
    _ours("lirdrec", "lirdrec, fast", 60, True, preset="fast"),
)
_MF, _LIGHTGCN, _VBPR = ("mf", "mf, fast"), ("lightgcn", "lightgcn, fast"), ("vbpr", "vbpr, fast")
# one choice for each option that the released configuration searches
RELEASED = {"n_ui_layers": [2], "mm_image_weight": [0.1], "reg_weight": [0.001], "learning_rate": [0.0001]}
RELEASED |= {"weight_decay": [0], "decay_weight": [0.95]}
_RELEASED = {"name": "LIRDRec", "settings": RELEASED}
PEERS = (
    Entry("implicit", "item_knn", "item kNN, cosine", {"K": 100}, ours=("item_knn",)),
    Entry("implicit", "bpr", "BPR", {"factors": 64}, 60, _MF),
    Entry("implicit", "als", "ALS", {"factors": 64}, 15),
    Entry("rectools", "ease", "EASE", {"regularization": 250.0}, ours=("ease",)),
    Entry("rectools", "ials", "iALS", {"factors": 64}, 15),
    Entry("lenskit", "item_knn", "item kNN", {"save_nbrs": 100, "max_nbrs": 100}, ours=("item_knn",)),
    Entry("lenskit", "ials", "iALS", {"embedding_size": 64}, 15),
    Entry("cornac", "bpr", "BPR", {"k": 64, "learning_rate": 0.01}, 60, _MF),
    Entry("cornac", "lightgcn", "LightGCN", {"emb_size": 64, "num_layers": 2, "batch_size": 2048}, 60, _LIGHTGCN),
    Entry("cornac", "vbpr", "VBPR", {"k": 64, "k2": 64, "batch_size": 2048}, 60, _VBPR, needs_features=True),
    Entry("recbole", "lightgcn", "LightGCN", {"embedding_size": 64, "n_layers": 2}, 60, _LIGHTGCN),
    Entry(
        "released",
        "lirdrec",
        "LIRDRec",
        _RELEASED,
        60,
        ("lirdrec", "lirdrec, fast"),
        needs_features=True,
    ),
)


@dataclass(frozen=True)
class Job:
    """One run: an entry on a dataset."""

    entry: Entry
    dataset: str
    threads: int
    repetition: int
    epochs: int

    @property
    def key(self) -> str:
        """A hash of everything that determines the run."""
        e = self.entry
        parts = [e.library, e.model, e.label, e.options, self.epochs, self.dataset, self.threads, self.repetition]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def facts(self) -> dict[str, Any]:
        """What the line of results says about the run."""
        e = self.entry
        run = {"dataset": self.dataset, "threads": self.threads, "repetition": self.repetition, "epochs": self.epochs}
        return {"key": self.key, "library": e.library, "model": e.model, "label": e.label, "options": e.options, **run}


def jobs(
    libraries: Sequence[str],
    datasets: Sequence[str],
    threads: Sequence[int],
    repetitions: int,
    epochs: int | None,
    models: Sequence[str] | None = None,
) -> list[Job]:
    """All runs, each model of a library directly before those of lirdrec, so that the load of the machine meets both.

    Args:
        libraries, datasets, threads: run each of them.
        repetitions: of everything.
        epochs: in place of those of the entries; closed forms have none.
        models: only these models of the libraries, by their names in the runner.
    """
    by_label = {entry.label: entry for entry in LIRDREC}
    found: dict[str, Job] = {}
    for repetition in range(1, repetitions + 1):
        for dataset in datasets:
            for number in threads:
                for entry in PEERS:
                    if entry.library not in libraries or (models and entry.model not in models):
                        continue
                    for one in (entry, *(by_label[label] for label in entry.ours)):
                        passes = epochs if one.epochs and epochs else one.epochs
                        job = Job(one, dataset, number, repetition, passes)
                        found.setdefault(job.key, job)
    return list(found.values())
