"""The prompt of captions, how answers to it are read, and the estimated time and cost of a job."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lirdrec.captions.answer_parser import caption_of, clean, read_answer
from lirdrec.captions.captioner import Answer, Captioner
from lirdrec.captions.plan import estimate
from lirdrec.captions.prompt_attributes import Attributes, read_attributes, render, to_toml
from lirdrec.errors import ConfigError

from ..helpers import assert_error, assert_mentions

ATTRIBUTES = Attributes()
PROMPT = render(ATTRIBUTES)


class TestPrompt:
    def test_the_prompt_word_for_word(self):
        asked = Attributes("A lamp.", "German", 1, {"shape": "its form", "light on": "yes or no"})
        assert render(asked) == (
            'A lamp.\n\nAnswer with one JSON object and nothing else. Its keys are:\n- "shape": its form\n'
            '- "light on": yes or no\n\nEach value is a short text in German of one word. Say only what the picture'
            ' shows; where it shows nothing of the kind, the value is "unknown".'
        )

    def test_the_defaults_are_the_issues(self):
        names = "category colour material pattern style use audience printed"
        assert list(Attributes().attributes) == names.split()

    def test_a_file_goes_out_and_in(self, tmp_path):
        asked = Attributes('Say "it".\nNow.', "日本語", 7, {'Farbe "x"': "töne", "b": "c"})
        (tmp_path / "a.toml").write_text(to_toml(asked), encoding="utf-8")
        assert read_attributes(tmp_path / "a.toml") == asked
        assert list(read_attributes(tmp_path / "a.toml").attributes) == list(asked.attributes)

    @pytest.mark.parametrize(
        ("text", "facts"),
        [
            ("max_word = 3", ["'max_word'", "'max_words'"]),
            ("max_words = 0", ["max_words", 0, 1]),
            ("[attributes]", ["attribute"]),
            ("[attributes]\ncolour = 3", ["'attributes'", 3]),
            ('[attributes]\ncolour = " "', ["'colour'"]),
            ('[attributes]\n"--" = "x"', ["'--'"]),
            ('[attributes]\n"a b" = "x"\nA-B = "y"', ["'a b'", "'A-B'"]),
            ("intro", ["TOML"]),
        ],
    )
    def test_files_that_are_wrong(self, tmp_path, text, facts):
        path = tmp_path / "a.toml"
        path.write_text(text)
        with assert_error(ConfigError, mentions=[path]) as error:
            read_attributes(path)
        assert_mentions(str(error.value).replace(str(path), ""), facts)


NAMES = ["category", "colour", "printed on"]
DRESS = {"category": "dress", "colour": "red", "printed on": "Ö!"}
ANSWERS = {
    "as asked": (json.dumps(DRESS), DRESS),
    "fenced": (f"Sure! Here it is:\n```json\n{json.dumps(DRESS, indent=2)}\n```\nAnything else?", DRESS),
    "names in another spelling": ('{"Category":"dress","COLOUR":"red","Printed_On":"Ö!"}', DRESS),
    "in another order": ('{"colour":"red","printed on":"Ö!","category":"dress"}', DRESS),
    "lists, numbers, objects": (
        '{"category": ["dress", "gown"], "colour": {"main": "red", "hem": null}, "printed on": 7}',
        {"category": "dress, gown", "colour": "main red", "printed on": "7"},
    ),
    "wrapped": (f'{{"product": {json.dumps(DRESS)}}}', DRESS),
    "a Python dict": ("{'category': 'dress', 'colour': 'red', 'printed on': None}", {k: DRESS[k] for k in NAMES[:2]}),
    "two products": (f"[{json.dumps(DRESS)}, {json.dumps(DRESS | {'colour': 'blue'})}]", DRESS),
    "cut short": (
        '{"category": "dress", "colour": "red \\"wine\\"", "printed on": "Ö',
        {"category": "dress", "colour": 'red "wine"'},
    ),
    "lines": ("**Category:** dress\n- Colour: red\n3. printed on: Ö!", DRESS),
    "thoughts before": (f'<think>{{"category": "a hat", "colour": "no"}}</think>{json.dumps(DRESS)}', DRESS),
    "says nothing": ('{"category": "dress", "colour": "Unknown.", "printed on": "N/A"}', {"category": "dress"}),
    "others' keys": ('{"category": "dress", "mood": "glad"}', {"category": "dress"}),
    "half a surrogate, zeros, tabs": (
        '{"category": "dr\\ud800ess\\u0000\\t!", "colour": " "}',
        {"category": "dr ess !"},
    ),
    "all unknown": ('{"category": "unknown", "colour": ""}', {}),
    "a refusal": ("I cannot help with that.", {}),
    "braces": ("{{{{{", {}),
    "empty": ("", {}),
    "deep": ('{"category":' * 9000, {}),
}


class TestAnswers:
    @pytest.mark.parametrize("kind", ANSWERS)
    def test_answers_of_all_kinds(self, kind):
        text, attributes = ANSWERS[kind]
        found = read_answer(text, NAMES)
        assert found == attributes and list(found) == [name for name in NAMES if name in found]

    def test_the_caption_is_one_line(self):
        assert caption_of(DRESS | {"colour": "red, white."}) == "Category: dress. Colour: red, white. Printed on: Ö!."

    @settings(max_examples=150, deadline=None)
    @given(st.text(st.characters(exclude_categories=()), max_size=60), st.sampled_from(sorted(ANSWERS)), st.data())
    def test_whatever_a_model_says_can_be_written_to_a_file(self, noise, kind, data):
        answer = ANSWERS[kind][0][:400]
        index = data.draw(st.integers(0, len(answer)))
        text = answer[:index] + noise + answer[index:]
        for value in (*read_answer(text, NAMES).values(), clean(text), clean(text, keep_lines=True)):
            value.encode()
            assert "\x00" not in value and value == value.strip()


PLANNED = Attributes()


class TestEstimate:
    class Fixed(Captioner):
        model, prompt, concurrency, remote, identity, location = "m", "x" * 400, 8, True, {}, "there"

        def answers(self, images):
            raise AssertionError("an estimate asks no model")

    def test_by_a_probe(self):
        probe = [Answer("", tokens_in=n, tokens_out=50, seconds=s) for n, s in ((900, 2.0), (1100, 4.0))]
        one = estimate(self.Fixed(), PLANNED, 10_000, [*probe, Answer(None, "broken", is_image_problem=True)], 0.5, 2.0)
        assert one.measured == 3 and (one.tokens_in, one.tokens_out) == (1000, 50)
        assert one.cost == pytest.approx(10_000 * (1000 * 0.5 + 50 * 2.0) / 1e6) and one.cost == pytest.approx(6.0)
        assert one.time == pytest.approx(10_000 * 3 / 8)
        slow = estimate(self.Fixed(), PLANNED, 10_000, probe, requests_per_minute=60)
        assert slow.time == pytest.approx(10_000) and slow.cost is None
        assert estimate(self.Fixed(), PLANNED, 1, probe).time == pytest.approx(3.0)

    def test_by_rules(self):
        one = estimate(self.Fixed(), PLANNED, 7)
        assert not one.measured and one.tokens_in == 1700 and one.time is None
        assert 8 * 8 <= one.tokens_out <= 8 * 15 * 1.5
