"""SOURCES: named data sets, downloaded on first use: MovieLens in all sizes, and synthetic data of any size."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import polars as pl

from palate.data.cache import cache_folder
from palate.data.reading.interactions import Tables
from palate.data.sources.download import fetch, fetch_wheel
from palate.data.sources.movielens import files_in, read_folds, read_movielens
from palate.data.sources.synthetic import MAX_TABLE_ROWS, make_world
from palate.errors import ConfigError, SourceError

__all__ = ["SOURCES", "Source", "Tables", "folds", "load_tables"]

TERMS = (
    "MovieLens is a data set of GroupLens (Harper and Konstan 2015, doi 10.1145/2827872) for research: cite it, do not "
    "sell it; its README says whether it may be redistributed"
)

_HOSTS = ("https://files.grouplens.org", "http://files.grouplens.org")  # files are verified by checksum
_CSV = (("ratings.csv", "movies.csv"),)
_WHEEL = "recbole-1.2.1-py3-none-any.whl"
_WHEEL_SHA256 = "sha256:9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_FOLD_FILES = ("u.data", "u1.test", "u2.test", "u3.test", "u4.test", "u5.test", "ua.test", "ub.test")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A named data set: what it is and where it comes from.

    Attributes:
        description: One line.
        file: Name of its zip file at GroupLens; "" for synthetic data.
        checksum: Of the zip file, "sha256:..." or "md5:...".
        layouts: The files of the data set, in each of its published forms.
        scale: Lowest and highest possible rating.
        encoding: Of the file of films.
    """

    description: str
    file: str = ""
    checksum: str = ""
    layouts: tuple[tuple[str, ...], ...] = _CSV
    scale: tuple[float, float] = (0.5, 5.0)
    encoding: str = "utf-8"

    def __str__(self) -> str:
        return self.description


SOURCES: dict[str, Source] = {
    "movielens-100k": Source(
        description="100,000 ratings 1 to 5 by 943 users of 1,682 films, 1997-1998; genres, age, gender, occupation",
        file="ml-100k.zip",
        checksum="sha256:50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        layouts=(("u.data", "u.item", "u.user"), ("ml-100k.inter", "ml-100k.item", "ml-100k.user")),
        scale=(1.0, 5.0),
    ),
    "movielens-1m": Source(
        description="1,000,209 ratings 1 to 5 by 6,040 users of 3,706 films, 2000-2003; genres, age, gender, job",
        file="ml-1m.zip",
        checksum="sha256:a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        layouts=(("ratings.dat", "movies.dat", "users.dat"),),
        scale=(1.0, 5.0),
        encoding="latin-1",
    ),
    "movielens-10m": Source(
        description="10,000,054 ratings in half stars by 69,878 users of 10,677 films, 1995-2009; genres",
        file="ml-10m.zip",
        checksum="md5:ce571fd55effeba0271552578f2648bd",
        layouts=(("ratings.dat", "movies.dat"),),
    ),
    "movielens-20m": Source(
        description="20,000,263 ratings in half stars by 138,493 users of 26,744 films, 1995-2015; genres",
        file="ml-20m.zip",
        checksum="sha256:96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
    ),
    "movielens-25m": Source(
        description="25,000,095 ratings in half stars by 162,541 users of 59,047 films, 1995-2019; genres",
        file="ml-25m.zip",
        checksum="sha256:8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
    ),
    "movielens-32m": Source(
        description="32,000,204 ratings in half stars by 200,948 users of 84,432 films, 1995-2023; genres",
        file="ml-32m.zip",
        checksum="md5:d472be332d4daa821edc399621853b57",
    ),
    "movielens-latest-small": Source(
        description="100,836 ratings in half stars by 610 users of 9,724 films, edition of September 2018; genres",
        file="ml-latest-small.zip",
        checksum="sha256:696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
    ),
    "synthetic": Source(
        description="synthetic users with known tastes, 100,000 ratings; other sizes by name, such as `synthetic-1e6`",
        scale=(1.0, 5.0),
    ),
}
"""All named data sets."""


def load_tables(name: str, path: str | Path | None = None) -> Tables:
    """Load the tables of a named data set.

    Args:
        name, path: As in `palate.load_dataset`, which also lists the errors.
    """
    if size := re.fullmatch(r"synthetic(?:-(\d+(?:e\d+)?))?", name):
        if path is not None:
            raise ConfigError(f"{name} is generated and takes no path; use Dataset.read for your own table")
        rows = float(size[1] or 100_000)
        if not 1 <= rows <= MAX_TABLE_ROWS:
            raise ConfigError(f"{name}: sizes go from synthetic-1 to synthetic-2e8 ({MAX_TABLE_ROWS:,} interactions)")
        return make_world(int(rows)).tables()
    source = _source(name)
    place = Path(path).expanduser() if path is not None else _obtain(name, source)
    if (place / source.file).is_file():
        place /= source.file
    with files_in(place, source.layouts) as files:
        tables = read_movielens(files, source.scale, source.encoding)
    origin = (f"read from the wheel {_WHEEL}, because {_HOSTS[0]} did not answer",) if place.name == _WHEEL else ()
    return replace(tables, notes=(f"{name}: {source.description}", *origin, TERMS))


def folds(name: str = "movielens-100k", path: str | Path | None = None) -> pl.DataFrame:
    """The folds published with MovieLens 100K, for `data.split("predefined", parts=folds(), column="fold", fold=1)`.

    Args:
        name: "movielens-100k", the only data set with published folds.
        path: The zip file or folder of the data set, read instead of a download.

    Returns:
        `user_id`, `item_id`; `fold`: the k whose uk.test holds the row; `ua`, `ub`: whether ua.test, ub.test holds it.

    Raises:
        ConfigError: The data set has no published folds.
        SourceError: The folds cannot be downloaded (the second source of MovieLens 100K does not have them).
    """
    if name != "movielens-100k":
        raise ConfigError(f"{name} has no published folds; only movielens-100k has")
    source = SOURCES[name]
    place = Path(path).expanduser() if path is not None else _fetch(name, source)
    if (place / source.file).is_file():
        place /= source.file
    with files_in(place, (_FOLD_FILES,)) as files:
        return read_folds(files)


def _source(name: str) -> Source:
    if name not in SOURCES:
        near = get_close_matches(name, SOURCES, n=1) or get_close_matches(
            name.replace("ml-", "movielens-"), SOURCES, n=1
        )
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"there is no data set {name!r}; {hint}choose one of {', '.join(SOURCES)} or synthetic-1e6")
    return SOURCES[name]


def _obtain(name: str, source: Source) -> Path:
    """The zip file of the data set in the cache, or a wheel that also holds it."""
    wheel = cache_folder() / _WHEEL
    if name != "movielens-100k" or (cache_folder() / source.file).exists():
        return _fetch(name, source)
    if wheel.exists():
        return wheel
    faults = []
    try:
        return _fetch(name, source)
    except SourceError as error:
        faults.append(str(error))
    try:
        return fetch_wheel("recbole==1.2.1", _WHEEL, wheel, _WHEEL_SHA256)
    except SourceError as error:
        faults.append(str(error))
    raise SourceError.faults(
        f"{name} cannot be downloaded from either of its sources; pass a copy of its zip file with path=", faults
    )


def _fetch(name: str, source: Source) -> Path:
    urls = [f"{host}/datasets/movielens/{source.file}" for host in _HOSTS]
    try:
        return fetch(urls, cache_folder() / source.file, source.checksum)
    except SourceError as error:
        raise SourceError(
            f"{name}: {error}\nIf you have a copy of {source.file} or of its folder, pass path="
        ) from error
