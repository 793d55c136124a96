"""Write what `results.md` shows of experiments, from the kept results of each study.

    python docs/write_results.py keep runs/tiktok compare-tiktok       # keep a study: report.md and results.parquet
    python docs/write_results.py restore compare-tiktok runs/tiktok    # give the folder of the experiment back
    python docs/write_results.py                                       # write the page

A study is kept in `benchmarks/results/NAME/` as two files. `results.parquet` has a row for each file of the
experiment's folder: its name and its bytes and, of trials, their model, seed, status and metrics as columns of their
own. A restored folder resumes where `--output` points to it; only the test interactions of the sealed folder are
missing, which are made again from the data.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.experiments.studies.literature import published
from lirdrec.experiments.trial_spec_and_result import TrialResult
from lirdrec.experiments.trial_store import CHECKSUM
from lirdrec.reporting.formatting import label

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results.md"
METRICS = ("recall@10", "ndcg@10", "recall@20", "ndcg@20")
PARTS = ("cells", "tuning", "per_user", "sealed", "figures")
LEFT_OUT = (".lock", "test.npy", ".png", ".csv")
REPORT, RESULTS = "report.md", "results.parquet"


def keep(folder: Path, name: str) -> None:
    """Keep trials, proposals, declarations and scores of an experiment, but no interactions and no weights."""
    target = KEPT / name
    target.mkdir(parents=True, exist_ok=True)
    columns = {"model": pl.String, "variant": pl.String, "seed": pl.Int64, "status": pl.String, "metrics": pl.String}
    schema = {"file": pl.String, **columns, "content": pl.Binary}
    rows = [{"file": file, **described(file, content), "content": content} for file, content in files_of(folder)]
    # one page: files that are the same are then stored once
    kept = pl.DataFrame(rows, schema=schema)
    kept.write_parquet(target / RESULTS, compression="zstd", compression_level=19, data_page_size=2**28)
    if (folder / REPORT).is_file():
        text = (folder / REPORT).read_text(encoding="utf-8")
        shown = re.sub(r"^!\[.*?\]\(figures/.*?\)\n*", "", text, flags=re.MULTILINE)
        (target / REPORT).write_text(shown, encoding="utf-8")


def files_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files to keep."""
    for path in sorted(path for part in PARTS for path in (folder / part).rglob("*") if path.is_file()):
        file = path.relative_to(folder).as_posix()
        if file.endswith(LEFT_OUT) or "/data/" in file or "/lock" in file:
            continue
        content = path.read_bytes()
        if file.startswith("cells/"):  # datasets are found by their bytes, wherever they are
            trial = json.loads(content)
            trial["cell"]["dataset"] = Path(trial["cell"]["dataset"]).name
            trial.pop(CHECKSUM, None)  # of the content before this change
            content = (json.dumps(trial, separators=(",", ":")) + "\n").encode()
        yield file, content


def described(file: str, content: bytes) -> dict[str, Any]:
    """Columns that describe a trial; nothing of other files."""
    if not file.startswith("cells/"):
        return {}
    result = json.loads(content)
    trial = {name: result["cell"].get(name) for name in ("model", "variant", "seed")}
    return {**trial, "status": result["status"], "metrics": json.dumps(result["figures"])}


def restore(name: str, folder: Path) -> None:
    """Write the files of a kept study into the folder of an experiment."""
    for file, content in pl.read_parquet(KEPT / name / RESULTS).select("file", "content").iter_rows():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def results(folder: Path) -> list[TrialResult]:
    """All kept results of trials."""
    kept = pl.read_parquet(folder / RESULTS).filter(pl.col("file").str.starts_with("cells/")).sort("file")
    return [TrialResult.from_json(json.loads(content)) for content in kept["content"]]


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
        if one.trial.final and one.done and "test" in one.figures:
            finals.setdefault(one.trial.model, []).append(one)
    trials = [one for one in found if one.trial.work == "trial"]
    dataset = next(iter(found)).trial.dataset_name
    split = published(dataset)
    others = {row.model: row.figures for row in reversed(split.rows if split is not None else ())}
    lines = [
        "| model | loss | trials | valid R@20 | R@10 | N@10 | R@20 | N@20 | published R@20 / N@20 | minutes | GB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model, runs in sorted(
        finals.items(), key=lambda one: -statistics.mean(r.figures["test"]["recall@20"] for r in one[1])
    ):
        own = [one for one in trials if one.trial.model == model]
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
    index = next(number for number, block in enumerate(blocks) if block.startswith("|"))
    link = f"All tables and figures: [report](../benchmarks/results/{folder.name}/report.md)."
    return "\n\n".join([answer, blocks[index], link])


def write() -> None:
    """Replace what stands between the marks of each kept folder."""
    page = PAGE.read_text(encoding="utf-8")
    for folder in sorted(path.parent for path in KEPT.glob(f"*/{RESULTS}")):
        begin, end = f"<!-- {folder.name} -->", f"<!-- end of {folder.name} -->"
        if begin in page:
            shown = table(results(folder)) if folder.name.startswith("compare-") else summary(folder)
            new = f"{begin}\n{shown}\n{end}"
            page = re.sub(re.escape(begin) + r".*?" + re.escape(end), lambda _, new=new: new, page, flags=re.DOTALL)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["keep"]:
        keep(Path(sys.argv[2]), sys.argv[3])
    elif sys.argv[1:2] == ["restore"]:
        restore(sys.argv[2], Path(sys.argv[3]))
    else:
        write()
