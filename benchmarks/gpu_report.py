"""The report of gpu.py: rows of results as they come, parts that were skipped, and the table at the end."""

from __future__ import annotations

import gc
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

PRECISIONS = ("float32", "tf32", "bfloat16")


@dataclass
class Report:
    """Rows of results as they come, and what was skipped; written to a file after every part."""

    device: torch.device
    small: bool
    seconds: float
    output: Path | None
    precisions: tuple[str, ...] = PRECISIONS
    started: float = field(default_factory=time.monotonic)
    facts: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.started)

    def skip(self, part: str, why: str) -> None:
        self.skipped.append({"part": part, "why": why})
        print(f"skipped {part}: {why}", flush=True)
        self.write()

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        cells = [f"{key} {shown(value)}" for key, value in row.items() if not isinstance(value, dict)]
        print("  ".join(cells), flush=True)
        self.write()

    def to_dict(self) -> dict[str, Any]:
        used = round(time.monotonic() - self.started, 1)
        return {"small": self.small, **self.facts, "seconds": used, "rows": self.rows, "skipped": self.skipped}

    def write(self) -> None:
        if self.output is not None:
            self.output.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    def attempt(self, part: str, need: float, work: Callable[[], None], reserved: float = 0.0) -> None:
        """Run a part if `need` seconds are left besides the reserved; a failure is noted, and the next part runs."""
        left = self.left() - reserved
        if left < need:
            return self.skip(part, f"{max(0, left):.0f} s are left for it, it may need {need:.0f} s")
        try:
            work()
        except torch.OutOfMemoryError as error:
            self.skip(part, f"out of memory: {str(error).splitlines()[0]}")
        except Exception as error:  # one part must not take the others with it
            self.skip(part, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            if self.small:
                raise
        free(self.device)


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def environment(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": str(device),
        "name": name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }


def table(report: Report) -> str:
    """The rows as a text of columns; times in seconds."""
    columns = (
        "step_s",
        "limit_s",
        "planned_step_s",
        "evaluation_s",
        "forward_s",
        "sampling_s",
        "expected_epoch_s",
        "epoch_s",
    )
    names = [column.removesuffix("_s").replace("_", " ") for column in columns]
    head = ["shape", "settings", "precision", *names, "peak GB"]
    lines = [head]
    for row in report.rows:
        if "step_s" in row:
            cells = [f"{row[c]:.4f}" if c in row else "-" for c in columns]
            lines.append([row["shape"], row["settings"], row["precision"], *cells, f"{row['peak_bytes'] / 1e9:.2f}"])
    widths = [max(len(line[number]) for line in lines) for number in range(len(head))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)
