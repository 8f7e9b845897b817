"""Encode side tables as tensors: `infer` the kinds of columns, `learn` a schema from train, `encode` any such table.

The schema holds mean and standard deviation of numbers, the known categories and tags, and the vocabulary of texts. A
value that does not occur in training is encoded as unknown (tags and words as 0); a missing column is unknown in all
rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl
import torch
from torch import Tensor

from palate.data.features.infer import Kind, check_kind, infer, separator_of
from palate.data.features.schema import Column, FeatureBatch, FeatureSchema, nothing_known
from palate.data.features.values import (
    as_dates,
    as_lists,
    as_numbers,
    as_tokens,
    as_vectors,
    as_words,
)
from palate.data.ragged import Ragged
from palate.errors import DataError

__all__ = ["encode", "infer", "learn"]

IMAGE_SIZE = (3, 144, 96)
"""Channels, height and width to which images are resized."""
MAX_CATEGORIES = 100_000
"""Size of the vocabulary of categories or tags; the most frequent ones are kept."""
MAX_WORDS = 50_000
"""Size of the vocabulary of words; those that occur in most rows are kept."""
MAX_TOKENS = 512
"""Tokens of a text that are kept."""
MAX_DEVIATIONS = 100.0
"""Numbers are clipped to this many standard deviations from the mean."""
MAX_LENGTH_RATIO = 1e6
"""Vectors longer than this times the median length of the training vectors count as unknown."""
MAX_VECTOR_LENGTH = 1e15
"""Vectors longer than this count as unknown whatever training held: their squares would overflow float32."""


def learn(table: pl.DataFrame, kinds: Mapping[str, Kind]) -> FeatureSchema:
    """Learn how to encode columns from the rows of training.

    Args:
        table: One row for each item or user of the training data.
        kinds: Column -> kind, from `infer`.

    Raises:
        DataError: Lists all columns that are missing or do not hold values of their kind.
    """
    columns, faults = [], []
    for name, kind in kinds.items():
        if name not in table.columns:
            faults.append(f"{name}: there is no such column; columns found: {', '.join(table.columns[:20])}")
            continue
        try:
            check_kind(table[name], kind)
            columns.append(_learn(_known(table[name]), Column(name=name, kind=kind)))
        except ValueError as error:
            faults.append(f"{name} is declared as {kind} and holds {error}")
    if faults:
        raise DataError.faults("the table of features", faults)
    return FeatureSchema(columns=tuple(columns))


def encode(table: pl.DataFrame, features: FeatureSchema) -> FeatureBatch:
    """Encode the rows of a table as tensors.

    Args:
        table: A table with the columns of `features`; other columns are ignored.
        features: Schema from `learn`.

    Returns:
        One row for each row of the table. `notes` counts missing columns, values that do not occur in training, and
        images that cannot be used.

    Raises:
        DataError: Lists all columns whose type does not fit the learned kind.
    """
    out, faults, notes = nothing_known(features, table.height), [], []
    parts: dict[str, list[Tensor]] = {"numbers": [], "known": [], "categories": []}
    names = next((table[key] for key in ("item_id", "user_id") if key in table.columns), None)
    for column in features.columns:
        if column.name not in table.columns:
            notes.append(f"{column.name}: there is no such column; it is unknown in all {table.height:,} rows")
        values = _known(table[column.name]) if column.name in table.columns else _nulls(column.name, table.height)
        try:
            notes += _encode(values, column, out, parts, names)
        except ValueError as error:
            faults.append(f"{column.name} was learned as {column.kind} and now holds {error}")
    if faults:
        raise DataError.faults("the table of features", faults)
    numbers, known, categories = (torch.cat(some, 1) if some else getattr(out, name) for name, some in parts.items())
    return replace(out, numbers=numbers, known=known, categories=categories, notes=tuple(notes))


def _learn(values: pl.Series, column: Column) -> Column:
    kind = column.kind
    if kind in ("number", "date"):
        parts = _parts(values, column)
        known = parts[~np.isnan(parts).any(1)]
        mean = known.mean(0) if len(known) else np.zeros(parts.shape[1])
        std = known.std(0) if len(known) else np.ones(parts.shape[1])
        std = np.where(std > 1e-9 * np.maximum(np.abs(mean), 1e-9), std, 1.0)
        return replace(column, mean=tuple(map(float, mean)), std=tuple(map(float, std)))
    if kind == "category":
        return replace(column, values=tuple(_frequent(as_words(values), 1, MAX_CATEGORIES)["value"]))
    if kind == "tags":
        separator = (separator_of(values) or "|") if not values.dtype.is_nested() else ""
        column = replace(column, separator=separator)
        return _with_values(column, as_lists(values, separator), 1, MAX_CATEGORIES)
    if kind == "text":
        tokens = as_tokens(values, MAX_TOKENS)
        longest = int(tokens.list.len().max() or 0)  # type: ignore[arg-type]
        least = 1 if len(values) < 100 else 2
        return _with_values(replace(column, length=max(longest, 1)), tokens, least, MAX_WORDS)
    if kind == "image":
        return replace(column, size=IMAGE_SIZE)
    vectors = as_vectors(values)
    lengths = _lengths(vectors)
    some = lengths[lengths > 0]
    return replace(column, size=(max(vectors.shape[1], 1),), std=(float(np.median(some)) if len(some) else 1.0,))


def _with_values(column: Column, lists: pl.Series, least: int, most: int) -> Column:
    """With the values that occur in at least `least` rows and their idf ln((1 + N) / (1 + n)) + 1 (n of N rows)."""
    rows = int((lists.list.len().fill_null(0) > 0).sum())
    found = _frequent(lists.list.unique().explode(), least, most)
    idf = np.log((1 + rows) / (1 + found["count"].to_numpy())) + 1
    return replace(column, values=tuple(found["value"]), idf=tuple(map(float, idf)))


def _frequent(values: pl.Series, least: int, most: int) -> pl.DataFrame:
    """`value` and `count`, the most frequent first, then in alphabetical order."""
    counts = values.drop_nulls().alias("value").to_frame().group_by("value").len("count")
    return counts.filter(pl.col("count") >= least).sort("count", "value", descending=[True, False]).head(most)


def _encode(
    values: pl.Series, column: Column, out: FeatureBatch, parts: dict[str, list[Tensor]], names: pl.Series | None
) -> list[str]:
    """Write a column's rows into `out` or, for kinds whose columns are concatenated, into `parts`; returns notes."""
    kind, name, notes = column.kind, column.name, []
    if kind in ("number", "date"):
        raw = _parts(values, column)
        known = ~np.isnan(raw)
        scaled = np.clip((np.nan_to_num(raw) - column.mean) / column.std, -MAX_DEVIATIONS, MAX_DEVIATIONS) * known
        parts["numbers"].append(torch.from_numpy(scaled.astype(np.float32)))
        parts["known"].append(torch.from_numpy(known))
        notes += _count(name, int((~known[:, 0]).sum()) - values.null_count(), f"values cannot be used as {kind}")
    elif kind == "category":
        words = as_words(values)
        index = _index(words, column.values)
        parts["categories"].append(torch.from_numpy(index)[:, None])
        new = int(((index == 0) & words.is_not_null().to_numpy()).sum())
        notes += _count(name, new, "values do not occur in training and count as unknown")
    elif kind == "tags":
        ragged = _ragged(as_lists(values, column.separator), column.values)
        row, tag = ragged.row_of_value, ragged.values
        pair = torch.unique(row * (len(column.values) + 1) + tag)  # distinct and ascending
        row, tag = pair // (len(column.values) + 1), pair % (len(column.values) + 1)
        out.tags[name] = Ragged.from_lengths(tag, torch.bincount(row, minlength=len(values)))
        notes += _count(name, int((tag == 0).sum()), "rows hold tags that do not occur in training")
    elif kind == "text":
        tokens = as_tokens(values, column.length)
        out.text[name] = _ragged(tokens, column.values)
        notes += _count(
            name,
            _longer(values, tokens, column.length),
            f"texts are longer than {column.length} words; the rest is ignored",
        )
    elif kind == "vector":
        vectors = as_vectors(values, column.size[0])
        unusable = np.isnan(vectors).any(1) & _has_items(values)
        notes += _count(name, int(unusable.sum()), "vectors hold missing or infinite values and count as unknown")
        # A sentinel such as 3.4e38 would overflow in every model that reads it, and spoil the scores of all items.
        limit = min(MAX_VECTOR_LENGTH, MAX_LENGTH_RATIO * column.std[0]) if column.std else MAX_VECTOR_LENGTH
        extreme = _lengths(vectors) > limit
        vectors[extreme] = np.nan
        out.vectors[name] = torch.from_numpy(vectors)
        reason = f"vectors are longer than {limit:.3g}, which is far beyond those of training, and count as unknown"
        notes += _count(name, int(extreme.sum()), reason)
    else:
        from palate.data.features.images import read_images

        out.images[name], notes = read_images(values, column.size, names)
    return notes


