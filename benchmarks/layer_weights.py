"""Weights of the layers in the read-out: the plot of docs/models.md, and the trainings of docs/results.md.

    python benchmarks/layer_weights.py plot
    python benchmarks/layer_weights.py run sample/movielens --layers 2 3 4 --weights equal decaying learned
    python benchmarks/layer_weights.py run ../shared/data/baby --model lightgcn --layers 3 --seeds 0 1 2

`plot` draws `f(x) = Σ a_l x^l` between -1 and 1, by which the read-out multiplies the component of eigenvalue x, and
writes `docs/images/layer_weights.png`. `run` trains the fast preset with each setting and prints its validation metrics
as JSON lines; test is not used.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
COLORS = {2: "#8aa9c9", 3: "#c0504d", 4: "#3b6ea5"}
PANELS = {"equal": "equal: a = 1", "decaying": "decaying: a = 1/(l+1)"}


def plot() -> None:
    from matplotlib.figure import Figure
    from numpy.polynomial import Polynomial

    from lirdrec.models.graph_layer_weights import fixed_weights

    x = np.linspace(-1, 1, 401)
    figure = Figure(figsize=(9, 3.4), dpi=130, layout="constrained")
    for axes, (weighting, title) in zip(figure.subplots(1, len(PANELS), sharey=True), PANELS.items(), strict=True):
        for n_layers, color in COLORS.items():
            f = Polynomial(fixed_weights(weighting, n_layers))
            axes.plot(x, f(x), color=color, label=f"L = {n_layers}: f(-1) = {f(-1):.2f}")
            axes.plot(-1, f(-1), "o", color=color, clip_on=False)
        axes.set(title=title, xlabel="eigenvalue x", xlim=(-1, 1))
        axes.set_ylim(0)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc="upper left")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("f(x)")
    figure.savefig(ROOT / "docs" / "images" / "layer_weights.png")


def run(arguments: argparse.Namespace) -> None:
    import lirdrec
    from lirdrec.config import make_config, to_dict
    from lirdrec.data.readers import read_any

    data = read_any(arguments.dataset)
    for seed in arguments.seeds:
        for n_layers in arguments.layers:
            for weighting in arguments.weights:
                config, training = lirdrec.preset(arguments.model)
                options = {"n_layers": n_layers, "layer_weights": weighting}
                config = make_config(type(config), to_dict(config) | options)
                training = replace(training, seed=seed, patience=arguments.patience, epochs=arguments.epochs)
                metrics = lirdrec.fit(data, config, training, progress=False).info["metrics"]
                print(json.dumps({"dataset": data.name, "seed": seed, **options, **metrics}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("plot")
    training = commands.add_parser("run")
    training.add_argument("dataset")
    training.add_argument("--model", default="lirdrec")
    training.add_argument("--layers", type=int, nargs="+", default=[2, 3, 4])
    training.add_argument("--weights", nargs="+", default=["equal", "decaying", "learned"])
    training.add_argument("--seeds", type=int, nargs="+", default=[0])
    training.add_argument("--patience", type=int, default=20)
    training.add_argument("--epochs", type=int, default=1000)
    given = parser.parse_args()
    plot() if given.command == "plot" else run(given)
