"""Controls: compare a model with the same model on features that say nothing about the items.

Two controls train on shuffled features or on noise. Both keep everything else that a model could use: the number of
parameters, the number of columns, which items have the modality and, for noise, the singular values. A third control
trains with all features, and removes one modality after the training.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lirdrec.data.features import FeatureMatrix
from lirdrec.errors import ConfigError

if TYPE_CHECKING:
    from lirdrec.data.dataset import Dataset
    from lirdrec.experiments.worker import Job
    from lirdrec.recommender.recommender import Recommender

WORK = "lirdrec.experiments.feature_controls:train"  # `TrialSpec.work` of a control
SHUFFLED, NOISE, KNOCKED_OUT = "shuffled", "noise", "knocked out"
TRAINED = (SHUFFLED, NOISE)  # controls that a model is trained with


def control_features(matrix: FeatureMatrix, kind: str, seed: int) -> FeatureMatrix:
    """Return a feature matrix of the same shape and mask that says nothing about its items.

    Args:
        matrix: `(I, d)` features of the items.
        kind: "shuffled": the vectors of the items that have the modality, in random order; "noise": random vectors
            whose matrix has the same singular values and column means. If only one item has the modality, its shuffled
            vector is its own, and as noise it is a random vector of the same length.
        seed: seed of the random numbers.

    Raises:
        ConfigError: the kind is unknown.

    >>> matrix = FeatureMatrix(np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]))
    >>> sorted(control_features(matrix, "shuffled", 0).values.sum(1).tolist())
    [1.0, 2.0, 3.0]
    """
    if kind not in TRAINED:
        raise ConfigError(f"there is no control {kind!r} of features; choose {' or '.join(TRAINED)}")
    rng, rows = np.random.default_rng(seed), np.flatnonzero(matrix.present)
    values = np.zeros(matrix.values.shape, dtype=np.float32)
    known = np.asarray(matrix.values[rows], dtype=np.float64)
    values[rows] = known[rng.permutation(len(rows))] if kind == SHUFFLED else _noise(known, rng)
    return FeatureMatrix(values, np.array(matrix.present))


def _noise(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return random rows `(n, d)` float64 with the column means of `values` `(n, d)`.

    After subtraction of the means, the rows have the same singular values as `values`. A single row, which is its own
    mean, gets a random direction instead, and keeps its length.
    """
    if not len(values):
        return values
    if len(values) == 1:
        random = rng.normal(size=values.shape)
        return random * (np.linalg.norm(values) / np.linalg.norm(random))
    mean = values.mean(0)
    singular = np.linalg.svd(values - mean, compute_uv=False)
    n, d = values.shape
    rank = min(n - 1, d)  # centered rows have at most rank n - 1
    left = rng.normal(size=(n, rank))
    left, _ = np.linalg.qr(left - left.mean(0))  # columns orthogonal to the ones, so that the mean stays
    right, _ = np.linalg.qr(rng.normal(size=(d, rank)))
    return mean + (left * singular[:rank]) @ right.T


def with_control(dataset: Dataset, kind: str, seed: int) -> Dataset:
    """Return the dataset with every feature matrix replaced by its control, see `control_features`.

    Each matrix gets other random numbers.
    """
    features = {
        name: control_features(matrix, kind, seed * 1009 + number)
        for number, (name, matrix) in enumerate(sorted(dataset.features.items()))
    }
    return replace(dataset, features={name: features[name] for name in dataset.features}, folder=None)


def without_modality(dataset: Dataset, name: str) -> Dataset:
    """Return the dataset as if no item had the modality: its matrix is zero, its mask false, its shape is kept."""
    values = np.zeros(dataset.features[name].values.shape, dtype=np.float32)
    empty = FeatureMatrix(values, np.zeros(len(values), dtype=bool))
    return replace(dataset, features={**dataset.features, name: empty}, folder=None)


def knocked_out(recommender: Recommender, dataset: Dataset, name: str) -> Recommender:
    """Return a copy of a trained recommender for the same items without one modality; nothing is trained again.

    The learned parameters stay the same; what the model computes from features is computed again.

    Args:
        recommender: trained on the dataset.
        dataset: the training data.
        name: the modality.

    Raises:
        ConfigError: the recommender has no trained model.
    """
    from lirdrec.config import make_config
    from lirdrec.models.registry import config_type, model_type
    from lirdrec.recommender.model_inputs import make_model_inputs
    from lirdrec.recommender.recommender import Recommender

    info, poorer = recommender.info, without_modality(dataset, name)
    model_name, weights = str(info["model"]), recommender.state.weights
    if weights is None:
        raise ConfigError(
            f"{model_name}: the recommender has no trained model, so no modality can be removed from it; choose"
            " another model, or omit the controls with --set controls=false"
        )
    config: Any = make_config(config_type(model_name), info["model_config"], f"options of {model_name}")
    features = recommender.state.features
    projections = None if features is None else features.projections
    inputs = make_model_inputs(poorer, recommender.state.device, False, info["seed"], projections=projections)
    model = model_type(model_name)(inputs, config)
    model.load_state_dict(dict(weights))
    return Recommender.from_training(model, poorer, info=dict(info))


def train(job: Job) -> dict[str, Any]:
    """Do the work of a control trial, whose `extra` names the control; score on validation and on the sealed test.

    The model is trained on shuffled features or noise, or as usual, and then one modality is removed. Return why the
    training ended.
    """
    kind, name = job.trial.extra["control"], job.trial.extra.get("knocked_out")
    recommender = job.fit(with_control(job.dataset, kind, job.trial.seed) if kind in TRAINED else None)
    if kind == KNOCKED_OUT:
        recommender = knocked_out(recommender, job.dataset, str(name))
    job.score_valid(recommender)
    job.score_test(recommender)
    return job.end
