"""The contract of a captioner: pictures in, what a multimodal language model says of each out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIDE = 1024  # pixels: longer pictures are made smaller before a model sees them


@dataclass(frozen=True)
class Answer:
    """What became of one picture.

    Attributes:
        text: what the model said, as it said it; None where there is a problem.
        problem: why there is no answer, as one sentence.
        picture: whether the problem lies in the file of the picture; no model was asked then.
        passing: whether the same picture may go well another time (the server was in trouble).
        tokens_in, tokens_out: of prompt with picture, and of the answer; None where unknown.
        seconds: that the model took for it, its share of a batch included; loading and waiting left out.
    """

    text: str | None
    problem: str | None = None
    picture: bool = False
    passing: bool = False
    tokens_in: int | None = None
    tokens_out: int | None = None
    seconds: float | None = None


class Captioner(ABC):
    """Describes pictures by one prompt. Cheap to construct; loads and connects at its first use.

    Attributes:
        model: its name, for people; what decides is `identity`.
        prompt: what is asked of every picture.
        concurrency: pictures that are worked on at once, each in its own time.
        remote: whether pictures leave this machine, and may cost money.
    """

    model: str
    prompt: str
    concurrency: int = 1
    remote: bool = False

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """All that decides the answers, JSON-able: model, prompt, precision, limits. No path, address or key."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the model runs, for people."""

    @abstractmethod
    def answers(self, pictures: Sequence[Path]) -> Iterator[tuple[int, Answer]]:
        """(place, answer) of each picture, as they are ready.

        Raises:
            LirdrecError: no picture can go well: the model cannot be loaded, the server is not there, the key is wrong.
        """

    def caption(self, pictures: Sequence[Path]) -> list[Answer]:
        """The answers in the order of the pictures."""
        found = dict(self.answers(pictures))
        return [found[place] for place in range(len(pictures))]
