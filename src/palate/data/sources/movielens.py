"""Read the files of MovieLens, as published by GroupLens (and the 100K as contained in the wheel of RecBole).

Ids stay text, as in the files. Items have `title`, `genres` (separated by `|`) and `year`; users, if the data set has
them, `age`, `gender`, `occupation`, `zip`.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from palate.data.reading.interactions import Tables, read_interactions
from palate.data.reading.side_tables import read_side
from palate.errors import SourceError

Files = dict[str, Path]

GENRES_100K = ["unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"]
GENRES_100K += [
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
"""The genre flags of u.item, in file order."""

_OCCUPATIONS_1M = ["other or not specified", "academic/educator", "artist", "clerical/admin", "college/grad student"]
_OCCUPATIONS_1M += ["customer service", "doctor/health care", "executive/managerial", "farmer", "homemaker"]
_OCCUPATIONS_1M += ["K-12 student", "lawyer", "programmer", "retired", "sales/marketing", "scientist", "self-employed"]
_OCCUPATIONS_1M += ["technician/engineer", "tradesman/craftsman", "unemployed", "writer"]
_ROLES = ["user_id", "item_id", "rating", "timestamp"]
_FILM = ["item_id", "title", "genres"]
_MAX_MEMBER_BYTES = 8 * 2**30
_YEAR = r"\((\d{4})\)\s*$"


@contextmanager
def files_in(place: Path, layouts: Sequence[Sequence[str]]) -> Iterator[Files]:
    """Find the files of the first layout that a folder or zip file holds; a zip file is unpacked temporarily.

    Args:
        place: A folder that holds the files, directly or in one of its folders; or a zip file.
        layouts: Names of files that belong together.

    Yields:
        Name -> path.

    Raises:
        SourceError: The place does not exist, is damaged or encrypted, or holds none of the layouts.
    """
    if place.is_dir():
        found = {path.name: path for path in sorted([*place.glob("*/*"), *place.iterdir()]) if path.is_file()}
        yield _chosen(place, found, layouts)
    elif not place.is_file():
        raise SourceError(f"there is no file {place}; expected a folder or zip file with the files of the data set")
    else:
        try:
            with zipfile.ZipFile(place) as archive, tempfile.TemporaryDirectory() as folder:
                members = {name.rpartition("/")[2]: name for name in archive.namelist()}
                for name in _chosen(place, {name: Path(name) for name in members}, layouts):
                    _unpack(archive, members[name], Path(folder, name))
                yield {path.name: path for path in Path(folder).iterdir()}
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise SourceError(f"{place} is not a complete zip file: {error}; delete it and try again") from error


def _unpack(archive: zipfile.ZipFile, member: str, target: Path) -> None:
    size = archive.getinfo(member).file_size
    if size > _MAX_MEMBER_BYTES:
        raise SourceError(
            f"{member} in {archive.filename} claims {size / 2**30:,.0f} GiB, more than any file of this data set; "
            "if the archive is what it should be, unpack it yourself and pass path= with the folder"
        )
    try:
        with archive.open(member) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file)
    except RuntimeError as error:  # encrypted, or an unknown method of compression
        raise SourceError(
            f"{member} in {archive.filename} cannot be unpacked: {error}; unpack the archive yourself, and pass path= "
            "with the folder"
        ) from error
    except OSError as error:
        advice = "free some space there, or set the environment variable TMPDIR to another folder"
        raise SourceError(
            f"{member} cannot be unpacked to {target.parent}: {error.strerror or error}; {advice}"
        ) from error


def _chosen(place: Path, found: Files, layouts: Sequence[Sequence[str]]) -> Files:
    for layout in layouts:
        if all(name in found for name in layout):
            return {name: found[name] for name in layout}
    wanted = " or ".join(", ".join(layout) for layout in layouts)
    listed = ", ".join(list(found)[:10]) or "nothing"
    raise SourceError(f"{place} does not hold the files of this data set ({wanted}); it holds {listed}")


def read_movielens(files: Files, scale: tuple[float, float], encoding: str) -> Tables:
    """Read the tables of a MovieLens data set in any of its four forms.

    Args:
        files: Name -> path: u.data, u.item, u.user; or ratings.dat, movies.dat and optionally users.dat; or
            ratings.csv, movies.csv; or ml-100k.inter, .item, .user.
        scale: Lowest and highest possible rating.
        encoding: Of the file of films.
    """
    users: pl.DataFrame | None = None
    if "u.data" in files:
        ratings, items, users = _ratings(files["u.data"], scale), _u_item(files["u.item"]), _u_user(files["u.user"])
    elif "ml-100k.inter" in files:
        ratings, items = _ratings(files["ml-100k.inter"], scale), _recbole_items(files["ml-100k.item"])
        users = read_side(files["ml-100k.user"], "user_id", pl.String).rename({"zip_code": "zip"})
    elif "ratings.dat" in files:
        ratings = _ratings(files["ratings.dat"], scale)
        items = read_side(files["movies.dat"], "item_id", pl.String, columns=_FILM, separator="::", encoding=encoding)
        users = _users_dat(files["users.dat"]) if "users.dat" in files else None
    else:
        ratings = _ratings(files["ratings.csv"], scale)
        items = read_side(files["movies.csv"], "item_id", pl.String, encoding=encoding)
    if "year" not in items.columns:
        items = items.with_columns(pl.col("title").str.extract(_YEAR).cast(pl.Int32).alias("year"))
    genres = pl.col("genres")
    items = items.with_columns(pl.when(genres != "(no genres listed)").then(genres))
    return Tables(interactions=ratings, items=items, users=users, rating_scale=scale)


def read_folds(files: Files) -> pl.DataFrame:
    """Read the published folds of MovieLens 100K.

    Args:
        files: u1.test to u5.test, ua.test, ub.test, u.data.

    Returns:
        `user_id`, `item_id`, in the order of u.data; `fold` (Int8): k where uk.test holds the row, and uk.base is the
        rest; `ua`, `ub` (Boolean): whether ua.test, ub.test holds it.
    """
    pairs = {name: _ratings(path, None).select("user_id", "item_id") for name, path in files.items()}
    frame = pairs["u.data"]
    folds = pl.concat([pairs[f"u{k}.test"].with_columns(pl.lit(k, pl.Int8).alias("fold")) for k in range(1, 6)])
    keys = ["user_id", "item_id"]
    frame = frame.join(folds, on=keys, how="left", maintain_order="left")
    for name in ("ua", "ub"):
        held = pairs[f"{name}.test"].with_columns(pl.lit(True).alias(name))
        frame = frame.join(held, on=keys, how="left", maintain_order="left").with_columns(pl.col(name).fill_null(False))
    if frame["fold"].has_nulls() or len(folds) != len(pairs["u.data"]):
        raise SourceError(
            "u1.test to u5.test do not hold each row of u.data exactly once; these are not the published files"
        )
    return frame


def _ratings(path: Path, scale: tuple[float, float] | None) -> pl.DataFrame:
    names = path.suffix in (".csv", ".inter")
    return read_interactions(path, columns=None if names else _ROLES, rating_scale=scale).frame


def _u_item(path: Path) -> pl.DataFrame:
    columns = ["item_id", "title", "release_date", "video_date", "imdb_url", *GENRES_100K]
    frame = read_side(path, "item_id", pl.String, columns=columns, separator="|", encoding="latin-1")
    genres = [pl.when(pl.col(genre) == 1).then(pl.lit(genre)) for genre in GENRES_100K]
    return frame.select(
        "item_id", "title", pl.concat_str(genres, separator="|", ignore_nulls=True).alias("genres"), "release_date"
    )


def _u_user(path: Path) -> pl.DataFrame:
    columns = ["user_id", "age", "gender", "occupation", "zip"]
    return read_side(path, "user_id", pl.String, columns=columns, separator="|")


def _users_dat(path: Path) -> pl.DataFrame:
    columns = ["user_id", "gender", "age", "occupation", "zip"]
    frame = read_side(path, "user_id", pl.String, columns=columns, separator="::", encoding="latin-1")
    names = dict(enumerate(_OCCUPATIONS_1M))
    return frame.with_columns(pl.col("occupation").replace_strict(names, return_dtype=pl.String, default=None))


def _recbole_items(path: Path) -> pl.DataFrame:
    """Undo the changes of RecBole, which moved the year out of the titles and separated genres by spaces."""
    frame = read_side(path, "item_id", pl.String)
    year = pl.col("release_year").cast(pl.Int32, strict=False)
    title = pl.when(year.is_null()).then("movie_title").otherwise(pl.format("{} ({})", "movie_title", year))
    return frame.select(
        "item_id", title.alias("title"), pl.col("class").str.replace_all(" ", "|").alias("genres"), year.alias("year")
    )
