"""Decode images to small uint8 arrays, once each: a growing file of pixels in the cache, indexed by content.

The folder `images-3x144x96` of the cache holds `pixels.u8`, the images one after another, and `index.sqlite`, SHA-256
of an image's bytes -> its position. Several processes and threads can use it; it can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import sqlite3
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from palate.data.cache import cache_folder, unwritable
from palate.data.features.schema import Images
from palate.errors import SourceError
from palate.extras import missing_extra

IMAGES_PER_CHUNK = 512
"""Images in memory at once."""
DECODER_THREADS = 2
MAX_PIXELS = 50_000_000
"""Larger images are not decoded."""
MAX_FILE_BYTES = 1 << 28
"""Larger files are not read."""
MAX_EXAMPLES = 5
"""Images named in a note."""


def read_images(values: pl.Series, size: tuple[int, ...], names: pl.Series | None = None) -> tuple[Images, list[str]]:
    """Read a column of images; those that are not in the cache are decoded.

    An image is resized to `size` without keeping its aspect ratio. Every mode becomes RGB, transparent pixels become
    white, EXIF is ignored. Images that cannot be decoded are skipped.

    Args:
        values: Bytes, or paths of regular files; null for no image.
        size: Channels (3), height, width.
        names: Names of the rows in notes. Default to their numbers from 1.

    Returns:
        The images, and notes that count the unusable ones and say why.

    Raises:
        ValueError: The column holds neither bytes nor paths.
        MissingExtra: Pillow is not installed.
        SourceError: The cache cannot be written.
    """
    if values.dtype not in (pl.Binary, pl.String, pl.Null):
        raise ValueError(f"{str(values.dtype).lower()}, neither bytes nor file paths")
    row = torch.full((len(values),), -1, dtype=torch.int64)
    there = values.is_not_null().arg_true()
    if not len(there):
        return Images(np.empty((0, *size), dtype=np.uint8), row), []
    _pillow()
    faults: dict[int, str] = {}
    try:
        with _Store(size) as store:
            for start in range(0, len(there), IMAGES_PER_CHUNK):
                rows = there[start : start + IMAGES_PER_CHUNK].to_list()
                places, bad = store.places([_read_bytes(value) for value in values[rows]])
                row[rows] = torch.tensor(places)
                faults |= {rows[k]: reason for k, reason in bad.items()}
            pixels = store.pixels()
    except (OSError, sqlite3.Error) as error:
        raise SourceError(unwritable(cache_folder(), error)) from error
    return Images(pixels, row), _note_faults(values.name, faults, len(there), names)


def _note_faults(column: str, faults: dict[int, str], total: int, names: pl.Series | None) -> list[str]:
    if not faults:
        return []
    listed = [
        f"{'row ' + str(k + 1) if names is None else names[k]}: {faults[k]}" for k in sorted(faults)[:MAX_EXAMPLES]
    ]
    more = f" and {len(faults) - MAX_EXAMPLES} more" if len(faults) > MAX_EXAMPLES else ""
    return [f"{column}: {len(faults):,} of {total:,} images cannot be used ({'; '.join(listed)}{more})"]


def _read_bytes(value: bytes | str) -> bytes | str:
    """The bytes of an image, or as text the reason why its file cannot be read."""
    if isinstance(value, bytes):
        return value
    try:
        path = Path(value).expanduser()
        if path.exists() and not path.is_file():
            return f"{value} is not a regular file"
        if path.stat().st_size > MAX_FILE_BYTES:
            return f"{value} is larger than {MAX_FILE_BYTES >> 20} MiB"
        return path.read_bytes()
    except (OSError, ValueError) as error:
        return f"{value} cannot be read ({getattr(error, 'strerror', None) or error})"


class _Store:
    """The cache folder of one image size."""

    def __init__(self, size: tuple[int, ...]) -> None:
        self.size, self.bytes = size, int(np.prod(size))
        folder = cache_folder() / f"images-{'x'.join(map(str, size))}"
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "pixels.u8"
        self.file.touch()
        self.index = sqlite3.connect(folder / "index.sqlite", timeout=300, isolation_level=None)

    def __enter__(self) -> _Store:
        self.index.execute("CREATE TABLE IF NOT EXISTS images (hash BLOB PRIMARY KEY, place INTEGER NOT NULL)")
        if self.file.stat().st_size < self._count() * self.bytes:  # the pixels were deleted or truncated
            self.index.execute("DELETE FROM images")
        return self

    def __exit__(self, *error: object) -> None:
        self.index.close()

    def places(self, blobs: Sequence[bytes | str]) -> tuple[list[int], dict[int, str]]:
        """Position of each image in the file, -1 if it cannot be used; and the reasons, by position in `blobs`."""
        faults = {k: blob for k, blob in enumerate(blobs) if isinstance(blob, str)}
        hashes = [b"" if isinstance(blob, str) else hashlib.sha256(blob).digest() for blob in blobs]
        known = self._known(hashes)
        missing = {h: k for k, h in enumerate(hashes) if h and h not in known}
        decoded = _decode_all([blobs[k] for k in missing.values()], self.size)
        reasons = {h: d for h, d in zip(missing, decoded, strict=True) if isinstance(d, str)}
        self._add({h: d for h, d in zip(missing, decoded, strict=True) if not isinstance(d, str)})
        known = self._known(hashes)
        faults |= {k: reasons[h] for k, h in enumerate(hashes) if h in reasons}
        return [known.get(h, -1) for h in hashes], faults

    def pixels(self) -> np.ndarray:
        """All images of the file, a read-only memory map."""
        count = self._count()
        if not count:
            return np.empty((0, *self.size), dtype=np.uint8)
        return np.memmap(self.file, dtype=np.uint8, mode="r", shape=(count, *self.size))

    def _count(self) -> int:
        return int(self.index.execute("SELECT COALESCE(MAX(place) + 1, 0) FROM images").fetchone()[0])

    def _known(self, hashes: Sequence[bytes]) -> dict[bytes, int]:
        marks = ",".join("?" * len(hashes))
        return dict(self.index.execute(f"SELECT hash, place FROM images WHERE hash IN ({marks})", list(hashes)))

    def _add(self, found: dict[bytes, np.ndarray]) -> None:
        """Append images. The transaction is the lock; what a killed process leaves in the file is overwritten."""
        if not found:
            return
        self.index.execute("BEGIN IMMEDIATE")
        try:
            known, count = self._known(list(found)), self._count()
            new = {h: pixels for h, pixels in found.items() if h not in known}
            with self.file.open("r+b") as file:
                file.seek(count * self.bytes)
                for pixels in new.values():
                    file.write(pixels.tobytes())
            self.index.executemany(
                "INSERT INTO images VALUES (?, ?)", zip(new, range(count, count + len(new)), strict=True)
            )
            self.index.execute("COMMIT")
        except BaseException:
            self.index.execute("ROLLBACK")
            raise


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise missing_extra("images need Pillow", "images") from error
    return Image


def _decode_all(blobs: Sequence[Any], size: tuple[int, ...]) -> list[np.ndarray | str]:
    """Each image as uint8 `[3, height, width]`, or the reason why it cannot be decoded."""
    if not blobs:
        return []
    image = _pillow()
    with warnings.catch_warnings(), ThreadPoolExecutor(DECODER_THREADS) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata, which is ignored
        warnings.simplefilter("error", image.DecompressionBombWarning)
        return list(pool.map(lambda blob: _decode(blob, size), blobs))


def _decode(blob: bytes, size: tuple[int, ...]) -> np.ndarray | str:
    library, (_, height, width) = _pillow(), size
    try:
        with library.open(BytesIO(blob)) as image:
            if image.width * image.height > MAX_PIXELS:
                return f"{image.width} x {image.height} pixels exceed the limit of {MAX_PIXELS:,}"
            image.draft(None, (width, height))  # a JPEG is decoded at a reduced size
            small = _rgb(image).resize((width, height), library.Resampling.BILINEAR, reducing_gap=2.0)
            return np.asarray(small).transpose(2, 0, 1).copy()
    except (library.DecompressionBombError, library.DecompressionBombWarning):
        return "a decompression bomb: too many pixels"
    except library.UnidentifiedImageError:
        return "not an image" if blob else "empty"
    except Exception as error:  # decoders of broken files raise any exception
        return f"broken ({str(error).splitlines()[0][:60] if str(error) else type(error).__name__})"


def _rgb(image: Any) -> Any:
    library = _pillow()
    if image.mode.startswith(("I", "F")):  # 16 or 32 bit grey, stretched to 8 bits
        grey = np.nan_to_num(np.asarray(image, dtype=np.float64))
        grey = (grey - grey.min()) * (255 / max(float(np.ptp(grey)), 1e-9))
        image = library.fromarray(grey.astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        image = image.convert("RGBA")
        ground = library.new("RGBA", image.size, "white")
        ground.alpha_composite(image)
        image = ground
    return image.convert("RGB")
