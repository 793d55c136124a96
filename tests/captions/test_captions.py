"""Captions: requests over HTTP, a job that is killed, edited captions, the case study."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import types
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from lirdrec.captions import pipeline as run_module
from lirdrec.captions.captioner import COLUMNS, Captioner
from lirdrec.captions.export_import import export_captions, import_captions
from lirdrec.captions.html_report import write_caption_report
from lirdrec.captions.openai_captioner import OpenAICaptioner
from lirdrec.captions.pipeline import captioning
from lirdrec.captions.prompt_attributes import Attributes, render
from lirdrec.data.dataset import Dataset
from lirdrec.data.images import with_images
from lirdrec.errors import ConfigError, DataError, RunFolderError, TrainingError
from lirdrec.features.remote.client import OpenAIClient

from ..features.misbehaving_server import Clock, Server, describe
from ..helpers import assert_error, assert_mentions, files

N = 12
COLORS = [(248 - 16 * n, 24 + 16 * (n % 3), 8 + 16 * n) for n in range(N)]  # each in the middle of a shade
ATTRIBUTES = Attributes()
PROMPT = render(ATTRIBUTES)


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("LIRDREC_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def dataset(tmp_path) -> Path:
    """Twelve items with a tile each; 10 shows the tile of 3 again, 11 has none, 5 is no image, 0 has a title."""
    images = tmp_path / "images"
    images.mkdir()
    for n, color in enumerate(COLORS[:10]):
        Image.new("RGB", (20, 10), color).save(images / f"{n}.png")
    shutil.copy(images / "3.png", images / "10.png")
    (images / "5.png").write_text("no image")
    items = pl.DataFrame({"item": range(N), "title": ["A <b>tile</b>", *[None] * (N - 1)]})
    pairs = pl.DataFrame({"user": [n % 3 for n in range(N)], "item": range(N)})
    made = with_images(Dataset.from_frames(pairs, items=items, split="none", name="tiles"), images)
    return made.save(tmp_path / "tiles")


DRAWN = [n for n in range(N) if n not in (5, 11)]  # items that can be captioned; 10 repeats 3


def captioner(server: Server, **options) -> OpenAICaptioner:
    model = options.pop("model", "m")
    return OpenAICaptioner(OpenAIClient(server.url, sleep=lambda s: None, **options), model, PROMPT)


def caption(folder: Path, by: Captioner, limit: int | None = None, **options):
    with captioning(folder, by, ATTRIBUTES, **options) as job:
        job.work(limit)
        return job.finish()


def table(folder: Path) -> dict[int, str | None]:
    frame = Dataset.load(folder, verify=True).item_table
    return dict(zip(frame["item"], frame["caption"], strict=True))


def expected(n: int) -> str:
    """What the server says of item n: computed from the image's own file, not from what was sent."""
    said = describe((Path("images") / f"{n}.png").read_bytes())
    return f"Category: {said['category']}. Colour: {said['colour']}."


class TestOverHTTP:
    def test_what_is_sent(self, dataset):
        Image.effect_noise((3000, 600), 90).convert("CMYK").save(dataset / "large.jpg")
        with Server() as server:
            by = OpenAICaptioner(OpenAIClient(server.url), "the model", "What is it?", max_tokens=77, side=100)
            (answer,) = by.caption([dataset / "large.jpg"])
        (body,) = server.bodies
        assert (body["model"], body["max_tokens"], body["temperature"]) == ("the model", 77, 0)
        text, image = body["messages"][0]["content"]
        assert text == {"type": "text", "text": "What is it?"}
        sent = Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].partition(",")[2])))
        assert (sent.format, sent.mode, sent.size) == ("JPEG", "RGB", (100, 20))
        assert (answer.tokens_in, answer.tokens_out) == (900, 40) and answer.seconds > 0

    def test_the_seconds_of_an_answer_are_without_pauses_and_failed_attempts(self, dataset):
        clock = Clock(2)
        with Server([500], sticky=clock.answer) as server:
            options = {"requests_per_minute": 1, "sleep": clock.wait, "clock": clock.time}
            client = OpenAIClient(server.url, concurrency=1, **options)
            answers = OpenAICaptioner(client, "m", PROMPT).caption([dataset.parent / "images" / "0.png"] * 2)
        assert clock.now > 120 and [answer.seconds for answer in answers] == [2.0, 2.0]

    def test_answers_stand_in_the_order_of_the_images(self, dataset, monkeypatch):
        monkeypatch.chdir(dataset.parent)
        paths = [Path("images") / f"{n}.png" for n in (4, 5, 0, 7, 10, 1)]
        with Server([500, "cut", "garbage", "shape", "null", 429, "hang up"]) as server:
            answers = captioner(server, concurrency=3).caption(paths)
        assert [one.text and json.loads(one.text) for one in answers] == [
            None if path.name == "5.png" else describe(path.read_bytes()) for path in paths
        ]
        assert answers[1].is_image_problem and "images/5.png" in answers[1].problem
        assert len(server.asked) == 12  # the broken image is not sent

    @pytest.mark.parametrize(
        ("fault", "facts", "passing"),
        [
            (400, ["status 400 as ordered"], False),
            ("decline", ["I cannot help"], False),
            ("shape", ["6 attempts"], True),
            ("null", ["6 attempts"], True),
            (503, ["status 503 as ordered", "6 attempts"], True),
        ],
    )
    def test_an_image_that_keeps_failing_is_a_problem(self, dataset, fault, facts, passing):
        with Server(sticky=lambda body: fault) as server:
            (answer,) = captioner(server).caption([dataset.parent / "images" / "1.png"])
        assert (answer.text, answer.passing) == (None, passing)
        assert_mentions(answer.problem, facts)

    def test_content_in_parts(self, dataset):
        with Server(["parts"]) as server:
            (answer,) = captioner(server).caption([dataset.parent / "images" / "1.png"])
        assert answer.text == '{"category": "in parts"}'


