"""Images: decoded once into the cache, in any mode; what cannot be decoded is left out, counted and named."""

from __future__ import annotations

import os
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from palate.data.dataset import Dataset
from palate.data.features import images
from palate.data.features.encode import IMAGE_SIZE, encode, learn
from palate.data.features.schema import FeatureBatch, FeatureSchema
from palate.data.reading import inspect_side
from palate.data.reading.side_tables import read_side
from palate.errors import MissingExtra, SourceError

RED = (230, 20, 10)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images-3x144x96"


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 60), kind: str = "png", colour: Any = RED) -> bytes:
    out = BytesIO()
    Image.new(mode, size, colour).save(out, kind)
    return out.getvalue()


def noise(seed: int, size: tuple[int, int] = (96, 144)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


def read(values: list[Any]) -> tuple[FeatureBatch, np.ndarray]:
    """The encoding of a column of images and, for each row that has one, its pixels."""
    table = pl.DataFrame({"item_id": [f"m{n}" for n in range(len(values))], "x": values})
    found = encode(table, learn(table, {"x": "image"}))
    rows = found.images["x"].row.numpy()
    return found, found.images["x"].pixels[rows[rows >= 0]]


def bomb() -> bytes:
    """A PNG of few bytes that says it is 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    body = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def test_pixels_are_what_was_there() -> None:
    blob = noise(1)
    found, pixels = read([blob, None, blob])
    assert found.images["x"].row.tolist() == [0, -1, 0]
    assert (pixels.dtype, pixels.shape) == (np.uint8, (2, *IMAGE_SIZE))
    expected = np.asarray(Image.open(BytesIO(blob))).transpose(2, 0, 1)
    np.testing.assert_array_equal(pixels[0], expected)
    assert found.notes == ()
    assert found.any_known.tolist() == [True, False, True]


def test_every_mode_becomes_rgb() -> None:
    grey16 = BytesIO()
    Image.fromarray(np.linspace(0, 65535, 600, dtype=np.uint16).reshape(20, 30)).save(grey16, "png")
    floats = BytesIO()
    Image.fromarray(np.linspace(-3, 3, 600, dtype=np.float32).reshape(20, 30)).save(floats, "tiff")
    alpha = picture("RGBA", colour=(*RED, 0))
    palette = BytesIO()
    Image.new("P", (9, 9), 0).save(palette, "png", transparency=0)
    one, cmyk, grey = (
        picture("1", colour=1),
        picture("CMYK", kind="jpeg", colour=(0, 255, 255, 0)),
        picture("L", colour=77),
    )
    _, pixels = read([grey16.getvalue(), floats.getvalue(), alpha, palette.getvalue(), one, cmyk, grey, picture()])
    assert pixels.shape == (8, *IMAGE_SIZE)
    for ramp in pixels[:2]:
        assert ramp.min() < 10
        assert ramp.max() > 245
    assert (pixels[2:5] == 255).all()  # what is transparent is white
    assert pixels[5].mean((1, 2)).tolist() == pytest.approx([255, 0, 0], abs=12)
    assert (pixels[6] == 77).all()
    assert pixels[7, :, 0, 0].tolist() == list(RED)


def test_exif_does_not_turn_the_image() -> None:
    image, out = Image.new("RGB", (10, 20)), BytesIO()
    image.paste(RED, (0, 0, 10, 10))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(out, "png", exif=exif)
    _, pixels = read([out.getvalue()])
    assert pixels[0, 0, :60].min() > 200
    assert pixels[0, 0, 84:].max() < 30


def test_what_cannot_be_used_is_counted_and_named(tmp_path: Path) -> None:
    good, jpeg = picture(), BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(jpeg, "jpeg")
    large = picture("1", (8000, 8000), colour=0)
    values = [good, b"", b"no image at all", jpeg.getvalue()[:2000], bomb(), large, good[:60], jpeg.getvalue()]
    found, pixels = read(values)
    assert (found.images["x"].row >= 0).tolist() == [True] + [False] * 6 + [True]
    assert len(pixels) == 2
    [note] = found.notes
    assert note.startswith(
        "x: 6 of 8 images cannot be used (m1: empty; m2: not an image; m3: broken (image file is trunc"
    )
    assert "m4: a decompression bomb" in note
    assert "m5: 8000 x 8000 pixels exceed the limit of 50,000,000" in note
    assert note.endswith("and 1 more)")
    path = tmp_path / "there.png"
    path.write_bytes(good)
    found, _ = read([str(path), str(tmp_path / "gone.png"), str(tmp_path)])
    assert (found.images["x"].row >= 0).tolist() == [True, False, False]
    assert "gone.png cannot be read (No such file or directory)" in found.notes[0]
    assert read([b"bad"])[0].images["x"].row.tolist() == [-1]


def test_only_regular_files_of_a_sensible_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(images.MAX_FILE_BYTES + 1)
    (tmp_path / "fine.png").write_bytes(picture())
    paths = [str(tmp_path / "pipe.png"), "/dev/zero", str(tmp_path / "huge.png"), str(tmp_path / "fine.png")]
    found, [note] = images.read_images(pl.Series("x", paths), (3, 8, 8))
    assert found.row.tolist() == [-1, -1, -1, 0]
    assert f"{tmp_path}/pipe.png is not a regular file; row 2: /dev/zero is not a regular file" in note
    assert "huge.png is larger than 256 MiB" in note


def test_random_damage_never_raises() -> None:
    rng, values = np.random.default_rng(3), []
    for kind in ("png", "jpeg", "gif", "webp", "bmp", "tiff"):
        whole = np.frombuffer(picture(kind=kind, size=(30, 30)), dtype=np.uint8)
        for _ in range(15):
            broken = whole.copy()
            broken[rng.integers(0, len(broken), 6)] = rng.integers(0, 256, 6)
            values.append(bytes(broken[: rng.integers(10, len(broken))]))
    found, pixels = read(values)
    assert len(pixels) == int((found.images["x"].row >= 0).sum()) < len(values)


def test_an_image_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [noise(n, (30, 30)) for n in range(6)]
    _, pixels = read(values[:4])
    monkeypatch.setattr(images, "_decode", lambda blob, size: pytest.fail("decoded again"))
    after, again = read(values[:4])
    np.testing.assert_array_equal(again, pixels)
    assert isinstance(after.images["x"].pixels, np.memmap)
    monkeypatch.undo()


def test_the_cache_grows_and_what_is_mapped_stays(cache: Path) -> None:
    values = [noise(n, (30, 30)) for n in range(6)]
    first, pixels = read(values[:4])
    _, more = read(values[::-1])
    np.testing.assert_array_equal(more[::-1][:4], pixels)
    assert (cache / "pixels.u8").stat().st_size == 6 * np.prod(IMAGE_SIZE)
    np.testing.assert_array_equal(first.images["x"].pixels[first.images["x"].row.numpy()], pixels)


def test_a_cut_or_deleted_cache_is_made_again(cache: Path) -> None:
    values = [noise(n, (30, 30)) for n in range(4)]
    _, pixels = read(values)
    for spoil in (lambda: (cache / "pixels.u8").write_bytes(b"x"), lambda: (cache / "pixels.u8").unlink()):
        spoil()
        np.testing.assert_array_equal(read(values)[1], pixels)
    (cache / "index.sqlite").unlink()
    np.testing.assert_array_equal(read(values)[1], pixels)


def test_several_threads_share_the_cache() -> None:
    values = [noise(n, (30, 30)) for n in range(40)]
    expected = np.stack([np.asarray(Image.open(BytesIO(v)).resize((96, 144), 2)).transpose(2, 0, 1) for v in values])
    with ThreadPoolExecutor(4) as pool:
        for _, pixels in pool.map(lambda turn: read(values[turn:] + values[:turn]), (0, 0, 0, 0)):
            np.testing.assert_array_equal(pixels, expected)


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "file"))
    with pytest.raises(SourceError, match=r"cannot be written: .*PALATE_CACHE"):
        read([picture()])


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"images need Pillow: .* install "):
        read([b"x"])


def test_paths_are_seen_from_the_table(tmp_path: Path) -> None:
    (tmp_path / "posters").mkdir()
    (tmp_path / "posters" / "a.png").write_bytes(picture())
    (tmp_path / "b.png").write_bytes(noise(2))
    (tmp_path / "films.csv").write_text(f"item_id,poster\na,posters/a.png\nb,{tmp_path}/b.png\nc,\n")
    table = read_side(tmp_path / "films.csv", "item_id")
    assert table["poster"].to_list() == [f"{tmp_path}/posters/a.png", f"{tmp_path}/b.png", None]
    data = Dataset.from_frame(pl.DataFrame({"user_id": ["u"] * 3, "item_id": ["a", "b", "c"]}), table)
    assert data.provides == {"interactions", "item_features", "item_image"}
    features = data.feature_spec.item_features
    assert isinstance(features, FeatureSchema)
    assert data.encoded_items(features).images["poster"].row.tolist() == [0, 1, -1]
    assert data.encoded_items(features) is data.encoded_items(features)


@pytest.mark.data
def test_real_posters(real_data: Any) -> None:
    table = pl.read_parquet(real_data("movie-content") / "posters.parquet").head(300)
    found = encode(table, learn(table, {"jpeg": "image"}))
    assert (found.images["jpeg"].row >= 0).all()
    assert found.notes == ()


def test_inspect_counts_images_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(picture())
    (tmp_path / "bad.png").write_text("no image")
    (tmp_path / "items.csv").write_text("item_id,poster\na,good.png\nb,bad.png\nc,none.png\n")
    found = inspect_side(tmp_path / "items.csv")
    assert found is not None
    assert len(found.notes) == 1
    assert found.notes[0].startswith("poster: 2 of 3 images cannot be used (b: not an image; c: ")
    assert "\nnotes\n  - poster: 2 of 3 images" in str(found)