def _lengths(vectors: np.ndarray) -> np.ndarray:
    """The Euclidean length of each row, float64 `[N]`; NaN where a vector is unknown."""
    lengths: np.ndarray = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return lengths


def _has_items(values: pl.Series) -> np.ndarray:
    """Which rows of a column of lists or arrays hold a list that is not empty, bool `[N]`."""
    if values.dtype == pl.Null:
        return np.zeros(len(values), dtype=bool)
    lengths: np.ndarray = values.cast(pl.List(pl.Float32)).list.len().fill_null(0).to_numpy()
    return lengths > 0


def _longer(values: pl.Series, tokens: pl.Series, length: int) -> int:
    full = tokens.list.len() == length
    if values.dtype.is_nested() or not full.any():
        return 0
    return int((as_tokens(values.filter(full), length + 1).list.len() > length).sum())


def _parts(values: pl.Series, column: Column) -> np.ndarray:
    """The numbers of a column, float64 `[N, parts]`, NaN where unknown."""
    if column.kind == "number":
        return as_numbers(values).to_numpy().astype(np.float64)[:, None]
    days = as_dates(values)
    month, weekday = (
        2 * np.pi * part.cast(pl.Float64).to_numpy() / n for part, n in ((days.dt.month(), 12), (days.dt.weekday(), 7))
    )
    year = days.dt.year().cast(pl.Float64).to_numpy()
    return np.stack([year, np.sin(month), np.cos(month), np.sin(weekday), np.cos(weekday)], 1)


