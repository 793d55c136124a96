"""Find the license of a shared folder, from its metadata or from the user, and its identifier on the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lirdrec.config import suggest_name
from lirdrec.errors import ConfigError

OTHER = "other"
NAME_LENGTH = 60

# license identifiers of the hub for data, models and code
_KNOWN = """
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear
    bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m ecl-2.0 epl-1.0 epl-2.0 etalab-2.0
    eupl-1.1 eupl-1.2 gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by
    ofl-1.1 openrail osl-3.0 other pddl postgresql unlicense wtfpl zlib
"""
KNOWN = frozenset(_KNOWN.split())


@dataclass(frozen=True)
class License:
    """A license, as the card of a repository (its README.md) names it.

    Attributes:
        identifier: the hub's identifier of the license; "other" if it has none.
        text: the license as the metadata or the user gave it.
    """

    identifier: str
    text: str

    def header(self) -> dict[str, str]:
        """Return the entries about the license for the YAML header of a card: name → value."""
        if self.identifier != OTHER or self.text == OTHER:
            return {"license": self.identifier}
        first = re.split(r"[,;:.]\s", self.text, maxsplit=1)[0]
        name = re.sub(r"[^a-z0-9]+", "-", first.lower())[:NAME_LENGTH].strip("-")
        entries = {"license": OTHER, "license_name": name or OTHER}
        link = re.search(r"https?://[^\s)>\"']+", self.text)
        return entries | ({"license_link": link[0]} if link else {})


UNKNOWN = License(OTHER, OTHER)


def find_license(named: str | None, info: Mapping[str, Any], folder: str) -> License:
    """Return the license of a shared folder: the license of its data, or else the one that the user gave.

    Args:
        named: license given by the user: an identifier such as "mit", a sentence, or None.
        info: metadata of the dataset or the run; its "licence" (or "license") is the license of the data.
        folder: name of the folder in messages.

    Raises:
        ConfigError: no license is given or recorded, the name is unknown, or the two contradict each other.
    """
    text = str(info.get("licence") or info.get("license") or "")
    given = None if named is None else _parse_license(named.strip())
    if not text:
        if given is None:
            raise ConfigError(
                f"{folder}: its license is unknown; give a license that its data allow, for instance "
                'license="cc-by-4.0" (--license cc-by-4.0), or "other" and write the terms into the repository'
            )
        return given
    recorded = License(text if text in KNOWN else OTHER, text)
    if given in (None, recorded, UNKNOWN):
        return recorded
    raise ConfigError(
        f"{folder}: its data are under {_short(recorded.text)!r}, so it cannot be shared as {_short(given.text)!r}; "
        "do not give a license; the card then names the license of the data"
    )


def _parse_license(named: str) -> License:
    if (identifier := named.lower()) in KNOWN:
        return License(identifier, identifier)
    if " " not in named:
        hint = suggest_name(identifier, KNOWN, "a custom license is a sentence in quotes, or 'other'")
        raise ConfigError(f"license {named!r} is not known; {hint}")
    return License(OTHER, named)


def _short(text: str) -> str:
    return text if len(text) <= NAME_LENGTH else text[: NAME_LENGTH - 1] + "…"
