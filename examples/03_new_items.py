"""Add items to a trained recommender without retraining: their features are enough.

python examples/03_new_items.py
"""

from pathlib import Path

import lirdrec
from lirdrec.data.holdout import hold_out_items

SAMPLE = Path(__file__).resolve().parents[1] / "sample" / "movielens"

dataset = lirdrec.Dataset.load(SAMPLE)
new = dataset.items.ids[:3].tolist()  # as if these films had not been there in training
known, rows, features = hold_out_items(dataset, new)
recommender = lirdrec.fit(known, training=lirdrec.TrainConfig(epochs=5), progress=False)

recommender.add_items(rows, features)
print(recommender.similar_items(new[0], k=5))
user = dataset.users.ids[0]
print(recommender.recommend(user, k=3, candidates=new))  # the new items, ranked for one user
