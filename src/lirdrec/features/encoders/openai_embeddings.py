"""Text encoder for servers with OpenAI's HTTP interface.

What the encoding of texts by a server will take, before it starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np

from lirdrec.config import check_minimum
from lirdrec.errors import ConfigError, TrainingError
from lirdrec.features.encoder import Encoded, Encoder, Input, Prepared
from lirdrec.features.remote.client import OpenAIClient, RequestRejected, RetriesExhausted, TransientError, tokens_of
from lirdrec.features.remote.cost import LETTERS, Estimate

TEXTS = 64  # of a request
SURE = 4  # texts in a row that are refused one by one: then it is not the texts' fault


T = TypeVar("T")


@dataclass(frozen=True)
class RequestTiming:
    """What one request took: the letters that were sent, the tokens that the server counted (or None), the seconds."""

    letters: int
    tokens: int | None
    seconds: float


class OpenAIEmbeddings(Encoder):
    """Asks `/embeddings`, several requests at once.

    The server decides where a long text is cut, or refuses it: then this text is a problem, the others are not.

    Args:
        endpoint: the server.
        model: its name there.
        dims: columns to ask for, where the model can shorten its vectors; None: as many as it has.
        prompt: stands before every text.
        texts: of one request.

    Raises:
        ConfigError: no model is named, or a number is out of range.
    """

    kind = "text"

    def __init__(
        self, endpoint: OpenAIClient, model: str, dims: int | None = None, prompt: str | None = None, texts: int = TEXTS
    ):
        if not model:
            raise ConfigError("a server needs the name that it gives its model")
        self.endpoint, self.model, self.prompt, self.texts = endpoint, model, prompt or "", texts
        check_minimum(self, 1, "texts")
        self._asked_dims = dims
        if dims is not None and dims < 1:
            raise ConfigError(f"dims is {dims}; it must be 1 or more")
        self.batch_size = texts * endpoint.concurrency

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"encoder": "endpoint", "model": self.model, "dims": self._asked_dims, "prompt": self.prompt}

    @cached_property
    def dims(self) -> int:
        if self._asked_dims is not None:
            return self._asked_dims
        try:
            return self._request(["text"]).shape[1]
        except RequestRejected as error:
            raise ConfigError(f"{self.endpoint.name}, model {self.model}: {error}") from None

    def prepare(self, inputs: Sequence[Input]) -> list[Prepared]:
        texts = [self.prompt + str(one) for one in inputs]
        return [Prepared(text, length=len(text)) for text in texts]

    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        texts = [one.value for one in batch]
        vectors = np.zeros((len(texts), self.dims), dtype=np.float32)
        problems: dict[int, str] = {}
        starts = range(0, len(texts), self.texts)
        parts = [texts[start : start + self.texts] for start in starts]
        for place, (rows, refused) in self.endpoint.each(parts, self._part):
            vectors[starts[place] : starts[place] + len(rows)] = rows
            problems |= {starts[place] + at: sentence for at, sentence in refused.items()}
        return Encoded(vectors, dict(sorted(problems.items())))

    def release(self) -> None:
        """Without connections."""
        self.endpoint.close()

    def measure(self, texts: Sequence[str]) -> RequestTiming | None:
        """What one request of texts takes; None where the server refuses it. The vectors are not kept."""
        texts = [self.prompt + text for text in texts]
        started = time.monotonic()
        try:
            tokens = self._ask(texts, partial(tokens_of, name="prompt_tokens"))
        except RequestRejected:
            return None
        return RequestTiming(sum(map(len, texts)), tokens, time.monotonic() - started)

    def _part(self, texts: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """The vectors of one request; where it is refused, of its texts one by one, to find those that are at fault."""
        try:
            return self._request(texts), {}
        except RequestRejected as error:
            if len(texts) == 1:
                return np.zeros((1, self.dims), dtype=np.float32), {0: str(error)}
        vectors = np.zeros((len(texts), self.dims), dtype=np.float32)
        problems: dict[int, str] = {}
        for place, text in enumerate(texts):
            try:
                vectors[place] = self._request([text])[0]
            except RequestRejected as error:
                problems[place] = str(error)
                if len(problems) == place + 1 == SURE:
                    raise ConfigError(f"{self.endpoint.name}, model {self.model}: {error}") from None
        return vectors, problems

    def _request(self, texts: Sequence[str]) -> np.ndarray:
        return self._ask(texts, partial(_read, n=len(texts), dims=self._known_dims))

    def _ask(self, texts: Sequence[str], read: Callable[[Any], T]) -> T:
        body: dict[str, Any] = {"model": self.model, "input": list(texts), "encoding_format": "float"}
        if self._asked_dims is not None:
            body["dimensions"] = self._asked_dims
        try:
            return self.endpoint.ask("/embeddings", body, read)
        except RetriesExhausted as error:
            raise TrainingError(
                f"{self.endpoint.name}, model {self.model}: {error}; what is done is kept, the same command goes on"
            ) from None

    @property
    def _known_dims(self) -> int | None:
        return self.__dict__.get("dims", self._asked_dims)


def _read(answer: Any, n: int, dims: int | None) -> np.ndarray:
    try:
        rows = [entry["embedding"] for entry in sorted(answer["data"], key=lambda entry: entry["index"])]
        vectors = np.array(rows, dtype=np.float32)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise TransientError("the server's answer holds no vectors of one length") from None
    if len(rows) != n:
        raise TransientError(f"the server sent {len(rows)} vectors for {n} texts")
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise TransientError("the server's vectors hold values that are no numbers")
    if dims is not None and vectors.shape[1] != dims:
        raise TransientError(f"the server's vectors have {vectors.shape[1]} columns instead of {dims}")
    return vectors


@dataclass
class Waiting:
    """Texts that are to be sent.

    Attributes:
        encoder: whose server gets them.
        texts, letters: how many, prompts included.
        first: those of the first request.
    """

    encoder: OpenAIEmbeddings
    texts: int = 0
    letters: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, inputs: Iterable[Input]) -> None:
        """Count some more."""
        for one in inputs:
            self.texts += 1
            self.letters += len(self.encoder.prompt) + len(str(one))
            if len(self.first) < self.encoder.texts:
                self.first.append(str(one))


def estimate(waiting: Waiting, probe: RequestTiming | None = None, price: float | None = None) -> Estimate:
    """By a probe where there is one, else by a rule of thumb.

    Args:
        waiting: what is to be sent.
        probe: what its first request took.
        price: of a million tokens.
    """
    letters = waiting.letters / max(1, waiting.texts)
    tokens, measured = letters / LETTERS, 0
    if probe is not None and probe.tokens is not None:
        tokens, measured = letters * probe.tokens / probe.letters, len(waiting.first)
    server = waiting.encoder.endpoint
    return Estimate(
        "text",
        waiting.texts,
        tokens,
        0.0,
        None if probe is None else probe.seconds,
        measured,
        server.concurrency,
        waiting.encoder.texts,
        server.requests_per_minute,
        price,
    )
