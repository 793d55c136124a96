"""Hooks of mkdocs.yml: pages from files outside `docs/`, from the notebook, and one reference page per package."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "lirdrec"
# source below the repository -> page or image of the site
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "benchmarks/serving/README.md": "benchmarks/serving/README.md",
}
LINK = re.compile(r"(!?)\[((?:[^][]|\[[^]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages and the images that pages take from outside `docs/`."""
    texts = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in OUTSIDE.items()}
    texts["quickstart.md"] = _notebook(ROOT / "docs" / "quickstart.ipynb")
    texts |= {f"reference/{name}.md": _reference(name) for name in ["lirdrec", *_packages()]}
    for page, text in texts.items():
        files.append(File.generated(config, page, content=text))
    for image in sorted((ROOT / "benchmarks").rglob("*.svg")):
        files.append(File.generated(config, image.relative_to(ROOT).as_posix(), abs_src_path=str(image)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links between the repository's files to pages of the site; links to other files become plain text."""
    site = page.file.src_uri
    source = {page: source for source, page in OUTSIDE.items()}.get(site, f"docs/{site}")
    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(lambda match: _link(match, source, site, files), text) for text in parts[::2]]
    return "".join(parts)


def _link(match: re.Match[str], source: str, site: str, files: Files) -> str:
    image, text, target = match.groups()
    path, _, anchor = target.partition("#")
    if "://" in target or not path:
        return match.group()
    inside = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    page = OUTSIDE.get(inside, inside.removeprefix("docs/"))
    if page.endswith(".ipynb"):
        page = page.removesuffix(".ipynb") + ".md"
    if files.get_file_from_path(page) is None:
        if not (ROOT / inside).exists():
            return match.group()  # mkdocs reports the broken link
        return f"{text} (`{inside}`)"
    relative = posixpath.relpath(page, posixpath.dirname(site) or ".")
    return f"{image}[{text}]({relative}{'#' + anchor if anchor else ''})"


def _packages() -> list[str]:
    return sorted(
        folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file() and folder.name != "cli"
    )


def _reference(name: str) -> str:
    """The objects of a package's public modules."""
    if name == "lirdrec":
        pairs = re.findall(
            r'^    "(\w+)": "(lirdrec[\w.]*)",$', (PACKAGE / "__init__.py").read_text("utf-8"), re.MULTILINE
        )
        objects = "".join(f"\n- [`lirdrec.{name}`][{module}.{name}]" for name, module in pairs)
        return f"# lirdrec\n\nThe public names: `import lirdrec`.\n{objects}\n"
    lines = [f"# lirdrec.{name}", ""]
    for path in sorted((PACKAGE / name).rglob("*.py")):
        module = path.relative_to(PACKAGE).with_suffix("").parts
        if module[-1] != "__init__":
            lines += [f"::: lirdrec.{'.'.join(module)}", ""]
    return "\n".join(lines)


def _notebook(path: Path) -> str:
    """A notebook as Markdown: texts, code and outputs."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            text = "".join(output.get("text", data.get("text/plain", [])))
            if "image/png" in data:
                parts.append(f"![Output](data:image/png;base64,{''.join(data['image/png']).replace(chr(10), '')})")
            elif text.strip():
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"
