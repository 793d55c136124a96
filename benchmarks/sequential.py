"""Models of ordered histories and variants of LIRDRec-Seq by validation: the table of docs/sequential.md.

    python benchmarks/sequential.py sci --output sequential.jsonl
    python benchmarks/sequential.py sci --only "LIRDRec-Seq" "w/o item graph"

The dataset is prepared with a split by time (docs/sequential.md). All networks are trained with the same options of
training. A line of JSON is printed for each setting, and added to `--output`; settings that it has are left out. The
test is not used.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

SETTINGS = {
    "LIRDRec-Seq": ("lirdrec_seq", {}),
    "graph of features": ("lirdrec_seq", {"item_graph": "features"}),
    "both graphs": ("lirdrec_seq", {"item_graph": "both"}),
    "w/o item graph": ("lirdrec_seq", {"item_graph": "none"}),
    "w/o item graph, uniform weights": ("lirdrec_seq", {"item_graph": "none", "pwc": "uniform"}),
    "uniform weights": ("lirdrec_seq", {"pwc": "uniform"}),
    "PWC as released": ("lirdrec_seq", {"pwc": "released"}),
    "PWC on logits": ("lirdrec_seq", {"pwc": "logits"}),
    "w/o whitening": ("lirdrec_seq", {"whiten": False}),
    "SASRec": ("sasrec", {}),
    "BSARec": ("bsarec", {}),
    "GRU4Rec": ("gru4rec", {}),
    "HSTU": ("hstu", {}),
    "SASRec on features": ("sasrec_features", {}),
    "UniSRec": ("unisrec", {}),
    "WhitenRec+": ("whitenrec_plus", {}),
    "kNN of the last three items": ("last_item_knn", {"history_decay": 0.5, "window": 3}),
    "kNN of the last item": ("last_item_knn", {}),
    "content kNN of the last item": ("last_content_knn", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--patience", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    import lirdrec
    from lirdrec.config import make_config
    from lirdrec.models.registry import config_type

    data = lirdrec.Dataset.load(arguments.dataset)
    training = lirdrec.TrainConfig(
        epochs=arguments.epochs,
        patience=arguments.patience,
        learning_rate=arguments.learning_rate,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        metric="ndcg@10",
    )
    output = arguments.output
    known = set()
    if output is not None and output.is_file():
        known = {json.loads(line)["setting"] for line in output.read_text(encoding="utf-8").splitlines()}
    for setting in arguments.only:
        if setting in known:
            continue
        name, options = SETTINGS[setting]
        started = time.perf_counter()
        config = make_config(config_type(name), options)
        recommender = lirdrec.fit(data, config, training, progress=False, calibrate_new_items=False)
        line = {"setting": setting, **recommender.info["metrics"], "seconds": round(time.perf_counter() - started, 1)}
        print(json.dumps(line), flush=True)
        if output is not None:
            with output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