class TestRun:
    def test_captions_become_columns(self, dataset, monkeypatch):
        monkeypatch.chdir(dataset.parent)
        with Server() as server:
            outcome = caption(dataset, captioner(server))
        assert table(dataset) == {n: expected(n) if n in DRAWN else None for n in range(N)}
        frame = Dataset.load(dataset, verify=True).item_table
        assert frame["title"].to_list() == ["A <b>tile</b>", *[None] * (N - 1)]
        assert frame["caption_machine"].equals(frame["caption"], check_names=False)
        assert json.loads(frame["caption_attributes"][4]) == {"category": "plain tile", "colour": "red, 11-2-4"}
        assert frame["caption_key"][3] == frame["caption_key"][10] and frame["caption_key"].n_unique() == 10
        assert len(server.asked) == 9  # equal images once
        assert (outcome.written, outcome.captions, outcome.problems, outcome.waiting) == (10, 10, 1, 0)
        assert (outcome.tokens_in, outcome.tokens_out) == (8100, 360)
        rows = list(csv.DictReader((dataset / "captions.problems.csv").open()))
        assert [(row["item"], row["image"]) for row in rows] == [("5", "5.png")]
        info = Dataset.load(dataset).info["captions"]
        assert info["prompt"] == PROMPT and info["model"] == "m" and info["captions"] == 10
        assert not (dataset / "work").exists()

    def test_again_it_asks_nothing_and_changes_no_byte(self, dataset):
        with Server() as server:
            caption(dataset, captioner(server))
            before, asked = files(dataset), len(server.asked)
            outcome = caption(dataset, captioner(server, concurrency=1))
            assert files(dataset) == before and len(server.asked) == asked
            assert (outcome.written, outcome.captions) == (0, 10)

    def test_only_changed_and_new_images_are_asked_about(self, dataset, monkeypatch):
        monkeypatch.chdir(dataset.parent)
        with Server() as server:
            caption(dataset, captioner(server))
            asked = len(server.asked)
            Image.new("RGB", (9, 9), "blue").save("images/2.png")
            Image.new("RGB", (9, 9), "lime").save("images/5.png")
            caption(dataset, captioner(server))
        assert len(server.asked) == asked + 2
        assert table(dataset) == {n: expected(n) if n != 11 else None for n in range(N)}
        assert not (dataset / "captions.problems.csv").exists()

    def test_another_prompt_or_model_captions_all_again(self, dataset):
        with Server() as server:
            caption(dataset, captioner(server))
            caption(dataset, captioner(server, model="other"))
            assert len(server.asked) == 18

    def test_what_people_edited_is_kept(self, dataset):
        with Server() as server:
            caption(dataset, captioner(server))
            machine = table(dataset)
            path = dataset.parent / "captions.csv"
            assert export_captions(dataset, path) == N
            rows = pl.read_csv(path)
            assert rows.columns == ["item", "title", "image", "caption", "caption_machine"]
            new = {0: "A person's.\nTwo lines.", 1: "", 11: "No image, but a word"}
            changed = rows.with_columns(
                pl.Series("caption", [new.get(n, old) for n, old in zip(rows["item"], rows["caption"], strict=True)])
            )
            changed.write_csv(path)
            assert import_captions(dataset, path) == 3
            assert import_captions(dataset, path) == 0
            assert table(dataset) == machine | new
            asked = len(server.asked)
            outcome = caption(dataset, captioner(server, model="other"))  # even then
            assert outcome.edited == 3 and table(dataset) == machine | new
            assert len(server.asked) == asked + 7
            outcome = caption(dataset, captioner(server, model="other"), overwrite_edited=True)
            assert len(server.asked) == asked + 9
            assert table(dataset) == machine | {11: new[11]} and outcome.edited == 1

    def test_edited_captions_go_back_to_the_machines_without_asking(self, dataset):
        with Server() as server:
            caption(dataset, captioner(server))
            before, asked = table(dataset), len(server.asked)
            (dataset.parent / "c.csv").write_text("item,caption\n4,mine\n")
            import_captions(dataset, dataset.parent / "c.csv")
            assert table(dataset)[4] == "mine"
            caption(dataset, captioner(server), overwrite_edited=True)
            assert table(dataset) == before and len(server.asked) == asked

    def test_a_limit_now_the_rest_later(self, dataset):
        with Server() as server:
            outcome = caption(dataset, captioner(server), limit=4)
            assert (outcome.written, outcome.waiting) == (5, 6)  # item 10 shows what item 3 does
            one_go = captioner(server)
            outcome = caption(dataset, one_go)
            assert (outcome.captions, outcome.waiting) == (10, 0) and len(server.asked) == 9

    def test_answers_of_no_use_are_listed_with_what_was_said(self, dataset):
        said = {"say": 'I see, "nothing"\n\ud800 at all'}
        with Server([said]) as server:
            caption(dataset, captioner(server, concurrency=1))
            row = next(csv.DictReader((dataset / "captions.problems.csv").open()))
            assert row["item"] == "0" and row["problem"]
            assert row["answer"] == 'I see, "nothing"\nat all'
            assert table(dataset)[0] is None
            caption(dataset, captioner(server))
            assert table(dataset)[0] is not None and len(server.asked) == 10

    def test_many_of_no_use_in_a_row_stop_the_run(self, dataset, monkeypatch):
        monkeypatch.setattr(run_module, "TOO_MANY", 4)
        with Server(["ok", *[{"say": "a nice image"}] * 9]) as server:
            with assert_error(TrainingError, mentions=[4, "a nice image"]):
                caption(dataset, captioner(server, concurrency=1))
            assert len(server.asked) == 5
            server.script.clear()
            outcome = caption(dataset, captioner(server))  # continues behind them
            assert outcome.captions == 5 and outcome.problems == 6 and len(server.asked) == 9

    def test_a_wrong_key_in_the_middle_keeps_what_was_sealed(self, dataset):
        with Server(["ok", "ok", "ok", 401]) as server:
            with assert_error(ConfigError, mentions=["LIRDREC_API_KEY", "status 401 as ordered"]):
                caption(dataset, captioner(server, concurrency=1))
            assert "caption" not in Dataset.load(dataset).item_table.columns
            assert len(list((dataset / "work" / "caption").glob("0*.json"))) == 3
            caption(dataset, captioner(server, concurrency=1))
        assert set(server.answered.values()) == {1} and len(server.answered) == 9

    def test_unfinished_work_of_another_model_is_not_mixed_in(self, dataset):
        with Server(["ok", 401]) as server:
            with pytest.raises(ConfigError):
                caption(dataset, captioner(server, concurrency=1))
            with assert_error(ConfigError, mentions=[dataset / "work" / "caption", "plan.json", "restart=True"]):
                caption(dataset, captioner(server, model="other"))
            outcome = caption(dataset, captioner(server, model="other"), restart=True)
            assert outcome.captions == 10 and len(server.answered) == 9

    def test_a_damaged_seal_is_asked_about_again(self, dataset):
        with Server(["ok", "ok", 401]) as server:
            with pytest.raises(ConfigError):
                caption(dataset, captioner(server, concurrency=1))
            (dataset / "work" / "caption" / "00001.json").write_bytes(b'{"fac')
            caption(dataset, captioner(server))
            assert sorted(server.answered.values()) == [1] * 8 + [2]

    def test_nothing_done_leaves_nothing_behind(self, dataset):
        before = files(dataset)
        with Server(sticky=lambda body: 401) as server, pytest.raises(ConfigError):
            caption(dataset, captioner(server))
        assert files(dataset) == before

    def test_one_process_at_a_time(self, dataset):
        with (
            Server() as server,
            captioning(dataset, captioner(server), ATTRIBUTES),
            assert_error(RunFolderError, mentions=[dataset, os.getpid()]),
        ):
            caption(dataset, captioner(server))


