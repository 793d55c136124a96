"""Captioner for servers with OpenAI's HTTP interface."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lirdrec.captions.captioner import SIDE, Answer, Captioner
from lirdrec.config import check_minimum
from lirdrec.errors import ConfigError, DataError
from lirdrec.features.remote.client import OpenAIClient, RequestRejected, RetriesExhausted, TransientError, tokens_of

QUALITY = 90  # of the JPEG that is sent


class OpenAICaptioner(Captioner):
    """Asks `/chat/completions` with each picture inside the request, as a JPEG of at most `side` pixels a side.

    Args:
        endpoint: the server.
        model: its name there.
        prompt: what is asked.
        max_tokens: of an answer.
        side: pixels of the longer side at most.

    Raises:
        ConfigError: no model is named, or a number is out of range.
    """

    remote = True

    def __init__(self, endpoint: OpenAIClient, model: str, prompt: str, max_tokens: int = 400, side: int = SIDE):
        if not model:
            raise ConfigError("--endpoint needs the name that the server gives its model: --model NAME")
        self.endpoint, self.model, self.prompt, self.max_tokens, self.side = endpoint, model, prompt, max_tokens, side
        check_minimum(self, 1, "max_tokens", "side")
        self.concurrency = endpoint.concurrency

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "captioner": "endpoint",
            "model": self.model,
            "prompt": self.prompt,
            "max_tokens": self.max_tokens,
            "side": self.side,
        }

    @property
    def place(self) -> str:
        return self.endpoint.name

    def answers(self, pictures: Sequence[Path]) -> Iterator[tuple[int, Answer]]:
        return self.endpoint.each(pictures, self._answer)

    def _answer(self, path: Path) -> Answer:
        try:
            picture = as_data_url(path, self.side)
        except DataError as error:
            return Answer(None, str(error), picture=True)
        content = [{"type": "text", "text": self.prompt}, {"type": "image_url", "image_url": {"url": picture}}]
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_tokens,
            "temperature": 0,
        }
        try:
            return self.endpoint.ask("/chat/completions", body, partial(_read, started=time.monotonic()))
        except RequestRejected as error:
            return Answer(None, str(error))
        except RetriesExhausted as error:
            return Answer(None, str(error), passing=True)


def as_data_url(path: Path, side: int) -> str:
    """A picture as a base64 JPEG that may stand in a request.

    Raises:
        DataError: the file cannot be opened as a picture.
    """
    from PIL import Image

    from lirdrec.features.images import open_image

    picture = open_image(path)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _read(answer: Any, started: float) -> Answer:
    try:
        choice = answer["choices"][0]
        content = choice["message"].get("content")
        refusal = choice["message"].get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise TransientError("the server's answer holds no message") from None
    if isinstance(content, list):  # parts, as some servers send them
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    if refusal or (not content and choice.get("finish_reason") == "content_filter"):
        return Answer(None, f"the model declines: {' '.join(str(refusal or 'its filter of contents').split())[:200]}")
    if not isinstance(content, str) or not content.strip():
        raise TransientError("the server's answer is empty")
    n_in, n_out = tokens_of(answer, "prompt_tokens"), tokens_of(answer, "completion_tokens")
    return Answer(content, tokens_in=n_in, tokens_out=n_out, seconds=time.monotonic() - started)
