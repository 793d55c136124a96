"""Add items to a trained recommender without retraining, and choose how they compete with the others.

python examples/03_new_items.py
"""

from pathlib import Path

import lirdrec
from lirdrec.data.cold_start import hold_out_items

SAMPLE = Path(__file__).resolve().parents[1] / "sample" / "movielens"

dataset = lirdrec.Dataset.load(SAMPLE)
new = dataset.items.ids[::20].tolist()  # as if these films had not been there in training
known, rows, features = hold_out_items(dataset, new)
recommender = lirdrec.fit(known, training=lirdrec.TrainConfig(epochs=5), progress=False)

recommender.add_items(rows, features)
print(recommender.similar_items(new[0], k=5))
user = dataset.users.ids[0]
print(recommender.recommend(user, k=3, candidates=new))  # the new items, ranked for one user

# among all items: what the training calibrated, nothing, a boost at a known cost, or a share of the places
for policy in ("none", "calibrated", "boost=0.05", "share=0.2"):
    items = recommender.recommend(k=20, new_items=policy)["item"]
    print(f"{policy}: new films get {items.is_in(new).mean():.1%} of the places")

encoder = recommender.new_item_encoder  # None with fit(..., calibrate_new_items=False)
step = encoder.step(0.05)
print(f"boost=0.05 is an offset of {step.offset:.3f}; in simulated launches it cost {step.cost:.1%} of the hits")

recommender.update([(user, new[0])])  # likes move a new item
