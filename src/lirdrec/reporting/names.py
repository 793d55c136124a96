"""How models, metrics and data sets are called in tables and figures."""

from __future__ import annotations

# in the order of tables: without learning, closed forms, learned, the newest last
MODELS = {
    "random": "Random",
    "popularity": "Popularity",
    "item_knn": "Item kNN",
    "content_knn": "Content kNN",
    "ease": "EASE",
    "cease": "CEASE",
    "add_ease": "Add-EASE",
    "mf": "MF",
    "lightgcn": "LightGCN",
    "vbpr": "VBPR",
    "mmgcn": "MMGCN",
    "grcn": "GRCN",
    "lattice": "LATTICE",
    "slmrec": "SLMRec",
    "micro": "MICRO",
    "bm3": "BM3",
    "freedom": "FREEDOM",
    "lgmrec": "LGMRec",
    "diffmm": "DiffMM",
    "lirdrec": "LIRDRec",
}
DATASETS = {
    "baby": "Baby",
    "sports": "Sports",
    "clothing": "Clothing",
    "elec": "Elec",
    "electronics": "Elec",
    "microlens": "MicroLens",
    "tiktok": "TikTok",
    "movielens": "MovieLens",
    "movielens-small": "MovieLens small",
}
METRICS = {"recall": "R", "ndcg": "N", "precision": "P", "map": "MAP", "mrr": "MRR", "hit_rate": "HR"}
COLUMNS = {
    "model": "Model",
    "dataset": "Data",
    "variant": "Variant",
    "feature_set": "Features",
    "loss": "Loss",
    "metric": "Metric",
    "seed": "Seed",
    "epoch": "Epoch",
}


def label(name: object) -> str:
    """What to print for a model, data set, metric or column; anything else is printed as it is."""
    text = str(name)
    for known in (MODELS, DATASETS, COLUMNS):
        if text in known:
            return known[text]
    kind, at, k = text.partition("@")
    return f"{METRICS[kind]}@{k}" if at and kind in METRICS else text


def model_order(model: str) -> tuple[int, str]:
    """Sort key: known models in the order of `MODELS`, others by name just before the last."""
    known = list(MODELS)
    return (2 * known.index(model) if model in known else 2 * len(known) - 3, model)
