"""Datasets: reading, preparing, splitting, storing. See `lirdrec.data.dataset.Dataset`."""

from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.identifiers import IdMap
from lirdrec.data.matrices import FeatureMatrix

__all__ = ["Dataset", "FeatureMatrix", "IdMap", "Interactions"]
