"""Frozen encoders: encode texts or images once, as a column of vectors in a side table.

    table = with_vectors(films, "plot", encoder, "minilm")           # adds plot_minilm, float32 vectors
    data = Dataset.from_frame(rows, table)                           # a vector column like any other

`encoder` is a function or a `torch.nn.Module` that maps a batch to one vector per row: `encode` of
sentence-transformers, a timm or open_clip model with its preprocessing. It is not trained. The vectors are stored in
the folder `vectors` of the cache under the name of the encoder, indexed by the SHA-256 of the input; the folder can be
deleted at any time. Another encoder, or another version of it, needs another name.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from palate.data.cache import cache_folder, unwritable
from palate.errors import ConfigError, DataError, SourceError

Encoder = Callable[[Any], Any]
"""A batch (texts: a list of str; images: a uint8 tensor `[n, 3, height, width]`) -> `[n, V]`, an array or a tensor."""


def with_vectors(
    table: pl.DataFrame,
    column: str,
    encoder: Encoder,
    name: str,
    *,
    kind: Literal["text", "image"] = "text",
    into: str | None = None,
    size: tuple[int, int] = (224, 224),
    batch: int = 64,
) -> pl.DataFrame:
    """Add a column of vectors that a frozen encoder computes from another column.

    Args:
        table: Items or users.
        column: Texts; or images, as bytes or file paths. Null, empty and unreadable values get no vector.
        encoder: Maps a batch to vectors; a `torch.nn.Module` runs in eval mode and without gradients.
        name: Name and version of the encoder: letters, digits, `.`, `_`, `-`. Vectors are cached under it.
        kind: What the column holds.
        into: Name of the new column. Defaults to `{column}_{name}`.
        size: Height and width to which images are resized.
        batch: Rows in one batch.

    Returns:
        The table with one more column, `Array(Float32, V)`; null where there is nothing to encode.

    Raises:
        DataError: There is no such column, it holds nothing to encode, or the encoder does not return one finite vector
            of the same width for each row.
        ConfigError: The name cannot be the name of a file.
        SourceError: The cache cannot be written.
    """
    if column not in table.columns:
        raise DataError(f"there is no column {column!r}; columns found: {', '.join(table.columns)}")
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise ConfigError(f"name = {name!r}: the name of an encoder consists of letters, digits, '.', '_' and '-'")
    full = name if kind == "text" else f"{name}-{size[0]}x{size[1]}"
    keys, read = _texts(table[column]) if kind == "text" else _images(table[column], (3, *size))
    store = cache_folder() / "vectors" / f"{full}.safetensors"
    known = _load(store)
    missing = {key: row for row, key in enumerate(keys) if key and key not in known}
    if missing:
        rows = list(missing.values())
        found = [_encode(encoder, read(rows[at : at + batch]), name) for at in range(0, len(rows), batch)]
        known |= dict(zip(missing, _joined([*found, *list(known.values())[:1]], name), strict=False))
        _save(store, known)
    if not any(keys):
        raise DataError(f"column {column!r} holds nothing to encode")
    width = len(next(known[key] for key in keys if key))
    vectors = [known[key].tolist() if key else None for key in keys]
    return table.with_columns(pl.Series(into or f"{column}_{name}", vectors, dtype=pl.Array(pl.Float32, width)))


def _texts(values: pl.Series) -> tuple[list[bytes], Callable[[Sequence[int]], list[str]]]:
    """A key for each text, empty if there is nothing to encode; and a function that reads some rows."""
    if values.dtype not in (pl.String, pl.Categorical, pl.Enum):
        raise DataError(f"{values.name} holds {values.dtype}, not text")
    texts = [(text or "").strip() for text in values.cast(pl.String)]
    keys = [hashlib.sha256(text.encode()).digest() if text else b"" for text in texts]
    return keys, lambda rows: [texts[row] for row in rows]


def _images(values: pl.Series, size: tuple[int, ...]) -> tuple[list[bytes], Callable[[Sequence[int]], torch.Tensor]]:
    from palate.data.features.images import read_images

    try:
        images, _ = read_images(values, size)
    except ValueError as error:
        raise DataError(f"{values.name} holds {error}") from None
    place = images.row.tolist()
    keys = [hashlib.sha256(images.pixels[at].tobytes()).digest() if at >= 0 else b"" for at in place]
    return keys, lambda rows: torch.from_numpy(images.pixels[[place[row] for row in rows]])


def _encode(encoder: Encoder, inputs: Any, name: str) -> np.ndarray:
    """The vectors of a batch, float32 `[n, V]`."""
    module = encoder if isinstance(encoder, torch.nn.Module) else None
    training = module is not None and module.training
    if module is not None:
        module.eval()
    try:
        with torch.no_grad():
            out = encoder(inputs)
    finally:
        if module is not None:
            module.train(training)
    out = out.cpu().numpy() if isinstance(out, torch.Tensor) else out
    try:
        vectors = np.asarray(out, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"the encoder {name} does not return an array of numbers: {error}") from None
    if vectors.ndim != 2 or len(vectors) != len(inputs) or not vectors.shape[1]:
        raise DataError(
            f"the encoder {name} returns shape {vectors.shape} for {len(inputs)} rows; expected one vector per row"
        )
    if not np.isfinite(vectors).all():
        raise DataError(f"the encoder {name} returns values that are not finite")
    return vectors


def _joined(parts: list[np.ndarray], name: str) -> np.ndarray:
    parts = [np.atleast_2d(part) for part in parts]
    widths = sorted({part.shape[1] for part in parts})
    if len(widths) > 1:
        raise DataError(
            f"the encoder {name} returns vectors of width {' and '.join(map(str, widths))}, including cached ones; "
            "give another encoder another name"
        )
    return np.concatenate(parts)


def _load(store: Path) -> dict[bytes, np.ndarray]:
    """The cached vectors; none if the file is missing or damaged (it is then written again)."""
    try:
        kept = load_file(store)
        return {key.tobytes(): vector for key, vector in zip(kept["key"], kept["vector"], strict=True)}
    except (OSError, SafetensorError, KeyError, ValueError):
        return {}


def _save(store: Path, known: dict[bytes, np.ndarray]) -> None:
    keys = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(len(known), -1)
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        handle, new = tempfile.mkstemp(dir=store.parent, suffix=".part")
        os.close(handle)
        try:
            save_file({"key": keys.copy(), "vector": np.stack(list(known.values()))}, new)
            os.replace(new, store)
        except BaseException:
            Path(new).unlink(missing_ok=True)
            raise
    except (OSError, SafetensorError) as error:
        raise SourceError(unwritable(store.parent, error)) from error
