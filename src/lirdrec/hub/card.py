"""Write the card of a repository (its README.md): contents, provenance, metrics, license and how to load it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lirdrec.hub.client import Repository
from lirdrec.hub.contents import CONFIG, FEATURES, Shared
from lirdrec.hub.folder_license import OTHER

SPLITS = {"valid": "validation", "test": "test"}
SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}
SETTINGS = ("model_config", "training", "seed", "stopped")
TAGS = ("lirdrec", "recommendation", "recommender-system")
CODE = re.compile(r"[A-Za-z0-9_@.+-]+")
NOTE = (
    "The tables contain the original ids of users and items, and their interactions. All files are Parquet, npy, "
    "safetensors and JSON; their checksums are in `manifest.json` and are verified on loading."
)
SLIM_NOTE = "It is a stripped run: it can only recommend to known users and find similar items."


def card(shared: Shared, repo: Repository, metrics: bool = True) -> str:
    """Return the card of a repository (its README.md) as Markdown with a header in YAML.

    Args:
        shared: the dataset or the run to upload.
        repo: the repository that the card is for.
        metrics: include the recorded metrics, if it is a run.
    """
    if shared.type == "dataset":
        header, parts = _dataset_header(shared), _dataset_parts(shared)
        variable, call, note = "dataset", "recommender = lirdrec.fit(dataset)", NOTE
    else:
        recorded = _metrics(shared) if metrics else {}
        header, parts = _run_header(shared, repo, recorded), _run_parts(shared, repo, recorded)
        variable, call = "recommender", "recommender.recommend(k=10)"
        note = SLIM_NOTE if shared.json(CONFIG).get("slim") else NOTE
    terms = shared.license.text
    revision = f', revision="{repo.revision}"' if repo.revision else ""
    parts += [
        "## License",
        "Other: ask the owner for the terms." if terms == OTHER else _code_word(terms),
        "## Load it",
        f'```python\nimport lirdrec\n{variable} = lirdrec.from_hub("{repo}"{revision})\n{call}\n```',
        note,
    ]
    body = "\n\n".join(part for part in parts if part)
    return f"---\n{header}\n---\n\n{body}\n"


def _dataset_header(shared: Shared) -> str:
    from huggingface_hub import DatasetCardData

    counts = shared.manifest["counts"]
    n_interactions = sum(counts[name] for name in ("train", "valid", "test"))
    tables = [("interactions", {"default": True}), ("items", {}), ("users", {})]
    entries: dict[str, Any] = {
        **shared.license.header(),
        "pretty_name": shared.manifest["name"],
        "tags": [*TAGS, *(["multimodal"] if shared.manifest["features"] else [])],
        "library_name": "lirdrec",
        "size_categories": [next((name for limit, name in SIZES.items() if n_interactions < limit), "n>10M")],
        # otherwise the hub's viewer treats the three tables as one
        "configs": [{"config_name": name, "data_files": f"{name}.parquet", **more} for name, more in tables],
    }
    return DatasetCardData(**entries).to_yaml()


def _dataset_parts(shared: Shared) -> list[str]:
    manifest = shared.manifest
    counts = manifest["counts"]
    features = [[name, f["dims"], f["dtype"], f"{f['present']:,}"] for name, f in manifest["features"].items()]
    return [
        f"# {_plain(manifest['name'])}",
        "A dataset for recommendation, prepared with lirdrec: user-item interactions, split into training, "
        "validation and test, an item table, and a feature matrix for each modality.",
        "## Data",
        _table(
            ["users", "items", "training", "validation", "test"],
            [[f"{counts[name]:,}" for name in ("users", "items", "train", "valid", "test")]],
        ),
        _table(["modality", "columns", "numbers", "items that have it"], features)
        if features
        else "It has no features.",
        "## How it was made",
        _facts(_without_license(shared.info)) or "This is not recorded.",
    ]


def _run_header(shared: Shared, repo: Repository, recorded: Mapping[str, Mapping[str, float]]) -> str:
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
        for split, values in recorded.items()
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


def _run_parts(shared: Shared, repo: Repository, recorded: Mapping[str, Mapping[str, float]]) -> list[str]:
    info = shared.info
    sizes = [_rows(shared, "users"), _rows(shared, "items"), _rows(shared, "interactions") or "not kept"]
    names = (shared.json(FEATURES) or {}).get("names", [])
    features = f", by the features {', '.join(map(_code_word, names))}" if names else ""
    metrics = [
        [name, *(f"{values[name]:.4f}" if name in values else "" for values in recorded.values())]
        for name in dict.fromkeys(name for values in recorded.values() for name in values)
    ]
    return [
        f"# {_plain(repo.name.split('/')[1])}",
        f"A recommender: {_code_word(info.get('model', 'a scorer'))} trained on the dataset "
        f"{_code_word(info.get('dataset', 'unnamed'))} with lirdrec{features}.",
        "## Data",
        _table(["users", "items", "training interactions"], [sizes]),
        _facts(_without_license(shared.data_info)),
        "## How it was made",
        _facts({key: value for key, value in info.items() if key in SETTINGS}) or "This is not recorded.",
        *(
            ["## Metrics", _table(["metric", *(SPLITS.get(split, split) for split in recorded)], metrics)]
            if recorded
            else []
        ),
    ]


def _metrics(shared: Shared) -> dict[str, dict[str, float]]:
    """Return the recorded metrics of a run: split → metric → value."""
    return {
        split: {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        for split, values in shared.info.get("metrics", {}).items()
        if isinstance(values, Mapping)
    }


def _rows(shared: Shared, name: str) -> str | None:
    """Return the number of rows of the table `name`.parquet as text; None if it is not among the files to upload."""
    from pyarrow.parquet import read_metadata

    path = shared.contents.get(f"{name}.parquet")
    return None if path is None else f"{read_metadata(path).num_rows:,}"


def _without_license(info: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if key not in ("licence", "license")}


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_plain(cell) for cell in line)} |" for line in lines)


def _facts(facts: Mapping[str, Any], depth: int = 0) -> str:
    """Return facts (name → value or further facts) as a nested list in Markdown, without empty values."""
    lines = []
    for key, value in facts.items():
        name = f"{'  ' * depth}- {_plain(key)}:"
        if isinstance(value, Mapping) and value:
            lines += [name, _facts(value, depth + 1)]
        elif value is not None and value != {} and value != []:
            lines.append(f"{name} {_plain(', '.join(map(str, value)) if isinstance(value, list) else value)}")
    return "\n".join(line for line in lines if line)


def _code_word(text: Any) -> str:
    return f"`{text}`" if CODE.fullmatch(str(text)) else _plain(text)


def _plain(text: Any) -> str:
    """Escape a text for Markdown and HTML, on one line."""
    return re.sub(r"([\\`*\[\]<>|#]|\b_|_\b)", r"\\\1", " ".join(str(text).split()))
