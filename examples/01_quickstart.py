"""Train on the sample of MovieLens, evaluate once on test, recommend and explain.

python examples/01_quickstart.py
"""

from pathlib import Path

import lirdrec
from lirdrec import LIRDRecConfig, TrainConfig

SAMPLE = Path(__file__).resolve().parents[1] / "sample" / "movielens"

dataset = lirdrec.Dataset.load(SAMPLE)
recommender = lirdrec.fit(dataset, LIRDRecConfig(), training=TrainConfig(epochs=5), progress=False)
metrics = lirdrec.evaluate(recommender, dataset, "test", k=20)
print(f"test recall@20 {metrics['recall@20']:.4f}, ndcg@20 {metrics['ndcg@20']:.4f}")

user = dataset.users.ids[0]
recommendations = recommender.recommend(user, k=5)
print(recommendations)
print(recommender.explain(user, recommendations["item"][0]))
