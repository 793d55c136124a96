"""Readers of data formats; `read_any` and `read_raw` detect the right one."""

from lirdrec.data.feature_files import read_features
from lirdrec.data.readers.amazon import read_amazon
from lirdrec.data.readers.detect import kind_of, read_any, read_raw
from lirdrec.data.readers.lightgcn import read_lightgcn
from lirdrec.data.readers.microlens import read_microlens
from lirdrec.data.readers.mmrec import read_mmrec
from lirdrec.data.readers.movielens import read_movielens
from lirdrec.data.readers.recbole import read_recbole
from lirdrec.data.readers.sparse_matrices import read_matrices
from lirdrec.data.readers.split_files import read_split_files, read_split_folder
from lirdrec.data.readers.tabular import read_interactions

__all__ = [
    "kind_of",
    "read_amazon",
    "read_any",
    "read_features",
    "read_interactions",
    "read_lightgcn",
    "read_matrices",
    "read_microlens",
    "read_mmrec",
    "read_movielens",
    "read_raw",
    "read_recbole",
    "read_split_files",
    "read_split_folder",
]
