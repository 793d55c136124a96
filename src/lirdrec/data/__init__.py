"""Datasets: reading, preparing, splitting, storing. See `lirdrec.data.dataset.Dataset`."""

from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.features import FeatureMatrix
from lirdrec.data.ids import IdMap

__all__ = ["Dataset", "FeatureMatrix", "IdMap", "Interactions"]
