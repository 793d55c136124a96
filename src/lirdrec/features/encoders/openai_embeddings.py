"""Text encoder for servers with OpenAI's HTTP interface, and an estimate of its cost."""

from __future__ import annotations

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

TEXTS = 64  # texts of a request
MAX_REJECTED = 4  # if so many texts are rejected from the start, one by one, the texts are not the cause

T = TypeVar("T")


@dataclass(frozen=True)
class RequestTiming:
    """What was measured of one request: the letters sent, the tokens that the server counted (or None), the seconds.

    The seconds are those of `OpenAIClient.ask_timed`: without pauses and failed attempts.
    """

    letters: int
    tokens: int | None
    seconds: float


class OpenAIEmbeddings(Encoder):
    """Text encoder that sends texts to `/embeddings` of a server, several requests at once.

    The server may truncate a long text, or reject it. A rejected text is listed in the problems; the other texts of its
    request are encoded.

    Args:
        endpoint, model: the client of the server, and the name that the server uses for its model.
        dims: number of columns to ask for, if the model can shorten its vectors; by default all.
        prompt: text to put before each text.
        texts: number of texts in one request.

    Raises:
        ConfigError: no model is named, or a number is out of range. While encoding: the server rejects all requests.
        TrainingError: while encoding, the server does not answer or sends no valid vectors.
    """

    kind = "text"

    def __init__(
        self, endpoint: OpenAIClient, model: str, dims: int | None = None, prompt: str | None = None, texts: int = TEXTS
    ):
        if not model:
            raise ConfigError("the name of the model is empty; give the name that the server uses for its model")
        self.endpoint, self.model, self.prompt, self.texts = endpoint, model, prompt or "", texts
        check_minimum(self, 1, "texts")
        if dims is not None and dims < 1:
            raise ConfigError(f"dims is {dims}; it must be 1 or more")
        self._asked_dims = dims
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
            raise ConfigError(f"{self._name}: {error}") from None

    def prepare(self, inputs: Sequence[Input]) -> list[Prepared]:
        texts = [self.prompt + str(value) for value in inputs]
        return [Prepared(text, length=len(text)) for text in texts]

    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        texts = [prepared.value for prepared in batch]
        vectors = np.zeros((len(texts), self.dims), dtype=np.float32)
        problems: dict[int, str] = {}
        starts = range(0, len(texts), self.texts)
        requests = [texts[start : start + self.texts] for start in starts]
        for index, (rows, rejected) in self.endpoint.each(requests, self._encode_request):
            start = starts[index]
            vectors[start : start + len(rows)] = rows
            problems |= {start + position: reason for position, reason in rejected.items()}
        return Encoded(vectors, dict(sorted(problems.items())))

    def release(self) -> None:
        """Close the connections."""
        self.endpoint.close()

    def measure(self, texts: Sequence[str]) -> RequestTiming | None:
        """Send one request with texts, and return its timing; None if the server rejects it. No vectors are kept."""
        texts = [self.prompt + text for text in texts]
        try:
            tokens, seconds = self._ask(texts, partial(tokens_of, name="prompt_tokens"))
        except RequestRejected:
            return None
        return RequestTiming(sum(map(len, texts)), tokens, seconds)

    def _encode_request(self, texts: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """Return the vectors of the texts of one request, and index → problem for the texts that the server rejects.

        If the request is rejected, each of its texts is sent alone, to find the texts that cause it. Raises a
        ConfigError if the first `MAX_REJECTED` of them are all rejected, since then the texts are not the cause.
        """
        try:
            return self._request(texts), {}
        except RequestRejected as error:
            if len(texts) == 1:
                return np.zeros((1, self.dims), dtype=np.float32), {0: str(error)}
        vectors = np.zeros((len(texts), self.dims), dtype=np.float32)
        problems: dict[int, str] = {}
        for index, text in enumerate(texts):
            try:
                vectors[index] = self._request([text])[0]
            except RequestRejected as error:
                problems[index] = str(error)
                if len(problems) == index + 1 == MAX_REJECTED:
                    raise ConfigError(f"{self._name}: {error}") from None
        return vectors, problems

    def _request(self, texts: Sequence[str]) -> np.ndarray:
        dims = self.__dict__.get("dims", self._asked_dims)  # not the property, which would send a request
        return self._ask(texts, partial(_read, n=len(texts), dims=dims))[0]

    def _ask(self, texts: Sequence[str], read: Callable[[Any], T]) -> tuple[T, float]:
        body: dict[str, Any] = {"model": self.model, "input": list(texts), "encoding_format": "float"}
        if self._asked_dims is not None:
            body["dimensions"] = self._asked_dims
        try:
            return self.endpoint.ask_timed("/embeddings", body, read)
        except RetriesExhausted as error:
            raise TrainingError(
                f"{self._name}: {error}; finished work is kept: run the same command to resume"
            ) from None

    @property
    def _name(self) -> str:
        return f"{self.endpoint.name}, model {self.model}"


def _read(answer: Any, n: int, dims: int | None) -> np.ndarray:
    try:
        rows = [entry["embedding"] for entry in sorted(answer["data"], key=lambda entry: entry["index"])]
        vectors = np.array(rows, dtype=np.float32)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise TransientError("the server's answer does not contain vectors that all have the same length") from None
    if len(rows) != n:
        raise TransientError(f"the server sent {len(rows)} vectors for {n} texts")
    if vectors.ndim != 2:
        raise TransientError("the server's answer has an embedding that is not a list of numbers")
    if not np.isfinite(vectors).all():
        raise TransientError("the server's vectors contain values that are not finite numbers")
    if dims is not None and vectors.shape[1] != dims:
        raise TransientError(f"the server's vectors have {vectors.shape[1]} columns instead of {dims}")
    return vectors


@dataclass
class Waiting:
    """Counts of the texts that wait to be encoded, to estimate the cost.

    Attributes:
        encoder: the encoder that will send the texts.
        texts: number of texts.
        letters: number of letters of all texts, with prompts.
        first: the texts of the first request.
    """

    encoder: OpenAIEmbeddings
    texts: int = 0
    letters: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, inputs: Iterable[Input]) -> None:
        """Count more texts, and keep those that belong to the first request."""
        for value in inputs:
            self.texts += 1
            self.letters += len(self.encoder.prompt) + len(str(value))
            if len(self.first) < self.encoder.texts:
                self.first.append(str(value))


def estimate(waiting: Waiting, probe: RequestTiming | None = None, price: float | None = None) -> Estimate:
    """Estimate the tokens, the cost and the time of encoding the waiting texts.

    Args:
        waiting: the counts of the texts.
        probe: the measurement of their first request; without it, tokens are estimated from letters, and the time of a
            request is unknown.
        price: price of a million tokens; None if unknown.
    """
    letters = waiting.letters / max(1, waiting.texts)
    tokens, measured = letters / LETTERS, 0
    if probe is not None and probe.tokens is not None:
        tokens, measured = letters * probe.tokens / probe.letters, len(waiting.first)
    server = waiting.encoder.endpoint
    return Estimate(
        unit="text",
        inputs=waiting.texts,
        tokens_in=tokens,
        tokens_out=0.0,
        seconds=None if probe is None else probe.seconds,
        measured=measured,
        concurrency=server.concurrency,
        per_request=waiting.encoder.texts,
        requests_per_minute=server.requests_per_minute,
        price_in=price,
    )
