"""The card of a repository: contents, provenance, metrics, license and how to load it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lirdrec.data.storage import FORMAT as DATASET
from lirdrec.hub.client import Repository
from lirdrec.hub.contents import CONFIG, FEATURES, Shared
from lirdrec.hub.licenses import OTHER

SPLITS = {"valid": "validation", "test": "test"}
SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}
SETTINGS = ("model_config", "training", "seed", "stopped")
TAGS = ("lirdrec", "recommendation", "recommender-system")
CODE = re.compile(r"[A-Za-z0-9_@.+-]+")


def card(shared: Shared, repo: Repository, metrics: bool = True) -> str:
    """The card as Markdown with its header in YAML.

    Args:
        shared: the files to send.
        repo: target repository.
        metrics: include the metrics of a run.
    """
    if shared.format == DATASET:
        header, body = _dataset_header(shared), _dataset_body(shared, repo)
    else:
        header, body = _run_header(shared, repo, metrics), _run_body(shared, repo, metrics)
    return f"---\n{header}\n---\n\n{body}"


# ---------------------------------------------------------------- datasets


def _dataset_header(shared: Shared) -> str:
    from huggingface_hub import DatasetCardData

    counts = shared.manifest["counts"]
    pairs = sum(counts[name] for name in ("train", "valid", "test"))
    tables = [("interactions", {"default": True}), ("items", {}), ("users", {})]
    entries: dict[str, Any] = {
        **shared.license.header(),
        "pretty_name": shared.manifest["name"],
        "tags": [*TAGS, *(["multimodal"] if shared.manifest["features"] else [])],
        "library_name": "lirdrec",
        "size_categories": [next((name for most, name in SIZES.items() if pairs < most), "n>10M")],
        # otherwise the hub's viewer treats the three tables as one
        "configs": [{"config_name": name, "data_files": f"{name}.parquet", **more} for name, more in tables],
    }
    return DatasetCardData(**entries).to_yaml()


def _dataset_body(shared: Shared, repo: Repository) -> str:
    manifest = shared.manifest
    counts = manifest["counts"]
    info = {key: value for key, value in shared.info.items() if key not in ("licence", "license")}
    features = [[name, one["dims"], one["dtype"], f"{one['present']:,}"] for name, one in manifest["features"].items()]
    modalities = _table(["modality", "columns", "numbers", "items that have it"], features)
    parts = [
        f"# {_plain(manifest['name'])}",
        "A dataset for recommendation, prepared with lirdrec: user-item interactions, split into training, "
        "validation and test, an item table, and a feature matrix for each modality.",
        "## Data",
        _table(
            ["users", "items", "training", "validation", "test"],
            [[f"{counts[name]:,}" for name in ("users", "items", "train", "valid", "test")]],
        ),
        modalities if features else "It has no features.",
        "## How it was made",
        _facts(info) or "This is not recorded.",
        *_license(shared),
        "## Load it",
        _code(repo, "dataset", "recommender = lirdrec.fit(dataset)"),
        _note(),
    ]
    return "\n\n".join(parts) + "\n"


# ---------------------------------------------------------------- runs


def _run_header(shared: Shared, repo: Repository, metrics: bool) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    data = str(shared.info.get("dataset", "unnamed"))
    model = str(shared.info.get("model", "recommender"))
    results = [
        EvalResult(
            task_type="recommendation",
            task_name="Top-K recommendation",
            dataset_type=re.sub(r"[^\w.-]+", "-", data),
            dataset_name=data,
            dataset_split=split,
            metric_type=name,
            metric_name=f"{name} ({SPLITS.get(split, split)})",
            metric_value=value,
        )
        for split, values in (_metrics(shared) if metrics else {}).items()
        for name, value in values.items()
    ]
    entries: dict[str, Any] = {
        **shared.license.header(),
        "library_name": "lirdrec",
        "tags": list(dict.fromkeys([*TAGS, model])),
        "model_name": repo.name.split("/")[1] if results else None,
        "eval_results": results or None,
    }
    return ModelCardData(**entries).to_yaml()


def _run_body(shared: Shared, repo: Repository, metrics: bool) -> str:
    info = shared.info
    config = shared.json(CONFIG)
    recorded = _metrics(shared)
    sizes = [[_rows(shared, "users"), _rows(shared, "items"), _rows(shared, "interactions") or "not kept"]]
    settings = {key: value for key, value in info.items() if key in SETTINGS}
    names = (shared.json(FEATURES) or {}).get("names", [])
    parts = [
        f"# {_plain(repo.name.split('/')[1])}",
        f"A recommender: {_code_word(info.get('model', 'a scorer'))} trained on the dataset "
        f"{_code_word(info.get('dataset', 'unnamed'))} with lirdrec"
        f"{', by the features ' + ', '.join(map(_code_word, names)) if names else ''}.",
        "## Data",
        _table(["users", "items", "training pairs"], sizes),
        _facts({key: value for key, value in shared.data_info.items() if key not in ("licence", "license")}),
        "## How it was made",
        _facts(settings) or "This is not recorded.",
        _table(
            ["metric", *(SPLITS.get(split, split) for split in recorded)],
            [
                [name, *(f"{values[name]:.4f}" if name in values else "" for values in recorded.values())]
                for name in dict.fromkeys(name for values in recorded.values() for name in values)
            ],
            "## Metrics\n\n",
        )
        if recorded and metrics
        else "",
        *_license(shared),
        "## Load it",
        _code(repo, "recommender", "recommender.recommend(k=10)"),
        "It is a stripped run: it can only recommend to known users and find similar items."
        if config.get("slim")
        else _note(),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metrics(shared: Shared) -> dict[str, dict[str, float]]:
    """Recorded metrics: split → metric → value."""
    found = shared.info.get("metrics", {})
    splits = {split: values for split, values in found.items() if isinstance(values, Mapping)}
    return {
        split: {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        for split, values in splits.items()
    }


def _rows(shared: Shared, name: str) -> str | None:
    from pyarrow.parquet import read_metadata

    if f"{name}.parquet" not in shared.contents:
        return None
    return f"{read_metadata(shared.open(f'{name}.parquet')).num_rows:,}"


# ---------------------------------------------------------------- Markdown


def _license(shared: Shared) -> list[str]:
    terms = shared.license.text
    text = "Other: ask the owner for the terms." if terms == OTHER else _code_word(terms)
    return ["## License", text]


def _note() -> str:
    return (
        "The tables contain the original ids of users and items, and their interactions. All files are Parquet, "
        "npy, safetensors and JSON; their checksums are in `manifest.json` and are verified on loading."
    )


def _code(repo: Repository, name: str, then: str) -> str:
    revision = f', revision="{repo.revision}"' if repo.revision else ""
    return f'```python\nimport lirdrec\n{name} = lirdrec.from_hub("{repo}"{revision})\n{then}\n```'


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]], before: str = "") -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return before + "\n".join(f"| {' | '.join(_plain(one) for one in line)} |" for line in lines)


def _facts(facts: Mapping[str, Any], depth: int = 0) -> str:
    """Nested facts as a nested list."""
    lines = []
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            inner = _facts(value, depth + 1)
            lines += [f"{'  ' * depth}- {_plain(key)}:", *inner.splitlines()]
        elif value is not None and value != {} and value != []:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{'  ' * depth}- {_plain(key)}: {_plain(shown)}")
    return "\n".join(lines)


def _code_word(text: Any) -> str:
    return f"`{text}`" if CODE.fullmatch(str(text)) else _plain(text)


def _plain(text: Any) -> str:
    """Escape a text for Markdown and HTML, on one line."""
    one_line = " ".join(str(text).split())
    return re.sub(r"([\\`*\[\]<>|#]|\b_|_\b)", r"\\\1", one_line)
