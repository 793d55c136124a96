"""The card: a header that the hub's own reader understands, the figures that were recorded, the license that holds."""

from __future__ import annotations

import re

import pytest

from lirdrec.errors import ConfigError
from lirdrec.hub import push
from lirdrec.hub.licenses import KNOWN, License, find_license
from lirdrec.recommender.recommender import Recommender

from ..helpers import assert_error

MOVIELENS = "MovieLens research licence, non-commercial, same terms on redistribution: see MOVIELENS-README.txt"


def read_card(hub, name: str):
    from huggingface_hub import DatasetCard, ModelCard

    content = hub.repos[name].files()["README.md"].decode()
    return (DatasetCard if name.startswith("datasets/") else ModelCard)(content), content


def test_a_datasets_card(hub, login, sample):
    push(sample, "me/films")
    card, content = read_card(hub, "datasets/me/films")
    header = card.data.to_dict()
    assert header["license"] == "other" and header["license_name"] == "movielens-research-licence"
    assert header["size_categories"] == ["10K<n<100K"] and header["pretty_name"] == "movielens"
    assert {"lirdrec", "recommendation", "multimodal"} <= set(header["tags"]) and header["library_name"] == "lirdrec"
    assert [one["data_files"] for one in header["configs"]] == [
        "interactions.parquet",
        "items.parquet",
        "users.parquet",
    ]
    assert MOVIELENS in content  # all of what the data say
    assert "| 643 | 1,495 | 28,133 | 3,250 | 3,518 |" in content
    assert "| text | 384 | float16 | 1,495 |" in content
    assert "- split:\n  - method: random\n" in content
    assert code(content) == [
        "import lirdrec",
        'dataset = lirdrec.from_hub("datasets/me/films")',
        "recommender = lirdrec.fit(dataset)",
    ]


def test_a_runs_card_has_the_figures_that_were_recorded(hub, login, trained):
    push(trained, "me/films")
    card, content = read_card(hub, "me/films")
    recorded = Recommender.load(trained).info["metrics"]
    reported = {(one.dataset_split, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert reported == {(s, name): value for s in ("valid", "test") for name, value in recorded[s].items()}
    assert {one.dataset_name for one in card.data.eval_results} == {"films"}
    assert card.data.license == "cc-by-4.0" and card.data.model_name == "films"
    assert f"| recall@5 | {recorded['valid']['recall@5']:.4f} | 0.2500 |" in content
    assert "- training:\n" in content and "  - epochs: 2\n" in content and "films.csv" in content
    lines = code(content)
    assert len(lines) == 3 and lines[1] == 'recommender = lirdrec.from_hub("me/films")'


def test_without_figures(hub, login, trained):
    push(trained, "me/films", metrics=False)
    card, content = read_card(hub, "me/films")
    assert card.data.eval_results is None and "0.2500" not in content and "recall@5 |" not in content


def test_names_do_not_break_the_card(hub, login, films, tmp_path):
    hostile = "# <script>x</script> | [a](b) `c` *d* _e_\n---\nlicense: mit"
    parts = (films.users, films.items, films.train, films.valid, films.test, films.features, films.item_table)
    push(type(films)(hostile, *parts, info={"note": hostile}).save(tmp_path / "x"), "me/films", license="cc0-1.0")
    card, content = read_card(hub, "datasets/me/films")
    assert card.data.license == "cc0-1.0" and card.data["pretty_name"] == hostile
    body = content.split("\n---\n", 1)[1] if "\n---\n\n#" not in content else content.rsplit("\n---\n\n#", 1)[1]
    assert "<script>" not in body.replace("\\<", "") and "\n---\n" not in body


def code(content: str) -> list[str]:
    return re.search(r"```python\n(.*?)\n```", content, re.DOTALL)[1].splitlines()  # type: ignore[index]


@pytest.mark.parametrize(
    ("named", "known", "license"),
    [
        ("MIT", None, License("mit", "mit")),
        ("other", None, License("other", "other")),
        ("Only for my friends", None, License("other", "Only for my friends")),
        (None, "cc-by-4.0", License("cc-by-4.0", "cc-by-4.0")),
        ("cc-by-4.0", "cc-by-4.0", License("cc-by-4.0", "cc-by-4.0")),
        (None, MOVIELENS, License("other", MOVIELENS)),
        ("other", MOVIELENS, License("other", MOVIELENS)),
    ],
)
def test_licenses(named, known, license):
    assert find_license(named, {"licence": known}, "x") == license
    assert find_license(named, {"license": known}, "x") == license


@pytest.mark.parametrize(
    ("named", "known", "facts"),
    [
        (None, None, ['"cc-by-4.0"', '"other"']),
        ("", None, ["''", "'other'"]),
        ("apache2.0", None, ["'apache2.0'", "'apache-2.0'"]),
        ("mit", MOVIELENS, ["MovieLens research licence", "'mit'"]),
        ("cc-by-4.0", "cc-by-nc-4.0", ["'cc-by-nc-4.0'", "'cc-by-4.0'"]),
    ],
)
def test_licenses_that_are_refused(named, known, facts):
    with assert_error(ConfigError, mentions=facts):
        find_license(named, {"licence": known}, "x")


def test_headers():
    assert License("mit", "mit").header() == {"license": "mit"}
    assert License("other", "Mine: see https://example.org/terms.").header() == {
        "license": "other",
        "license_name": "mine",
        "license_link": "https://example.org/terms.",
    }
    assert all(re.fullmatch(r"[a-z0-9.-]+", one) for one in KNOWN) and len(KNOWN) > 50
