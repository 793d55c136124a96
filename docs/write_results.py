"""Writes what `results.md` shows of experiments from their kept folders.

    python docs/write_results.py keep runs/tiktok compare-tiktok    # copy what going on and the page need
    python docs/write_results.py                                    # write the page

A kept folder lies in `benchmarks/results/`; copied back to where `--output` points, the experiment goes on from it. The
test pairs of the sealed folder are not kept: they are made again from the data. Between the marks of `compare-…` stands
a table of its cells, between those of other experiments the answer and the first table of their report.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import sys
from pathlib import Path

from lirdrec.experiments.studies.literature import published
from lirdrec.experiments.trial import TrialResult
from lirdrec.reporting.formatting import label

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results.md"
METRICS = ("recall@10", "ndcg@10", "recall@20", "ndcg@20")


def keep(folder: Path, name: str) -> None:
    """Copy an experiment's results, proposals, declarations and scores, but no interactions and no weights."""
    target = KEPT / name
    shutil.rmtree(target, ignore_errors=True)
    for part in ("cells", "tuning", "per_user", "sealed", "figures"):
        ignore = shutil.ignore_patterns("*.lock", "lock", "locks", "test.npy", "data", "*.png", "*.csv")
        if (folder / part).is_dir():
            shutil.copytree(folder / part, target / part, ignore=ignore)
    shutil.copy(folder / "report.md", target)
    for path in (target / "cells").glob("*.json"):  # found by the data's bytes, wherever they lie
        content = json.loads(path.read_text())
        content["cell"]["dataset"] = Path(content["cell"]["dataset"]).name
        path.write_text(json.dumps(content, separators=(",", ":")) + "\n")


def results(folder: Path) -> list[TrialResult]:
    """All kept results."""
    return [TrialResult.from_json(json.loads(path.read_text())) for path in sorted((folder / "cells").glob("*.json"))]


def spread(values: list[float]) -> str:
    """Mean, and the standard deviation of the seeds where there are several."""
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def mean_recall(runs: list[TrialResult]) -> float:
    """Mean test Recall@20 of a model's final trainings."""
    return statistics.mean(run.figures["test"]["recall@20"] for run in runs)


def table(found: list[TrialResult]) -> str:
    """One row a model whose tuning has ended: chosen loss, validation, test, published, cost."""
    finals: dict[str, list[TrialResult]] = {}
    for one in found:
        if one.cell.final and one.done and "test" in one.figures:
            finals.setdefault(one.cell.model, []).append(one)
    trials = [one for one in found if one.cell.work == "trial"]
    dataset = next(iter(found)).cell.dataset_name
    split = published(dataset)
    others = {row.model: row.figures for row in reversed(split.rows if split is not None else ())}
    lines = [
        "| model | loss | trials | valid R@20 | R@10 | N@10 | R@20 | N@20 | published R@20 / N@20 | minutes | GB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model, runs in sorted(
        finals.items(), key=lambda one: -statistics.mean(r.figures["test"]["recall@20"] for r in one[1])
    ):
        own = [one for one in trials if one.cell.model == model]
        best = max((one.figures["valid"]["recall@20"] for one in own if one.done), default=float("nan"))
        loss = runs[0].options.get("model", {}).get("loss", "–") if runs[0].options else "–"
        figures = [spread([run.figures["test"][metric] for run in runs]) for metric in METRICS]
        known = others.get(model)
        beside = f"{known['recall@20']:.4f} / {known['ndcg@20']:.4f}" if known else "–"
        minutes = statistics.mean(run.seconds for run in runs) / 60
        memory = max(run.peak_memory for run in runs) / 2**30
        alone = len(runs) == 1 and minutes > 0 and "loss" in (runs[0].options.get("model") or {})
        name = label(model) + (f" ({len(runs)} seed)" if alone else "")
        cells = [name, loss, str(len(own)), f"{best:.4f}", *figures, beside, f"{minutes:.1f}", f"{memory:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(folder: Path) -> str:
    """Answer and first table of a kept report, and a link to all of it."""
    head, _, body = (folder / "report.md").read_text(encoding="utf-8").partition("\n## ")
    answer = head.split("\n\n", 2)[2].strip()
    blocks = body.split("\n\n")
    at = next(place for place, block in enumerate(blocks) if block.startswith("|"))
    link = f"All tables and figures: [report](../benchmarks/results/{folder.name}/report.md)."
    return "\n\n".join([answer, blocks[at], link])


def write() -> None:
    """Replace what stands between the marks of each kept folder."""
    page = PAGE.read_text(encoding="utf-8")
    for folder in sorted(path for path in KEPT.iterdir() if (path / "cells").is_dir()):
        begin, end = f"<!-- {folder.name} -->", f"<!-- end of {folder.name} -->"
        if begin in page:
            shown = table(results(folder)) if folder.name.startswith("compare-") else summary(folder)
            new = f"{begin}\n{shown}\n{end}"
            page = re.sub(re.escape(begin) + r".*?" + re.escape(end), lambda _, new=new: new, page, flags=re.DOTALL)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["keep"]:
        keep(Path(sys.argv[2]), sys.argv[3])
    else:
        write()
