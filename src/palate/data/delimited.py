"""How a text table is laid out, judged by its first lines: separator, header, names, kinds."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass

from palate.errors import ConfigError, DataError

SEPARATORS = (",", "\t", ";", "|", "::")
"""Those that are guessed; any other can be given."""

WHOLE = r"(?:0|-?[1-9]\d*)"
"""A whole number in the one way palate itself would write it; "007" is a code, not a number."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_TIME = re.compile(r"\d{4}[-/]\d{2}[-/]\d{2}([T ].*)?")
_LINES = 200


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the rows of a text table start and how they split."""

    separator: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    has_header: bool
    skip: int
    """Lines before the first row."""


def layout(
    head: bytes, label: str, separator: str | None, has_header: bool | None, encoding: str, known: frozenset[str]
) -> Layout:
    """Judge a table by its first bytes.

    Args:
        head: The first 64 KB.
        label: What messages call the file.
        separator, has_header: Given by the user, or None to guess.
        encoding: Of the bytes.
        known: Names, as written or `folded`, that make the first line a header where it holds one.

    Raises:
        DataError: There is no line, or the separator given leaves one column where another would split it.
    """
    text = head.decode(encoding, errors="replace").removeprefix("\ufeff")
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if len(lines) > 2:
        lines.pop()  # may be cut in the middle
    start = next((k for k, line in enumerate(lines) if line.strip()), None)
    if start is None:
        raise DataError(f"{label} is empty; a table with at least one row was expected")
    sample = [line for line in lines[start : start + _LINES] if line.strip()]
    chosen = _separator(sample, separator, label)
    rows = [split(line, chosen) for line in sample]
    first, rest = [name.strip() for name in rows[0]], rows[1:]
    header = _is_header(first, rest, known) if has_header is None else has_header
    columns = list(zip(*[row for row in (rest if header else rows) if len(row) == len(first)], strict=True))
    return Layout(
        separator=chosen,
        names=tuple(first) if header else tuple(map(str, range(len(first)))),
        kinds=tuple(kind(column) for column in columns) or ("?",) * len(first),
        has_header=header,
        skip=start + header,
    )


def split(line: str, separator: str) -> list[str]:
    """The fields of one line."""
    if len(separator) > 1:
        return line.split(separator)
    try:
        return next(csv.reader([line], delimiter=separator))
    except csv.Error:
        return line.split(separator)


def kind(values: Sequence[str]) -> str:
    """What a column's values look like, in words."""
    filled = [value.strip() for value in values if value.strip()]
    for pattern, name in ((re.compile(WHOLE), "whole numbers"), (_NUMBER, "numbers"), (_TIME, "times")):
        if filled and all(pattern.fullmatch(value) for value in filled):
            return name
    return "text" if filled else "empty"


def plain(name: str) -> str:
    """A column's name without the type RecBole writes behind it ("user_id:token")."""
    return re.sub(r":(token|float)(_seq)?$", "", name)


def folded(name: str) -> str:
    """A column's name in lower case, without anything between its words: "userId" and "User ID" are one."""
    return re.sub(r"[^a-z0-9]", "", plain(name).lower())


def shown(value: object, width: int = 60) -> str:
    """A value for a message: quoted, cut when long."""
    text = repr(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def _separator(sample: list[str], given: str | None, label: str) -> str:
    if given is not None and (not given or not given.isascii() or "\n" in given):
        raise ConfigError(
            f"separator {given!r} is not usable; give one or more ASCII characters, for example ',' or '::'"
        )
    counts = {sep: [len(split(line, sep)) for line in sample] for sep in SEPARATORS}
    # The share of lines that split like the first one decides, then the number of columns.
    scores = {sep: (n.count(n[0]) / len(n), n[0]) for sep, n in counts.items() if n[0] > 1}
    best = max(scores, key=lambda sep: scores[sep], default=None)
    if given is None:
        return best or ","
    if len(split(sample[0], given)) == 1 and best is not None:
        others = ", ".join(f"{sep!r} ({n} columns)" for sep, (_, n) in sorted(scores.items(), key=lambda s: -s[1][0]))
        raise DataError(
            f"{label} has one column with separator {given!r}: {shown(sample[0])}; these would split it: {others} "
            "(or leave the separator out to have it guessed)"
        )
    return given


def _is_header(first: list[str], rest: list[list[str]], known: frozenset[str]) -> bool:
    if known & {*first, *map(folded, first)}:
        return True
    if any(_NUMBER.fullmatch(name) or _TIME.fullmatch(name) for name in first):
        return False
    return bool(rest) or len(first) > 1
