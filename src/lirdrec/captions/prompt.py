"""What a captioning model is asked: one short answer for each of the attributes that a catalog cares for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lirdrec.config import check_minimum, make_config, option, read_toml, validated
from lirdrec.errors import ConfigError

NOTHING = "unknown"  # what the model is to write where the picture shows nothing of the kind

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
    """The attributes asked for, and how they are asked for.

    Attributes:
        attributes: name → what to say of it; the names become keys of the answer, in this order.

    Raises:
        ConfigError: no attribute, an empty or repeated name, or `max_words` below 1.
    """

    intro: str = option(
        "You see the picture of one product from the catalogue of a shop. Describe it for people who cannot see it.",
        "the first sentences of the prompt",
    )
    language: str = option("English", "the language of the answers")
    max_words: int = option(15, "words that each attribute may take")
    attributes: Mapping[str, str] = option(DEFAULT, "name → what to say of it")

    def __post_init__(self) -> None:
        check_minimum(self, 1, "max_words")
        if not self.attributes:
            raise ConfigError('the prompt needs at least one attribute: a line such as colour = "the main colours"')
        seen: dict[str, str] = {}
        for name, meaning in self.attributes.items():
            if not (plain := plain_name(name)) or not meaning.strip():
                raise ConfigError(
                    f"the attribute '{name}' needs a name of letters or digits, and a text that says what it is"
                )
            if plain in seen:
                raise ConfigError(f"the attributes '{seen[plain]}' and '{name}' have the same name")
            seen[plain] = name


def read_attributes(path: str | Path) -> Attributes:
    """The attributes of a TOML file: `intro`, `language`, `max_words`, and a table `[attributes]`; all may be missing.

    Raises:
        ConfigError: the file is missing, not TOML, or has an unknown key or a value of the wrong type.
    """
    values = read_toml(path)
    try:
        return make_config(Attributes, values, str(path))
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def render(attributes: Attributes) -> str:
    """The prompt that goes with every picture."""
    listed = "\n".join(f'- "{name}": {meaning}' for name, meaning in attributes.attributes.items())
    words = "one word" if attributes.max_words == 1 else f"at most {attributes.max_words} words"
    return (
        f"{attributes.intro.strip()}\n\n"
        f"Answer with one JSON object and nothing else. Its keys are:\n{listed}\n\n"
        f"Each value is a short text in {attributes.language} of {words}. Say only what the picture shows;"
        f' where it shows nothing of the kind, the value is "{NOTHING}".'
    )


def to_toml(attributes: Attributes) -> str:
    """The attributes as a file that `read_attributes` takes, for people to edit."""
    import json

    lines = [f"{key} = {json.dumps(getattr(attributes, key), ensure_ascii=False)}" for key in ("intro", "language")]
    lines += [f"max_words = {attributes.max_words}", "", "[attributes]"]
    lines += [
        f"{json.dumps(name, ensure_ascii=False)} = {json.dumps(meaning, ensure_ascii=False)}"
        for name, meaning in attributes.attributes.items()
    ]
    return "\n".join(lines) + "\n"


def plain_name(name: str) -> str:
    """A name as it is compared: letters and digits in small letters, so that `Printed_On ` is `printed on`."""
    return " ".join("".join(one if one.isalnum() else " " for one in name.casefold()).split())