def _index(values: pl.Series, known: tuple[str, ...]) -> np.ndarray:
    """Positions of values among the known ones, int64 from 1; 0 for others."""
    places = pl.DataFrame({"value": pl.Series(known, dtype=pl.String), "index": np.arange(1, len(known) + 1)})
    found = values.alias("value").to_frame().join(places, on="value", how="left", maintain_order="left")
    return found["index"].fill_null(0).to_numpy(writable=True)


def _ragged(lists: pl.Series, known: tuple[str, ...]) -> Ragged:
    lengths = lists.list.len().fill_null(0).cast(pl.Int64).to_numpy(writable=True)
    flat = lists.filter(pl.Series(lengths > 0, dtype=pl.Boolean)).explode()
    return Ragged.from_lengths(torch.from_numpy(_index(flat, known)), torch.from_numpy(lengths))


def _known(values: pl.Series) -> pl.Series:
    """The column; of type Null if it holds no value, so that it fits any kind."""
    return values if values.null_count() < len(values) else _nulls(values.name, len(values))


def _nulls(name: str, rows: int) -> pl.Series:
    return (
        pl.Series(name, [None], dtype=pl.Null).new_from_index(0, rows) if rows else pl.Series(name, [], dtype=pl.Null)
    )


def _count(name: str, count: int, reason: str) -> list[str]:
    return [f"{name}: {count:,} {reason}"] if count > 0 else []
