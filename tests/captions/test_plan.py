"""The estimated time and cost of a captioning job."""

from __future__ import annotations

import pytest

from lirdrec.captions.captioner import Answer, Captioner
from lirdrec.captions.plan import estimate
from lirdrec.captions.prompt import Attributes

ATTRIBUTES = Attributes()


class TestEstimate:
    class Fixed(Captioner):
        model, prompt, concurrency, remote, identity, place = "m", "x" * 400, 8, True, {}, "there"

        def answers(self, pictures):
            raise AssertionError("an estimate asks no model")

    def test_by_a_probe(self):
        probe = [Answer("", tokens_in=n, tokens_out=50, seconds=s) for n, s in ((900, 2.0), (1100, 4.0))]
        one = estimate(self.Fixed(), ATTRIBUTES, 10_000, [*probe, Answer(None, "broken", picture=True)], 0.5, 2.0)
        assert one.measured == 3 and (one.tokens_in, one.tokens_out) == (1000, 50)
        assert one.cost == pytest.approx(10_000 * (1000 * 0.5 + 50 * 2.0) / 1e6) and one.cost == pytest.approx(6.0)
        assert one.time == pytest.approx(10_000 * 3 / 8)
        slow = estimate(self.Fixed(), ATTRIBUTES, 10_000, probe, requests_per_minute=60)
        assert slow.time == pytest.approx(10_000) and slow.cost is None
        assert estimate(self.Fixed(), ATTRIBUTES, 1, probe).time == pytest.approx(3.0)

    def test_by_rules(self):
        one = estimate(self.Fixed(), ATTRIBUTES, 7)
        assert not one.measured and one.tokens_in == 1700 and one.time is None
        assert 8 * 8 <= one.tokens_out <= 8 * 15 * 1.5
