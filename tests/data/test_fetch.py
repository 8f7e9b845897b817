"""Downloads, from a real server on this machine: cut, resumed, checked, tried elsewhere, and given up."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from server import Site, closed_port

from palate.data.cache import cache_folder
from palate.data.sources.download import fetch
from palate.errors import SourceError

DATA = np.random.default_rng(0).bytes(1_500_000)
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


def test_a_download(site: Site, tmp_path: Path) -> None:
    site.files["/x.zip"] = DATA
    told: list[tuple[int, int | None]] = []
    target = fetch(
        [f"{site.url}/x.zip"], tmp_path / "new" / "x.zip", SHA256, lambda have, total: told.append((have, total))
    )
    assert target.read_bytes() == DATA
    assert told[0] == (0, len(DATA))
    assert told[-1] == (len(DATA), len(DATA))
    assert [have for have, _ in told] == sorted(have for have, _ in told)
    assert [path.name for path in target.parent.iterdir()] == ["x.zip"]
    fetch([f"{site.url}/x.zip"], target, SHA256)
    assert len(site.asked) == 1, "what is there is not fetched again"


def test_a_connection_that_is_cut_goes_on_where_it_was(site: Site, tmp_path: Path) -> None:
    site.files["/x.zip"], site.cuts = DATA, [400_000, 1, 700_000]
    assert fetch([f"{site.url}/x.zip"], tmp_path / "x.zip", SHA256).read_bytes() == DATA
    ranges = [asked for _, asked in site.asked]
    assert ranges == [None, "bytes=400000-", "bytes=400001-", "bytes=1100001-"]


def test_a_later_call_goes_on_too(site: Site, tmp_path: Path) -> None:
    site.files["/x.zip"] = DATA
    (tmp_path / "x.zip.part").write_bytes(DATA[:1_000_000])
    assert fetch([f"{site.url}/x.zip"], tmp_path / "x.zip", SHA256).read_bytes() == DATA
    assert site.asked == [("/x.zip", "bytes=1000000-")]


def test_a_part_that_is_whole_is_only_checked(site: Site, tmp_path: Path) -> None:
    site.files["/x.zip"] = DATA
    (tmp_path / "x.zip.part").write_bytes(DATA)
    assert fetch([f"{site.url}/x.zip"], tmp_path / "x.zip", SHA256).read_bytes() == DATA
    assert site.asked == [("/x.zip", f"bytes={len(DATA)}-")]


def test_a_part_that_is_too_long_is_begun_anew(site: Site, tmp_path: Path) -> None:
    site.files["/x.zip"] = DATA
    (tmp_path / "x.zip.part").write_bytes(DATA + b"more")
    assert fetch([f"{site.url}/x.zip"], tmp_path / "x.zip", SHA256).read_bytes() == DATA


def test_a_server_that_cannot_go_on_starts_again(site: Site, tmp_path: Path) -> None:
    site.files["/x.zip"], site.cuts, site.ranges = DATA, [400_000], False
    assert fetch([f"{site.url}/x.zip"], tmp_path / "x.zip", SHA256).read_bytes() == DATA
    assert len(site.asked) == 2


def test_a_server_that_never_gets_further_is_given_up(site: Site, tmp_path: Path) -> None:
    site.files["/x.zip"], site.cuts = DATA, [1_000] + [0] * 20
    with pytest.raises(SourceError, match=r"the connection ended|IncompleteRead|more expected"):
        fetch([f"{site.url}/x.zip"], tmp_path / "x.zip", SHA256)
    assert len(site.asked) < 6
    assert (tmp_path / "x.zip.part").read_bytes() == DATA[:1_000], "what came is kept for the next time"


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_the_wrong_file_is_thrown_away(site: Site, tmp_path: Path, algorithm: str) -> None:
    site.files["/x.zip"] = DATA[:-1] + b"?"
    wanted = f"{algorithm}:{hashlib.new(algorithm, DATA).hexdigest()}"
    with pytest.raises(SourceError, match=f"the file has checksum {algorithm}:[0-9a-f]+, expected {wanted}"):
        fetch([f"{site.url}/x.zip"], tmp_path / "x.zip", wanted)
    assert not list(tmp_path.iterdir())


def test_a_second_place_is_tried(site: Site, tmp_path: Path) -> None:
    site.files["/b.zip"] = DATA
    urls = [f"{site.url}/a.zip", f"{site.url}/b.zip"]
    assert fetch(urls, tmp_path / "x.zip", SHA256).read_bytes() == DATA
    with pytest.raises(
        SourceError, match=r"2 faults[^$]*a\.zip: the server answered 404[^$]*c\.zip: the server answered 404"
    ):
        fetch([f"{site.url}/a.zip", f"{site.url}/c.zip"], tmp_path / "y.zip", SHA256)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Connection refused"):
        fetch([f"http://127.0.0.1:{closed_port()}/x.zip"], tmp_path / "x.zip", SHA256)


def test_no_room_for_what_is_announced(site: Site, tmp_path: Path) -> None:
    site.files["/x.zip"], site.claim = DATA, 10**18
    with pytest.raises(SourceError, match=r"bytes free, 1,000,000,000,000,000,000 are needed.*PALATE_CACHE"):
        fetch([f"{site.url}/x.zip"], tmp_path / "x.zip", SHA256)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk(site: Site, tmp_path: Path) -> None:
    site.files["/x.zip"] = DATA
    (tmp_path / "x.zip.part").symlink_to("/dev/full")
    with pytest.raises(SourceError, match=r"x\.zip\.part cannot be written: the disk is full; free some space"):
        fetch([f"{site.url}/x.zip"], tmp_path / "x.zip", SHA256)
    assert not (tmp_path / "x.zip").exists()


def test_a_folder_that_cannot_be_made(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SourceError, match="cannot be written"):
        fetch([f"{site.url}/x.zip"], tmp_path / "file" / "x.zip", SHA256)


def test_the_bar_is_drawn_on_a_terminal_only(site: Site, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    site.files["/x.zip"] = DATA
    fetch([f"{site.url}/x.zip"], tmp_path / "x.zip", SHA256)
    assert capfd.readouterr() == ("", "")
    call = f"fetch(['{site.url}/x.zip'], Path('y.zip'), '{SHA256}')"
    code = f"from pathlib import Path; from palate.data.sources.download import fetch; {call}"
    environment = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "y.zip" in done.stderr
    assert "1.5/1.5 MB" in done.stderr
    assert done.stdout == ""


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("PALATE_CACHE")
    assert cache_folder().name == "palate"
