"""Your own interactions and item features, as frames, become a dataset.

python examples/02_own_data.py
"""

import numpy as np
import polars as pl

import lirdrec

rng = np.random.default_rng(0)
kinds = rng.integers(0, 3, 60)  # a made-up catalog of three kinds of products
items = pl.DataFrame({"item": [f"sku-{i:03}" for i in range(60)], "title": [f"product {i}" for i in range(60)]})
image = (np.eye(3)[kinds] + 0.3 * rng.normal(size=(60, 3))).astype(np.float32)  # one row per item, in the same order
bought = [(f"user-{u}", i) for u in range(200) for i in rng.choice(np.flatnonzero(kinds == u % 3), 8, replace=False)]
interactions = pl.DataFrame(bought, schema=["user", "row"], orient="row").with_columns(
    item=pl.Series([f"sku-{row:03}" for _, row in bought])
)

dataset = lirdrec.Dataset.from_frames(interactions, items=items, features={"image": image}, split="random", seed=0)
recommender = lirdrec.fit(dataset, progress=False, training=lirdrec.TrainConfig(epochs=10))
print(lirdrec.evaluate(recommender, dataset, k=10))
print(recommender.recommend("user-7", k=5))
