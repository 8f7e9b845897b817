"""What the columns of a side table hold: `look` guesses each column's kind, or says why it is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from typing import cast, get_args

import numpy as np
import polars as pl

from palate.data.delimited import shown
from palate.data.encoded import Kind
from palate.data.values import as_dates, as_lists, as_numbers, as_tokens, as_vectors, as_words, stripped, what
from palate.errors import ConfigError, DataError

KINDS: tuple[Kind, ...] = get_args(Kind)
IGNORE = "ignore"
"""Declared in place of a kind: the column is left out."""
SAMPLE = 20_000
"""Rows that kinds of text are judged by."""
SEPARATORS = ("|", ";", ", ", ",")
ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
IMAGE_PATH = rf"(?i)\.(?:{'|'.join(ENDINGS)})$"
_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II*\x00", b"MM\x00*")
"""First bytes of images."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """One column of a side table.

    Attributes:
        name: Of the column.
        kind: None where it is left out.
        why: Then the reason, in words.
        declared: Whether somebody said so.
        missing: Share of the rows that hold nothing.
        examples: Some values, shortened.
    """

    name: str
    kind: Kind | None
    why: str = ""
    declared: bool = False
    missing: float = 0.0
    examples: tuple[str, ...] = ()


def look(table: pl.DataFrame, key: str, declared: Mapping[str, str]) -> list[Look]:
    """Every column but the key.

    Args:
        table: Of items or users.
        key: The column of ids.
        declared: Column -> kind, or "ignore"; goes before what is guessed.

    Raises:
        ConfigError: A declared kind does not exist.
        DataError: A declared column does not exist, or cannot be of the kind.
    """
    check_declared(table.columns, key, declared)
    found, faults = [], []
    for values in table.get_columns():
        if values.name == key:
            continue
        said = declared.get(values.name)
        why = ""
        if said is None:
            kind, why = guess(values)
        elif said == IGNORE:
            kind, why = None, "declared so"
        else:
            kind = cast(Kind, said)
            try:
                check_kind(values, kind)
            except ValueError as error:
                faults.append(f"{values.name} is declared as {kind} and holds {error}")
        known = values.drop_nulls().head(100)
        some = known.head(1) if known.dtype.is_nested() else known.unique(maintain_order=True).head(3)
        found.append(
            Look(
                name=values.name,
                kind=kind,
                why=why,
                declared=said is not None,
                missing=values.null_count() / max(len(values), 1),
                examples=tuple(map(_short, some)),
            )
        )
    if faults:
        raise DataError.faults(f"the table of {key.removesuffix('_id')}s", faults)
    return found


def infer(table: pl.DataFrame, key: str, declared: Mapping[str, str]) -> dict[str, Kind]:
    """Column -> kind of those that are used, in the order of the table; arguments and errors are those of `look`."""
    return {one.name: one.kind for one in look(table, key, declared) if one.kind is not None}


def check_declared(columns: list[str], key: str, declared: Mapping[str, str]) -> None:
    """Raise one error for kinds that do not exist, or one for columns that do not."""
    kinds = (*KINDS, IGNORE)
    wrong = [
        f"{name} = {kind!r} is not one of {', '.join(kinds)}" for name, kind in declared.items() if kind not in kinds
    ]
    if wrong:
        raise ConfigError.faults("kinds of columns", wrong)
    faults = []
    for name in declared:
        if name not in columns or name == key:
            near = get_close_matches(name, columns, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there is {', '.join(map(repr, columns[:20]))}"
            faults.append(f"no column {name!r} to be {declared[name]}{hint}")
    if faults:
        raise DataError.faults(f"the table of {key.removesuffix('_id')}s", faults)


def check_kind(values: pl.Series, kind: Kind) -> None:
    """Raise `ValueError` where a column cannot be of a kind."""
    if kind == "number":
        as_numbers(values)
    elif kind == "category":
        as_words(values)
    elif kind == "tags":
        as_lists(values, separator_of(values) or "|")
    elif kind == "date":
        as_dates(values)
    elif kind == "text":
        as_tokens(values.head(0))
    elif kind == "vector":
        as_vectors(values)
    elif values.dtype not in (pl.Binary, pl.String, pl.Null):
        raise ValueError(f"{what(values)}, neither bytes nor paths of files")


def guess(values: pl.Series) -> tuple[Kind | None, str]:
    """A column's kind, or None and why it is left out."""
    dtype, known = values.dtype, values.drop_nulls()
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        known = stripped(values).drop_nulls()
    if not len(known):
        return None, "nothing is known"
    if isinstance(dtype, (pl.List, pl.Array)):
        return _guess_lists(values)
    if dtype == pl.Binary:
        images = sum(int(known.bin.starts_with(start).sum()) for start in _STARTS)
        return ("image", "") if 2 * images >= len(known) else (None, "bytes that are no image")
    if dtype.is_nested() or dtype in (pl.Object, pl.Time, pl.Duration):
        return None, f"{str(dtype).lower()} has no kind"
    if len(values) > 1 and known.n_unique() == 1:
        return None, f"the same wherever it is known: {_short(known[0])}"
    if dtype == pl.Boolean:
        return "category", ""
    if dtype.is_temporal():
        return "date", ""
    return ("number", "") if dtype.is_numeric() else _guess_text(_sampled(known))


