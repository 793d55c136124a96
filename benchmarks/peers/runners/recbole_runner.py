"""RecBole: LightGCN."""

from __future__ import annotations

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import get_model, get_trainer, init_seed

from peers.data import PARTS, Data
from peers.runner import EpochLog, ListRunner, Settings

PACKAGES = ("recbole", "torch", "numpy", "scipy")
BLOCK = 2048  # users ranked together


class RecboleRunner(ListRunner):
    """LightGCN of RecBole."""

    def __init__(self, data: Data, settings: Settings):
        super().__init__(data, settings)
        # what torch imports at first use: imports are not counted for any library
        torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])

    def fit(self, epochs: EpochLog) -> None:
        s = self.settings
        torch.set_num_threads(s.threads)
        config = Config(model="LightGCN", dataset="peers", config_dict=self.write_files() | s.options)
        init_seed(config["seed"], config["reproducibility"])
        self.dataset = create_dataset(config)
        train, _, _ = data_preparation(config, self.dataset)
        self.model = get_model(config["model"])(config, train.dataset)
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, self.model)
        self.user_rows, self.item_rows = (
            self.rows("user_id", self.data.n_users),
            self.rows("item_id", self.data.n_items),
        )
        for epoch in range(s.epochs):  # one at a time, with the same optimizer
            trainer.start_epoch, trainer.epochs = epoch, epoch + 1
            trainer.fit(train, None, verbose=False, saved=False, show_progress=False)
            epochs.ended()

    def rows(self, field: str, n: int) -> np.ndarray:
        """RecBole's row of each user or item, `(n,)` int64; -1 for one without interactions."""
        found = np.full(n, -1)
        tokens = self.dataset.field2id_token[field][1:].astype(int)  # row 0 is for padding
        found[tokens] = np.arange(1, len(tokens) + 1)
        return found

    def write_files(self) -> dict[str, object]:
        """Write the three parts in RecBole's format; the config that reads them."""
        folder = self.settings.folder / "peers"
        folder.mkdir()
        for name in PARTS:
            pairs, header = getattr(self.data, name).T, "user_id:token\titem_id:token"
            np.savetxt(folder / f"peers.{name}.inter", pairs, "%d", "\t", header=header, comments="")
        return {
            "data_path": str(self.settings.folder),
            "checkpoint_dir": str(self.settings.folder),
            "benchmark_filename": list(PARTS),
            "load_col": {"inter": ["user_id", "item_id"]},
            "seed": self.settings.seed,
            "epochs": self.settings.epochs,
            "train_batch_size": 2048,
            "learning_rate": 1e-3,
            "metrics": ["NDCG"],
            "topk": [20],
            "valid_metric": "NDCG@20",
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "RO", "group_by": "user", "mode": "full"},
            "use_gpu": False,
            "show_progress": False,
            "state": "ERROR",
        }

    @torch.no_grad()
    def top(self, users: np.ndarray, k: int) -> np.ndarray:
        self.model.eval()
        lists = np.full((len(users), k), -1)
        items = np.full(self.item_rows.max() + 1, -1)
        items[self.item_rows[self.item_rows >= 0]] = np.flatnonzero(self.item_rows >= 0)
        known = np.flatnonzero(self.user_rows[users] >= 0)
        for block in np.array_split(known, len(known) // BLOCK + 1):
            asked = Interaction({"user_id": torch.from_numpy(self.user_rows[users[block]])})
            scores = self.model.full_sort_predict(asked).view(len(block), -1)
            seen = self.data.matrix[users[block]].tocoo()
            scores[seen.row, self.item_rows[seen.col]] = -torch.inf
            scores[:, 0] = -torch.inf
            lists[block] = items[scores.topk(k, dim=1).indices.numpy()]
        return lists


RUNNER = RecboleRunner
