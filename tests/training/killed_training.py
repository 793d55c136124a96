"""Train on a prepared dataset into a run folder; run by test_kill_and_resume.py in processes of its own.

    python killed_training.py DATASET RUN [WAIT]

After epoch WAIT it does nothing more and waits for its end.
"""

from __future__ import annotations

import sys
import threading

import torch

from lirdrec.data.dataset import Dataset
from lirdrec.models.lirdrec import LIRDRecConfig
from lirdrec.recommender.fit import fit
from lirdrec.training.callbacks import Callback
from lirdrec.training.config import TrainConfig

CONFIG = LIRDRecConfig(embedding_size=8, n_layers=2, n_neighbors=5, edge_dropout=0.1)
TRAINING = TrainConfig(
    epochs=12, batch_size=4096, learning_rate=5e-3, schedule="cosine", warmup_epochs=3, gradient_clip=1.0, seed=11
)


class Waiting(Callback):
    """Lets the training come no further than an epoch."""

    def __init__(self, epoch: int):
        self.epoch = epoch

    def on_epoch_end(self, line: dict) -> None:
        if line["epoch"] == self.epoch:
            threading.Event().wait()


if __name__ == "__main__":
    torch.set_num_threads(2)  # sums in parallel must not differ from run to run
    data, run, *epoch = sys.argv[1:]
    callbacks = tuple(Waiting(int(one)) for one in epoch)
    fit(Dataset.load(data), CONFIG, TRAINING, run=run, resume=True, progress=False, cache=False, callbacks=callbacks)
