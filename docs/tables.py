"""Fills the tables of the documentation from the code when the site is built, so that they are always up to date.

A line `<!-- table: MODELS -->` becomes the table of a dict, `<!-- modules: palate.data -->` the reference of a folder.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import palate

DICTS = {
    "MODELS": "palate.models",
    "METRICS": "palate.evaluation.metrics",
    "SPLITS": "palate.data.splits",
    "SOURCES": "palate.data.sources",
    "PROTOCOLS": "palate.evaluation.protocols",
    "EXPLAINERS": "palate.explanation",
}

MORE = {
    "MODELS": ["needs", "answers"],
    "METRICS": ["cut-off", "better"],
    "PROTOCOLS": ["as in", "first metrics"],
}
"""Additional columns of a table; `more` fills them."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this with the text of each page."""
    markdown = re.sub(r"<!-- table: (\w+) -->", lambda found: table(found[1]), markdown)
    return re.sub(r"<!-- modules: ([\w.]+) -->", lambda found: "\n\n".join(reference(found[1])), markdown)


def table(name: str) -> str:
    """One row for each entry of a dict of the code."""
    entries = getattr(import_module(DICTS[name]), name)
    rows = [(f"`{key}`", headline(entry), *more(name, entry)) for key, entry in entries.items()]
    heads = ["name", "what", *MORE.get(name, [])]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])


def headline(entry: Any) -> str:
    """The description of an entry, in one line."""
    attributes = (getattr(entry, name, None) for name in ("help", "what", "description"))
    said = next(filter(None, attributes), None) or inspect.getdoc(entry) or ""
    line = said.partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
    return line[:1].upper() + line[1:]


def more(name: str, entry: Any) -> list[str]:
    """The cells of the additional columns."""
    if name == "MODELS":
        return [words(entry.needs), words(entry.answers)]
    if name == "PROTOCOLS":
        return [entry.paper, ", ".join(f"`{metric}`" for metric in entry.metrics[:3])]
    return [entry.cut, entry.better or "neither"] if name == "METRICS" else []


def words(names: frozenset[str]) -> str:
    """The names of a set, in alphabetical order."""
    return ", ".join(sorted(names))


def reference(package: str) -> Iterator[str]:
    """One block of reference for each module of a folder and of the folders in it, private ones apart."""
    source = Path(palate.__file__).parent
    for path in sorted(source.joinpath(*package.split(".")[1:]).rglob("*.py")):
        if path.stem == "__init__" and not defines_public_names(path):
            continue
        parts = path.relative_to(source).with_suffix("").parts
        name = ".".join(["palate", *parts]).removesuffix(".__init__")
        if not any(part.startswith("_") for part in name.split(".")):
            yield f"::: {name}"


def defines_public_names(path: Path) -> bool:
    """Whether a file defines a public class or function, and does not only import them."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(isinstance(node, kinds) and not node.name.startswith("_") for node in body)