def _guess_lists(values: pl.Series) -> tuple[Kind | None, str]:
    inner = values.dtype.inner  # type: ignore[attr-defined]
    if inner in (pl.String, pl.Categorical, pl.Enum) or (inner.is_integer() and isinstance(values.dtype, pl.List)):
        empty = int(values.cast(pl.List(pl.String)).list.len().sum()) == 0
        return (None, "nothing is known") if empty else ("tags", "")
    if not inner.is_numeric():
        return None, f"{str(values.dtype).lower()} has no kind"
    try:
        width = as_vectors(values).shape[1]
    except ValueError as error:
        return None, str(error)
    return ("vector", "") if width else (None, "nothing is known")


def are_paths(text: pl.Series) -> bool:
    """Whether half of a column's texts or more are paths of images; the others are counted as images that are not."""
    return 2 * int(text.str.contains(IMAGE_PATH).sum()) >= len(text) - text.null_count()


def _guess_text(text: pl.Series) -> tuple[Kind | None, str]:
    """By how values look, how many words they have, and how often they come again."""
    if are_paths(text):
        return "image", ""
    if _dated(text):
        return "date", ""
    if separator_of(text):
        return "tags", ""
    words, distinct = as_tokens(text).list.len().to_numpy(), text.n_unique()
    if words.mean() <= 1.5 and distinct > 0.95 * len(text) and len(text) >= 50:
        return None, "each value is one word and another one: an id"
    if distinct <= 20 and words.max() <= 8 and distinct < len(text):
        return "category", ""
    return ("category" if words.mean() <= (4 if distinct <= 0.75 * len(text) else 1.5) else "text"), ""


def _dated(text: pl.Series) -> bool:
    if not text.head(20).str.contains(r"^(?:\d{4}[-/]\d{2}[-/]\d{2}|\d{1,2} [A-Za-z]{3} \d{4}$)").any():
        return False
    return as_dates(text).is_not_null().sum() >= 0.95 * len(text)


def separator_of(values: pl.Series) -> str:
    """What stands between the tags of a text column ("Action|Comedy"); "" where its values are no tags.

    Tags are short and come again: at most three words on average, and fewer than four fifths of them are different.
    """
    if values.dtype not in (pl.String, pl.Categorical, pl.Enum):
        return ""
    text = _sampled(stripped(values).drop_nulls())
    for separator in SEPARATORS:
        share = float(text.str.contains(separator, literal=True).mean() or 0)  # type: ignore[arg-type]
        if share < (0.3 if "," in separator else 0.02):
            continue
        tags = text.str.split(separator).explode().str.strip_chars()
        tags = tags.filter(tags != "")
        words = tags.str.split(" ").list.len().to_numpy()
        few = tags.n_unique() < 0.8 * len(tags) or (len(text) < 20 and "," not in separator)
        if len(tags) and words.mean() <= 3 and np.quantile(words, 0.95) <= 5 and few:
            return separator
    return ""


def _sampled(values: pl.Series) -> pl.Series:
    return values if len(values) <= SAMPLE else values.gather_every(len(values) // SAMPLE)


def _short(value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, pl.Series):
        value = value.head(4).to_list()
    if isinstance(value, date):
        value = str(value)
    return shown(f"{value:g}" if isinstance(value, float) else value, 30).strip("'\"")
