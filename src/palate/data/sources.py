"""SOURCES: name -> data set, fetched when first asked for: MovieLens in all its sizes, a made-up one of any size."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import polars as pl

from palate.data.fetch import cache_folder, fetch, fetch_wheel
from palate.data.movielens import files_in, read_folds, read_movielens
from palate.data.synthetic import synthetic
from palate.data.table import Tables
from palate.errors import ConfigError, SourceError

__all__ = ["SOURCES", "Source", "Tables", "folds", "load_tables"]

TERMS = (
    "MovieLens is GroupLens' data (Harper and Konstan 2015, doi 10.1145/2827872): for research, to be cited, not for "
    "sale; its README says whether it may be passed on"
)

_HOSTS = ("https://files.grouplens.org", "http://files.grouplens.org")  # the checksum, not the host, is what is trusted
_CSV = (("ratings.csv", "movies.csv"),)
_WHEEL = "recbole-1.2.1-py3-none-any.whl"
_WHEEL_SHA256 = "sha256:9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_FOLD_FILES = ("u.data", "u1.test", "u2.test", "u3.test", "u4.test", "u5.test", "ua.test", "ub.test")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a data set comes from and what it is.

    Attributes:
        what: One line for people.
        file: Name of its zip at GroupLens; "" for a made-up one.
        checksum: Of the zip, "sha256:..." or "md5:...".
        layouts: Files that make it up, in each of the forms it comes in.
        scale: Lowest and highest rating.
        encoding: Of the films' file.
    """

    what: str
    file: str = ""
    checksum: str = ""
    layouts: tuple[tuple[str, ...], ...] = _CSV
    scale: tuple[float, float] = (0.5, 5.0)
    encoding: str = "utf-8"

    def __str__(self) -> str:
        return self.what


SOURCES: dict[str, Source] = {
    "movielens-100k": Source(
        what="100,000 ratings 1 to 5 by 943 people of 1,682 films, 1997 to 1998; genres, age, gender, occupation",
        file="ml-100k.zip",
        checksum="sha256:50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        layouts=(("u.data", "u.item", "u.user"), ("ml-100k.inter", "ml-100k.item", "ml-100k.user")),
        scale=(1.0, 5.0),
    ),
    "movielens-1m": Source(
        what="1,000,209 ratings 1 to 5 by 6,040 people of 3,706 films, 2000 to 2003; genres, age, gender, occupation",
        file="ml-1m.zip",
        checksum="sha256:a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        layouts=(("ratings.dat", "movies.dat", "users.dat"),),
        scale=(1.0, 5.0),
        encoding="latin-1",
    ),
    "movielens-10m": Source(
        what="10,000,054 ratings in half stars by 69,878 people of 10,677 films, 1995 to 2009; genres",
        file="ml-10m.zip",
        checksum="md5:ce571fd55effeba0271552578f2648bd",
        layouts=(("ratings.dat", "movies.dat"),),
    ),
    "movielens-20m": Source(
        what="20,000,263 ratings in half stars by 138,493 people of 26,744 films, 1995 to 2015; genres",
        file="ml-20m.zip",
        checksum="sha256:96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
    ),
    "movielens-25m": Source(
        what="25,000,095 ratings in half stars by 162,541 people of 59,047 films, 1995 to 2019; genres",
        file="ml-25m.zip",
        checksum="sha256:8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
    ),
    "movielens-32m": Source(
        what="32,000,204 ratings in half stars by 200,948 people of 84,432 films, 1995 to 2023; genres",
        file="ml-32m.zip",
        checksum="md5:d472be332d4daa821edc399621853b57",
    ),
    "movielens-latest-small": Source(
        what="100,836 ratings in half stars by 610 people of 9,724 films, edition of September 2018; genres",
        file="ml-latest-small.zip",
        checksum="sha256:696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
    ),
    "synthetic": Source(
        what="made-up people with known tastes, 100,000 ratings; `synthetic-1e6` and the like for other sizes",
        scale=(1.0, 5.0),
    ),
}
"""Every named data set."""


def load_tables(name: str, path: str | Path | None = None) -> Tables:
    """The tables of a named data set.

    Args:
        name: A key of `SOURCES`, or "synthetic-" and a number of interactions: synthetic-5000, synthetic-1e6.
        path: A copy of the data set's own zip or folder, to be read instead of fetching anything.

    Raises:
        ConfigError: There is no such data set, or it takes no path.
        SourceError: It cannot be fetched, or what is there is not it.
    """
    if made_up := re.fullmatch(r"synthetic(?:-(\d+(?:e\d)?))?", name):
        if path is not None:
            raise ConfigError(f"{name} is made up on the spot and takes no path; use Dataset.read for a table of yours")
        return synthetic(int(float(made_up[1] or 100_000)))
    source = _source(name)
    place = Path(path).expanduser() if path is not None else _obtain(name, source)
    if (place / source.file).is_file():
        place /= source.file
    with files_in(place, source.layouts) as files:
        tables = read_movielens(files, source.scale, source.encoding)
    second = (f"taken from the wheel {_WHEEL}, as {_HOSTS[0]} did not answer",) if place.name == _WHEEL else ()
    return replace(tables, notes=(f"{name}: {source.what}", *second, TERMS))


def folds(name: str = "movielens-100k", path: str | Path | None = None) -> pl.DataFrame:
    """The parts published with MovieLens 100K, for `data.split("given", parts=folds(), column="fold", fold=1)`.

    Args:
        name: movielens-100k; no other set came with folds.
        path: A copy of the data set's own zip or folder.

    Returns:
        `user_id`, `item_id`; `fold`: the k whose uk.test holds the row; `ua`, `ub`: whether ua.test, ub.test holds it.

    Raises:
        ConfigError: The set has no folds.
        SourceError: They cannot be fetched; the second source of MovieLens 100K does not have them.
    """
    if name != "movielens-100k":
        raise ConfigError(f"{name} was published without folds; movielens-100k is the one that has them")
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
        raise ConfigError(f"there is no data set {name!r}; {hint}known are {', '.join(SOURCES)} and synthetic-1e6, ...")
    return SOURCES[name]


def _obtain(name: str, source: Source) -> Path:
    """The data set's zip in the cache, or the wheel that holds it too."""
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
        f"{name} could be had from neither of its sources; pass a copy of its zip with path=", faults
    )


def _fetch(name: str, source: Source) -> Path:
    urls = [f"{host}/datasets/movielens/{source.file}" for host in _HOSTS]
    try:
        return fetch(urls, cache_folder() / source.file, source.checksum)
    except SourceError as error:
        raise SourceError(f"{name}: {error}\nWith a copy of {source.file} or of its folder, pass path=") from error
