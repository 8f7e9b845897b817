"""Random dirty tables as people export them, and what reading each of them, in Python and on the command line, does."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

from palate import Dataset
from palate.cli import main
from palate.data.reading import inspect
from palate.errors import PalateError

ODD = (
    "", " ", "0", "-0", "007", "1e3", "nan", "NaN", "None", "NULL", "inf", "-inf", "1e400", "1e-400", "3,5", "five",
    "0x1F", "-1", "9223372036854775808", "1" * 400, "x" * 5_000, "true", "'", '"', '""', '"a', 'a"b', ",", ";", "\t",
    "|", "=1+1", "@SUM(A1)", "\x1b[31mred", "\x00", "\x07", "\x1f", "\u202eabc", "\u2028", "ß", "🎬", "日本", "a\nb",
    "a\rb", "a::b", "u1 ", " u1", "--user", "<script>alert(1)</script>", "../../etc/passwd", "{}", "[1, 2]", "%s",
    "{0}", "\\N",
)  # fmt: skip
"""Values that do not belong where they stand."""
HEADERS: dict[str, tuple[str, ...]] = {
    "user": ("user_id", "user", "userId", "User ID", "CustomerNo", "user_id:token", "uid", "x", "", "user\nid"),
    "item": ("item_id", "item", "movieId", "asin", "ArticleNo", "item_id:token", "ISBN", "user_id", " item "),
    "rating": ("rating", "Score", "stars", "rating:float", "value"),
    "timestamp": ("timestamp", "time", "Date", "timestamp:float", "created_at"),
    "weight": ("weight", "count", "qty", "plays", "playcount"),
    "title": ("title", "Name", "note", "=cmd", "日本"),
}
SEPARATORS = (",", ",", ",", "\t", ";", "|", "::", " ", "^", ", ")
ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252", "utf-32", "shift-jis")
SUFFIXES = (
    ".csv",
    ".csv",
    ".csv",
    ".tsv",
    ".txt",
    ".dat",
    ".inter",
    "",
    ".csv.gz",
    ".jsonl",
    ".json",
    ".parquet",
    ".xlsx",
    ".zip",
)
TIMES: tuple[Callable[[random.Random, datetime], object], ...] = (
    lambda rng, at: int(at.timestamp()),
    lambda rng, at: int(at.timestamp() * 1000),
    lambda rng, at: int(at.timestamp()) * 10**9,
    lambda rng, at: at.timestamp(),
    lambda rng, at: at.isoformat(),
    lambda rng, at: at.strftime("%Y-%m-%d"),
    lambda rng, at: at.strftime("%m/%d/%Y"),
    lambda rng, at: at.strftime("%d.%m.%Y %H:%M"),
    lambda rng, at: at.strftime("%Y%m%d"),
    lambda rng, at: rng.choice((0, -1, 253_402_300_799, 2**62, "9999-12-31", "0001-01-01", "yesterday", "24:00")),
)


class Dirt(random.Random):
    """A random number generator with a level: how dirty a table is, from 0 to 1."""

    level = 1.0

    def maybe(self, chance: float) -> bool:
        """Whether something wrong happens, at this chance at most."""
        return self.random() < chance * self.level

    def pick(self, values: Sequence[Any]) -> Any:
        """Mostly the first value, which is as it should be; else any."""
        return self.choice(values) if self.maybe(0.6) else values[0]


@dataclass(frozen=True)
class Trial:
    """One table.

    Attributes:
        number: Which one.
        about: How it was made.
        read: "ok" or "refused" by a `PalateError`; anything else is a fault.
        command: The command that was run on it.
        code: Its exit status.
        says: Of a fault, what was printed.
        seconds: Processor time of all.
    """

    number: int
    about: str
    read: str
    command: str
    code: int
    says: str
    seconds: float

    @property
    def sound(self) -> bool:
        """Whether the outcome is one that a user may see."""
        return self.read in ("ok", "refused") and self.code in (0, 2) and not self.says


def attempt(seed: int, number: int, folder: Path) -> Trial:
    """Make a table, read it in Python and on the command line."""
    rng = Dirt(f"{seed}-{number}")
    rng.level = rng.choice((0.03, 0.2, 0.5, 1.0))
    start = time.process_time()
    path, about = dirty_table(rng, folder)
    read = _read(rng, path)
    words = command(rng, path, folder)
    code, says = run(words)
    return Trial(number, about, read, " ".join(words)[:300], code, says, time.process_time() - start)


def dirty_table(rng: Dirt, folder: Path) -> tuple[Path, str]:
    """Write a table with faults of several kinds; returns its path and how it was made."""
    columns = _columns(rng)
    names = [_header(rng, role) for role in columns]
    rows = list(zip(*columns.values(), strict=True)) if columns else []
    if rng.maybe(0.2) and rows:
        rows += rng.choices(rows, k=rng.randint(1, 3))
    suffix = rng.choice(SUFFIXES if rng.maybe(1.0) else SUFFIXES[:4])
    path = folder / f"t{rng.choice(('', ' x', '-é'))}{suffix}"
    if suffix == ".parquet":
        about = _write_parquet(rng, path, names, rows)
    elif suffix in (".jsonl", ".json"):
        about = _write_json(rng, path, names, rows)
    else:
        about = _write_text(rng, path, names, rows)
    return path, f"{suffix or 'no suffix'}: {about}; {_damaged(rng, path)}"


def _columns(rng: Dirt) -> dict[str, list[Any]]:
    """Columns by role: mostly plain values, some of them replaced."""
    count = rng.pick((12, 0, 1, 2, 5))
    kinds = ["user", "item"] + [role for role in ("rating", "timestamp", "weight", "title") if rng.random() < 0.4]
    if rng.maybe(0.15):
        kinds.remove(rng.choice(kinds))
    rng.shuffle(kinds)
    made = {kind: _values(rng, kind, count) for kind in kinds}
    for values in made.values():
        if rng.maybe(0.4):
            for _ in range(rng.choice((1, 1, 1, 3))):
                if values:
                    values[rng.randrange(len(values))] = rng.choice(ODD)
    return made


def _values(rng: Dirt, role: str, count: int) -> list[Any]:
    start = datetime(rng.choice((1970, 1997, 2020, 2037)), 1, 1, tzinfo=UTC)
    write = rng.pick(TIMES)
    ids: tuple[Callable[[int], object], ...] = (
        lambda n: n, lambda n: f"u{n}", lambda n: f"{n:05}", lambda n: 2**53 + n, lambda n: 2**63 + n, lambda n: -n,
        lambda n: float(n), lambda n: n / 2, lambda n: f"u{n} ", lambda n: "ü" * n, lambda n: f"{n}.0",
    )  # fmt: skip
    name = rng.pick((rng.choice(ids[:3]), *ids))
    makers: dict[str, Callable[[int], object]] = {
        "user": lambda n: name(n // 3),
        "item": lambda n: name(n * 7 % 5),
        "rating": rng.choice(
            (lambda n: n % 5 + 1, lambda n: n / 2, lambda n: f"{n % 5},5", lambda n: 10.0 ** (n * 20))
        ),
        "timestamp": lambda n: write(rng, start + timedelta(hours=n)),
        "weight": rng.pick((lambda n: n, lambda n: -n, lambda n: 0, lambda n: n / 3)),
        "title": lambda n: rng.choice(ODD) if rng.maybe(0.3) else f"Title {n}",
    }
    return [makers[role](n) for n in range(count)]


def _header(rng: Dirt, role: str) -> str:
    names = HEADERS[role]
    return str(rng.pick(names))


def _write_text(rng: Dirt, path: Path, names: list[str], rows: list[Any]) -> str:
    separator, encoding = rng.pick(SEPARATORS), rng.pick(ENCODINGS)
    lines = [[str(value) for value in row] for row in rows]
    header = not rng.maybe(0.15)
    if header:
        lines.insert(0, names)
    if rng.maybe(0.15) and lines:
        wrong = rng.choice(lines)
        wrong[:] = wrong[:-1] if rng.random() < 0.5 else [*wrong, rng.choice(ODD), "more"]
    quote = rng.random()
    cells = [[_cell(value, separator, quote) for value in line] for line in lines]
    ends = rng.pick(("\n", "\r\n", "\r", "\n\n"))
    text = ends.join(separator.join(line) for line in cells) + rng.pick(("\n", "", separator, "\n\n \n"))
    if rng.maybe(0.1):
        text = rng.choice(("# a comment\n", "\n\n", "sep=;\n", "<html><body>", '"', "x" * 70_000 + separator)) + text
    content = text.encode(encoding, errors=rng.choice(("replace", "ignore", "xmlcharrefreplace")))
    if path.suffix == ".gz":
        content = gzip.compress(content)
    if path.suffix in (".zip", ".xlsx"):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("table.csv", content)
        content = packed.getvalue()
    path.write_bytes(content)
    return f"separator {separator!r}, {encoding}, ends {ends!r}, {'with' if header else 'no'} header, columns {names}"


def _cell(value: str, separator: str, quote: float) -> str:
    """Quoted as it should be, not at all, or always."""
    needs = any(mark in value for mark in (separator, '"', "\n", "\r"))
    return '"' + value.replace('"', '""') + '"' if needs and quote < 0.9 else value


def _write_json(rng: Dirt, path: Path, names: list[str], rows: list[Any]) -> str:
    objects: list[Any] = [dict(zip(names, row, strict=True)) for row in rows]
    for one in objects:
        if rng.maybe(0.1):
            one[rng.choice(names)] = rng.choice(
                (None, [1, 2], {"a": {"b": 1}}, True, 1.5, [[[[]]]], float("nan"), 10**30)
            )
        if rng.maybe(0.05):
            one.pop(rng.choice(list(one)), None)
    if rng.maybe(0.1):
        objects.insert(0, rng.choice((3, "x", [1], None, {"a": 1})))
    whole = rng.maybe(0.15)
    text = (
        json.dumps(objects) if whole else "\n".join(json.dumps(one, ensure_ascii=rng.random() < 0.5) for one in objects)
    )
    if rng.maybe(0.05):
        text = "[" * 3_000 + text
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return f"{'one list' if whole else 'lines'}, columns {names}"


def _write_parquet(rng: Dirt, path: Path, names: list[str], rows: list[Any]) -> str:
    named = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    try:
        frame = pl.DataFrame(named, strict=False)
    except (pl.exceptions.PolarsError, TypeError, OverflowError):
        frame = pl.DataFrame({name: [str(value) for value in values] for name, values in named.items()})
    types: list[Any] = [
        pl.UInt64, pl.Int8, pl.Float32, pl.Categorical, pl.Binary, pl.Boolean, pl.Date, pl.Datetime("ns", "UTC"),
        pl.Datetime("ms"), pl.Time, pl.Duration, pl.Null, pl.Decimal(38, 0), pl.Decimal(20, 3), pl.Int128,
        pl.List(pl.String),
    ]  # fmt: skip
    about = ""
    for name in frame.columns:
        if rng.maybe(0.4):
            kind = rng.choice(types)
            odd = rng.choice(([Decimal(1)], [date(2020, 1, 1)], [{"a": 1}], [b"\xff\x00"], [[1, 2]], [None]))
            with contextlib.suppress(pl.exceptions.PolarsError, TypeError, OverflowError):
                whole = pl.Series(name, odd * len(frame)) if rng.maybe(0.2) else frame[name].cast(kind, strict=False)
                frame = frame.with_columns(whole)
                about += f", {name} as {whole.dtype}"
    with contextlib.suppress(pl.exceptions.PolarsError):
        frame.write_parquet(path)
    if not path.exists():
        pl.DataFrame({"user_id": [1], "item_id": [2]}).write_parquet(path)
    return f"columns {names}{about}"


def _damaged(rng: Dirt, path: Path) -> str:
    """Sometimes change bytes of the file."""
    content = bytearray(path.read_bytes())
    if not content or not rng.maybe(0.3):
        return "whole"
    how = rng.choice(("flip", "flip", "cut", "insert", "nul", "repeat", "empty"))
    place = rng.randrange(len(content))
    if how == "flip":
        for _ in range(rng.choice((1, 3, 20))):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif how == "cut":
        del content[place:]
    elif how == "insert":
        content[place:place] = rng.randbytes(rng.randint(1, 30))
    elif how == "nul":
        content[place:place] = b"\x00"
    elif how == "repeat":
        content += content[place:]
    else:
        content.clear()
    path.write_bytes(content)
    return how


def _options(rng: Dirt) -> dict[str, Any]:
    """Options of the reader, mostly none."""
    made: dict[str, Any] = {}
    if rng.maybe(0.25):
        made["separator"] = rng.choice((*SEPARATORS, '"', "\r", "é", "", "ab", "\\"))
    if rng.maybe(0.2):
        made["encoding"] = rng.choice((*ENCODINGS, "utf-7", "hex", "rot13", "idna", "punycode", "no-such", "ascii"))
    if rng.maybe(0.2):
        made["duplicates"] = rng.choice(("error", "first", "last", "mean", "sum", "keep"))
    if rng.maybe(0.15):
        made["has_header"] = rng.random() < 0.5
    if rng.maybe(0.15):
        made["timestamp_format"] = rng.choice(
            ("%m/%d/%Y", "%d.%m.%Y %H:%M", "%Y", "%Q", "%", "%s", "%Y-%m-%dT%H:%M:%S%z", "%%")
        )
    if rng.maybe(0.1):
        made["rating_scale"] = rng.choice(((1.0, 5.0), (5.0, 1.0), (0.0, float("nan")), (0.0, 1e39)))
    if rng.maybe(0.3):
        names = (*HEADERS["user"], *HEADERS["item"], *HEADERS["rating"], "0", "1", "7")
        roles = ("user_id", "item_id", "rating", "timestamp", "weight")
        made["columns"] = {role: rng.choice(names) for role in roles if rng.random() < 0.3}
    return made


def _read(rng: Dirt, path: Path) -> str:
    """Read a file, or a frame made of it, in Python."""
    options = _options(rng)
    try:
        if rng.maybe(0.3):
            str(inspect(path, **options))
        else:
            Dataset.read(path, **options)
    except PalateError:
        return "refused"
    except BaseException as error:
        return f"{type(error).__name__}: {error} ({options})"[:500]
    return "ok"


def command(rng: Dirt, path: Path, folder: Path) -> list[str]:
    """A command that reads the table."""
    options = _options(rng)
    flags = []
    for name, value in options.items():
        if name == "columns":
            flags += [f"--{role.replace('_', '-')}={column}" for role, column in value.items()]
        elif name == "has_header":
            flags.append("--header" if value else "--no-header")
        elif name == "rating_scale":
            flags += ["--rating-scale", *map(str, value)]
        else:
            flags.append(f"--{name.replace('_', '-')}={value}")
    if rng.random() < 0.5:
        return ["data", "inspect", str(path), *flags]
    model = rng.choice(("popularity", "popularity", "bias", "itemknn"))
    words = [
        "train",
        model,
        str(path),
        *flags,
        "--split",
        rng.choice(("none", "none", "random", "temporal", "leave-last-out")),
    ]
    if rng.maybe(0.2):
        words += [rng.choice(("--items", "--users")), str(path)]
    return [*words, "--out", str(folder / "run")]


def run(words: list[str]) -> tuple[int, str]:
    """Run a command in this process; its exit status, and what is wrong with what it printed."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(words)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException as error:
        return 1, f"{type(error).__name__}: {error}"[:500]
    printed = out.getvalue() + err.getvalue()
    return code, wrong_with(code, printed, err.getvalue())


def wrong_with(code: int, printed: str, errors: str) -> str:
    """What no command may print, or must."""
    if "Traceback" in printed:
        return "a traceback"
    if code and not printed.strip():
        return "an error without a word"
    control = [c for c in printed if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160]
    if control:
        return f"control characters: {control[:5]}"
    if code and len(errors) > 20_000:
        return f"an error of {len(errors)} characters"
    return ""


def as_process(words: list[str]) -> tuple[int, str]:
    """`run`, as a process of its own, whose output is ASCII."""
    import subprocess
    import sys

    environment = os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "palate", *words], capture_output=True, env=environment, timeout=300)
    printed = (done.stdout + done.stderr).decode("ascii")
    return done.returncode, wrong_with(done.returncode, printed, done.stderr.decode("ascii"))
