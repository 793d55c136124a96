"""A captioner that sends images to a server with OpenAI's HTTP interface."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lirdrec.captions.captioner import SIDE, Answer, Captioner, open_scaled
from lirdrec.config import check_minimum
from lirdrec.errors import ConfigError, DataError
from lirdrec.features.remote.client import OpenAIClient, RequestRejected, RetriesExhausted, TransientError, tokens_of
from lirdrec.option_names import option_name, option_text

QUALITY = 90  # of the JPEG that is sent


class OpenAICaptioner(Captioner):
    """Captioner that sends each image as a JPEG to `/chat/completions` of a server.

    Args:
        endpoint: the client of the server.
        model: name of the model on the server.
        prompt: the text that is sent with every image.
        max_tokens: maximum tokens of an answer.
        side: maximum pixels of an image's longer side.

    Raises:
        ConfigError: the name of the model is empty, or a number is out of range.
    """

    remote = True

    def __init__(self, endpoint: OpenAIClient, model: str, prompt: str, max_tokens: int = 400, side: int = SIDE):
        if not model:
            name = option_text("model", "NAME")
            raise ConfigError(f"{option_name('endpoint')} also needs the name of the model on the server: {name}")
        self.endpoint, self.model, self.prompt, self.max_tokens, self.side = endpoint, model, prompt, max_tokens, side
        check_minimum(self, 1, "max_tokens", "side")
        self.concurrency = endpoint.concurrency

    @property
    def identity(self) -> Mapping[str, Any]:
        settings = {name: getattr(self, name) for name in ("model", "prompt", "max_tokens", "side")}
        return {"captioner": "endpoint", **settings}

    @property
    def location(self) -> str:
        return self.endpoint.name

    def answers(self, images: Sequence[Path]) -> Iterator[tuple[int, Answer]]:
        return self.endpoint.each(images, self._answer)

    def _answer(self, path: Path) -> Answer:
        jpeg = io.BytesIO()
        try:
            open_scaled(path, self.side).save(jpeg, "JPEG", quality=QUALITY)
        except DataError as error:
            return Answer(None, str(error), is_image_problem=True)
        url = f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"
        content = [{"type": "text", "text": self.prompt}, {"type": "image_url", "image_url": {"url": url}}]
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_tokens,
            "temperature": 0,
        }
        try:
            answer, seconds = self.endpoint.ask_timed("/chat/completions", body, _read)
        except (RequestRejected, RetriesExhausted) as error:
            return Answer(None, str(error), passing=isinstance(error, RetriesExhausted))
        return answer if answer.problem is not None else replace(answer, seconds=seconds)


def _read(answer: Any) -> Answer:
    try:
        choice = answer["choices"][0]
        content = choice["message"].get("content")
        refusal = choice["message"].get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise TransientError("the server's answer does not contain a message of the model") from None
    if isinstance(content, list):  # parts, as some servers send them
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    if refusal or (not content and choice.get("finish_reason") == "content_filter"):
        return Answer(None, f"the model refused: {' '.join(str(refusal or 'its content filter').split())[:200]}")
    if not isinstance(content, str) or not content.strip():
        raise TransientError("the model's message in the server's answer is empty")
    n_in, n_out = tokens_of(answer, "prompt_tokens"), tokens_of(answer, "completion_tokens")
    return Answer(content, tokens_in=n_in, tokens_out=n_out)