@pytest.mark.parametrize(("kill", "concurrency"), [(1, 1), (4, 1), (6, 3)])
def test_killed_by_force_it_resumes_to_the_same_bytes(dataset, kill, concurrency):
    whole = shutil.copytree(dataset, dataset.parent / "whole")
    with Server() as server:
        caption(whole, captioner(server))
    with Server() as server:
        script = Path(__file__).with_name("killed_captions.py")
        command = [sys.executable, str(script), str(dataset), server.url, str(concurrency), str(kill)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert "caption" not in Dataset.load(dataset, verify=True).item_table.columns
        assert kill <= len(server.asked) < kill + concurrency
        caption(dataset, captioner(server))
        assert files(dataset) == files(whole)
        assert len(set(server.asked)) == 9
        assert len(server.asked) - 9 < concurrency  # no more than was under way; with one request at a time, nothing


def test_captions_of_people_need_no_model(dataset):
    path = dataset.parent / "c.tsv"
    path.write_text("item\tcaption\tnotes\n11\tA word\tx\n2\tTwo\ty\n3\t\tz\n")
    with assert_error(DataError, mentions=[dataset, N, "lirdrec caption"]):
        export_captions(dataset, path)
    assert import_captions(dataset, path) == 2
    with Server() as server:
        outcome = caption(dataset, captioner(server))
        assert (outcome.captions, outcome.edited, len(server.asked)) == (11, 2, 8)
    found = table(dataset)
    assert (found[2], found[11]) == ("Two", "A word") and found[3].startswith("Category")


BAD_IMPORTS = [
    ("item,words\n1,x\n", ["'caption'", "item, words"]),
    ("item,caption\n1,x\n99,y\n", ["line 3", "tiles", "'99'"]),
    ("item,caption\n1,x\ntwo,y\n", ["line 3", "tiles", "'two'"]),
    ("item,caption\n1,x\n2,y\n1,z\n", ["line 4", 1]),
    ('item,caption\n1,"x\n', ["line 2"]),
    (b"item,caption\n1,sch\xf6n\n", ["0xf6", "line 2", "UTF-8", "encoding"]),
    ("", []),
]


@pytest.mark.parametrize(("text", "facts"), BAD_IMPORTS)
def test_imports_that_are_wrong_change_nothing(dataset, text, facts):
    path = dataset.parent / "c.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = files(dataset)
    with assert_error(DataError, mentions=[path]) as error:
        import_captions(dataset, path)
    assert_mentions(str(error.value).replace(str(dataset.parent), ""), facts)
    assert files(dataset) == before


class TestCaseStudy:
    def test_the_page_shows_what_it_claims(self, dataset):
        with assert_error(DataError, mentions=[dataset, "lirdrec caption"]):
            write_caption_report(dataset, dataset.parent / "page.html")
        with Server() as server:
            caption(dataset, captioner(server))
        (dataset.parent / "c.csv").write_text("item,caption\n4,edited <i>here</i>\n")
        import_captions(dataset, dataset.parent / "c.csv")
        page = write_caption_report(dataset, dataset.parent / "out" / "page.html").read_text(encoding="utf-8")
        answer = re.search(r'<div class="answer">.*?<p>(.*?)</p>', page)[1]
        assert "<strong>m</strong>" in answer
        # 10 of 12 items have a caption, 11 have no text, of which 9 have one; 2.0 of 8 attributes; 1 edited, 1 problem
        assert sorted(re.findall(r"\d[\d.]*\b", answer)) == sorted(["10", "12", "11", "9", "2.0", "8", "1", "1"])
        assert page.count("data:image/jpeg;base64,") == 10
        badges = re.findall(r'<ul class="badges">(.*?)</ul>', page)
        assert sorted(one.count("<li>") for one in badges) == [1] * 8 + [2]  # 9 without a text, one of them edited
        assert "A &lt;b&gt;tile&lt;/b&gt;" in page and "edited &lt;i&gt;here&lt;/i&gt;" in page
        assert "<b>tile" not in page and "<i>here" not in page
        for line in PROMPT.splitlines():
            assert line.replace('"', "&#34;") in page
        assert "plain tile (10)" in page and "http://" not in page and str(dataset.parent) not in page
        shown = base64.b64decode(page.split("data:image/jpeg;base64,")[1].partition('"')[0])
        assert np.allclose(np.asarray(Image.open(io.BytesIO(shown)))[5, 5], COLORS[1], atol=6)  # item 1 is the first

    def test_the_same_captions_give_the_same_page_at_any_time(self, dataset, monkeypatch):
        with Server() as server:
            caption(dataset, captioner(server))
        pages = []
        for year in (2025, 2031):
            later = types.SimpleNamespace(now=lambda zone, year=year: datetime(year, 1, 2, 3, 4, 5, tzinfo=zone))
            monkeypatch.setattr("lirdrec.provenance.datetime", later)
            pages.append(write_caption_report(dataset, dataset.parent / "a.html").read_bytes())
        assert pages[0] == pages[1]


def test_columns_are_named_as_documented():
    assert COLUMNS == ("caption", "caption_attributes", "caption_machine", "caption_key")
