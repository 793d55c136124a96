"""The prompt of captioning models: it asks for one short answer per attribute."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lirdrec.config import check_minimum, make_config, option, read_toml, validated
from lirdrec.errors import ConfigError

NOTHING = "unknown"  # the answer for attributes that the image does not show

DEFAULT = {
    "category": "what kind of product it is, as a shop would file it",
    "colour": "the main colours, the strongest first",
    "material": "what it is made of, as far as it can be seen",
    "pattern": "plain, striped, floral, a photograph, a drawing …",
    "style": "how it looks: modern, classic, playful, sporty …",
    "use": "what it is for, and where or when",
    "audience": "whom it is made for",
    "printed": "words, names, logos and figures that are printed on it, as they stand there",
}


@dataclass(frozen=True)
@validated
class Attributes:
    """The attributes of an image that the model is asked for, and the other parts of the prompt.

    Attributes:
        attributes: name → description; the names become keys of the answer, in this order.

    Raises:
        ConfigError: there is no attribute, a name or a description is empty, a name is repeated, or `max_words` is
            below 1.
    """

    intro: str = option(
        "You see the picture of one product from the catalogue of a shop. Describe it for people who cannot see it.",
        "the first sentences of the prompt",
    )
    language: str = option("English", "the language of the answers")
    max_words: int = option(15, "maximum words per attribute")
    attributes: Mapping[str, str] = option(DEFAULT, "name → description")

    def __post_init__(self) -> None:
        check_minimum(self, 1, "max_words")
        if not self.attributes:
            raise ConfigError(
                'the prompt needs at least one attribute; add a line such as colour = "the main colours"'
                " to the table [attributes]"
            )
        seen: dict[str, str] = {}
        for name, meaning in self.attributes.items():
            if not (plain := plain_name(name)) or not meaning.strip():
                raise ConfigError(
                    f"the attribute '{name}' needs letters or digits in its name, and a description that is not empty"
                )
            if plain in seen:
                raise ConfigError(
                    f"the attributes '{seen[plain]}' and '{name}' have the same name, apart from case and punctuation;"
                    " rename one of them"
                )
            seen[plain] = name


def read_attributes(path: str | Path) -> Attributes:
    """Return the `Attributes` that a TOML file describes.

    Its keys are `intro`, `language`, `max_words` and the table `[attributes]`; what the file lacks has its default.

    Raises:
        ConfigError: the file is missing, not TOML, or has an unknown key or an invalid value.
    """
    values = read_toml(path)
    try:
        return make_config(Attributes, values, str(path))
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def render(attributes: Attributes) -> str:
    """Return the prompt that asks a model for these attributes of an image."""
    listed = "\n".join(f'- "{name}": {meaning}' for name, meaning in attributes.attributes.items())
    words = "one word" if attributes.max_words == 1 else f"at most {attributes.max_words} words"
    return (
        f"{attributes.intro.strip()}\n\n"
        f"Answer with one JSON object and nothing else. Its keys are:\n{listed}\n\n"
        f"Each value is a short text in {attributes.language} of {words}. Say only what the picture shows;"
        f' where it shows nothing of the kind, the value is "{NOTHING}".'
    )


def to_toml(attributes: Attributes) -> str:
    """Return the attributes as the text of a TOML file, which a person can edit and `read_attributes` can read."""

    def quote(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)

    lines = [f"{key} = {quote(getattr(attributes, key))}" for key in ("intro", "language")]
    lines += [f"max_words = {attributes.max_words}", "", "[attributes]"]
    lines += [f"{quote(name)} = {quote(meaning)}" for name, meaning in attributes.attributes.items()]
    return "\n".join(lines) + "\n"


def plain_name(name: str) -> str:
    """Return a name for comparisons: letters and digits in lower case, with single spaces.

    `Printed_On ` becomes `printed on`.
    """
    return " ".join("".join(c if c.isalnum() else " " for c in name.casefold()).split())
