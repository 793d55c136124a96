"""Refuse idioms that a reader whose first language is not English stumbles over.

    python .ci/check_words.py [FILE ...]

Without files: those of the folders and pages in CHECKED. The words of names such as `is_told` count too. Prints
FILE:LINE, the idiom and what to write instead; the exit status is 1 if there is any.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECKED = ("src", "docs", "examples", "tests", "benchmarks", "sample", "README.md", "CHANGELOG.md", "CONTRIBUTING.md")
ENDINGS = (".py", ".md", ".js", ".html", ".ipynb", ".j2")
INSTEAD = {
    r"told": "given, described, reported, detected",
    r"anew": "again",
    r"mend(s|ed|ing)?": "fix, correct",
    r"(goes|going|went|go) on (with|where|from|as)": "resume, continue",
    r"strangers?": "unknown users, others",
    r"by lot": "at random",
    r"begun": "started",
    r"in truth(?![.\[])": "actually",
    r"of (our|its|one's) own accord": "by itself",
    r"nobody's business": "private",
    r"dear": "important",
    r"(hearken|hark|whither|whence|thither|thus far|heed(s|ed)?|lest|ere)": "a plain word",
    r"tells? apart": "distinguish",
    r"comes? of": "results from",
    r"for want of": "without",
    r"in the way": "exists already",
    r"speaks? for (it|them)sel(f|ves)": "is clear",
    r"neighbou?rhood watch": "neighbors",
    r"pictures?": "image",
    r"colour(s|ed|ing)?|neighbour(s|ing)?|licence(s)?|normalis(e|es|ed|ing)|initialis(e|es|ed|ing|ation)|optimis(e|es|ed"
    r"|ing)|vectoris(e|es|ed|ing)|recognis(e|es|ed|ing)|catalogue(s)?|behaviour|favour|grey|labell(ed|ing)|minimis(e|es|ed"
    r"|ing)|summaris(e|es|ed|ing)|serialis(e|es|ed|ing)|analys(e|es|ed|ing)(?!\w)": "the American spelling",
}
# keys on disk and texts that are sent to a model keep their first spelling
KEPT = re.compile(
    r"""["'](licence|normalise|colours?|COLOUR|neighbour)["']|neighbours|n_neighbours|such as colour|main colours"""
    r"""|catalogue of a shop|[Cc]olour:|category colour|research.licence"""
    r"""|the picture of an item \| picture|You see the picture|only what the picture|sa.Column\("picture\""""
)
PATTERN = re.compile("|".join(rf"(?P<w{number}>\b(?:{word})\b)" for number, word in enumerate(INSTEAD)), re.IGNORECASE)


def main(files: list[str]) -> int:
    """Print each idiom with its place."""
    if not files:
        listed = subprocess.run(["git", "ls-files", *CHECKED], cwd=ROOT, capture_output=True, text=True, check=True)
        files = [file for file in listed.stdout.splitlines() if file.endswith(ENDINGS)]
    count = 0
    for file in files:
        if not (ROOT / file).is_file():
            continue
        for number, line in enumerate((ROOT / file).read_text(encoding="utf-8").splitlines(), 1):
            for match in PATTERN.finditer(KEPT.sub("", line).replace("_", " ")):
                count += 1
                group = int(str(match.lastgroup)[1:]) if str(match.lastgroup).startswith("w") else 0
                print(f"{file}:{number}: '{match[0]}': write {list(INSTEAD.values())[group]}")
    print(f"{count} idioms in {len(files)} files")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
