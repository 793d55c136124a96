"""Train on a prepared dataset into a run folder; run by test_kill_and_resume.py in processes of its own."""

from __future__ import annotations

import sys

import torch

from lirdrec.data.dataset import Dataset
from lirdrec.models.lirdrec import LIRDRecConfig
from lirdrec.recommender.fit import fit
from lirdrec.training.config import TrainConfig

CONFIG = LIRDRecConfig(embedding_size=8, n_layers=2, n_neighbours=5, edge_dropout=0.1)
TRAINING = TrainConfig(
    epochs=12, batch_size=4096, learning_rate=5e-3, schedule="cosine", warmup_epochs=3, gradient_clip=1.0, seed=11
)

if __name__ == "__main__":
    torch.set_num_threads(2)  # sums in parallel must not differ from run to run
    data, run = sys.argv[1:]
    fit(Dataset.load(data), CONFIG, TRAINING, run=run, resume=True, progress=False, cache=False)
