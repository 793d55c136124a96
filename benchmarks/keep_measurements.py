"""Merge the files that benchmarks wrote into `benchmarks/results/measurements.json`, which is kept in the repository.

    python benchmarks/keep_measurements.py

Each benchmark writes `benchmarks/results/NAME.json`; its content becomes the entry NAME. Entries of benchmarks that
were not run again stay.
"""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
KEPT = RESULTS / "measurements.json"


def main() -> None:
    """Write one line for each benchmark, in the order of names."""
    entries = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}
    new = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json") if path != KEPT}
    lines = [f"{json.dumps(name)}: {json.dumps(content)}" for name, content in sorted({**entries, **new}.items())]
    KEPT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{len(new)} of {len(lines)} entries written to {KEPT}")


if __name__ == "__main__":
    main()
