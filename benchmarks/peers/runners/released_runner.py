"""The released LIRDRec: the `quick_start` of a checkout, in a copy of its sources, and what it logs."""

from __future__ import annotations

import importlib
import logging
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np

from peers.data import PARTS, Data
from peers.runner import EpochLog, Runner, Settings

PACKAGES = ("torch", "numpy", "scipy")
NDCG = re.compile(r"ndcg@20: *([\d.]+)", re.IGNORECASE)
FILES = {1: ("text_feat.npy",), 2: ("image_feat.npy", "text_feat.npy")}  # by the number of modalities


class ReleasedRunner(Runner):
    """Options: "checkout", the folder with `src/`, "name" of the model, "settings". It gives no lists, only metrics."""

    def __init__(self, data: Data, settings: Settings):
        super().__init__(data, settings)
        self.home = settings.folder / "checkout"
        shutil.copytree(Path(settings.options["checkout"], "src"), self.home / "src")
        name = "baby"  # its columns and feature files are described in the checkout
        folder = self.home / "data" / name
        folder.mkdir(parents=True)
        parts = [getattr(data, part) for part in PARTS]
        rows = [np.column_stack([*part, np.full(part.shape[1], label)]) for label, part in enumerate(parts)]
        header = "userID\titemID\tx_label"
        np.savetxt(folder / f"{name}.inter", np.concatenate(rows), "%d", "\t", header=header, comments="")
        for file, values in zip(FILES[len(data.widths)], data.modalities(), strict=True):
            np.save(folder / file, values)

    def fit(self, epochs: EpochLog) -> None:
        s = self.settings
        os.chdir(self.home / "src")
        sys.path.insert(0, str(self.home / "src"))
        quick_start = importlib.import_module("utils.quick_start").quick_start  # of the checkout

        watcher = _Watcher(epochs)
        logging.getLogger().addHandler(watcher)
        chosen = {"gpu_id": 0, "use_gpu": False, "epochs": s.epochs, "stopping_step": s.epochs, "seed": [s.seed]}
        chosen |= s.options["settings"]
        quick_start(model=s.options["name"], dataset="baby", config_dict=chosen, save_model=False)


class _Watcher(logging.Handler):
    """Reads the lines of the log about epochs."""

    def __init__(self, epochs: EpochLog):
        super().__init__(logging.INFO)
        self.epochs = epochs

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        found = NDCG.search(text)
        if re.match(r"epoch \d+ training", text):
            self.epochs.trained()
        elif "valid result" in text and found:
            self.epochs.ended(float(found[1]))


RUNNER = ReleasedRunner
