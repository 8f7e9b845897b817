"""Generated conditions for filters: valid ones, forbidden ones, broken ones and bombs."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date

import numpy as np
import polars as pl

COLUMNS = ("item_id", "title", "text", "year", "price", "tags", "released", '"two words"', "flag", "nosuch")
FORBIDDEN = (
    "RPAD({}, 100000000, 'x')", "REPEAT({}, 1000000)", "MAX({})", "SUM({}) OVER ()", "COUNT(*)", "FIRST({})",
    "(SELECT {} FROM self)", "(SELECT 1 FROM read_csv('/etc/passwd'))", "REGEXP_LIKE({}, '(a+)+$')", "{} || {}",
    "CONCAT({}, {}, {})", "LAG({}) OVER (ORDER BY year)", "CASE WHEN {} > 1 THEN 2 END", "UNNEST({})", "STDDEV({})",
    "REPLACE({}, 'a', 'aaaaaaaaaa')", "{}[1]", "EXTRACT(YEAR FROM {})", "STRPTIME({}, '%Y')", "EXPLODE({})",
    "INTERVAL '1 day'", "ARRAY_AGG({})", "{} ~ '(a*)*b'", "@{}", ":{}", "?", "*", "self.*", "POW({}, 999999)",
)  # fmt: skip
FUNCTIONS = (
    "ABS", "LENGTH", "LOWER", "UPPER", "YEAR", "MONTH", "DAY", "ARRAY_LENGTH", "COALESCE", "TRIM", "ROUND",
)  # fmt: skip
COMPARED = ("=", "!=", "<>", "<", "<=", ">", ">=", "==", "LIKE", "ILIKE", "NOT LIKE", "IS", "IS NOT", "RLIKE")
OPERATORS = ("+", "-", "*", "/", "%", "||", "//", "^", "&", "<<")
TYPES = ("INT", "BIGINT", "DOUBLE", "TEXT", "DATE", "TIMESTAMP", "VARCHAR(10)", "DECIMAL(38, 10)", "BLOB")


def item_table(rows: int) -> pl.DataFrame:
    """An item table with a column of each type; texts of about 400 characters."""
    rng = np.random.default_rng(0)
    words = np.array(["alpha", "beta", "gamma", "comedy", "drama", "the", "of", "a", "ß", "100%"])
    texts = [" ".join(rng.choice(words, 70)) for _ in range(500)]
    pick = rng.integers(0, 500, rows)
    return pl.DataFrame(
        {
            "item_id": [f"i{i}" for i in range(rows)],
            "title": [texts[i][:50] for i in pick],
            "text": [texts[i] for i in pick],
            "year": rng.integers(1900, 2030, rows),
            "price": np.where(rng.random(rows) < 0.1, np.nan, rng.random(rows)),
            "tags": [texts[i].split()[:4] for i in pick],
            "released": [date(1950 + i % 70, 1, 1) for i in range(rows)],
            "two words": pl.Series([None if i % 3 == 0 else i for i in range(rows)], dtype=pl.Int32),
            "flag": rng.random(rows) < 0.5,
        }
    )


def condition(rng: random.Random) -> str:
    """One condition; about a third are valid."""
    kinds: list[tuple[int, Callable[[random.Random], str]]] = [
        (3, _sensible),
        (3, _logic),
        (2, _broken),
        (1, _bomb),
        (1, _tokens),
    ]
    return rng.choices([make for _, make in kinds], [weight for weight, _ in kinds])[0](rng)


def _sensible(rng: random.Random) -> str:
    """Comparisons that fit the types of the columns."""
    numbers = ("year", "price", '"two words"')
    number = f"{rng.choice(numbers)} {rng.choice('+-*/%')} {rng.randint(-3, 3)}"
    text = rng.choice(("title", "text", "LOWER(title)", "UPPER(text)", "CAST(year AS TEXT)", "COALESCE(title, 'x')"))
    simple = (
        f"{number} {rng.choice(('=', '!=', '<', '>='))} {rng.randint(0, 2_000)}",
        f"year IN ({', '.join(str(rng.randint(1900, 2030)) for _ in range(rng.randint(1, 200)))})",
        f"year NOT BETWEEN {rng.randint(1900, 2030)} AND {rng.randint(1900, 2030)}",
        f"{text} {rng.choice(('LIKE', 'ILIKE', 'NOT LIKE'))} '%{rng.choice('abcdß_%')}{rng.choice(('', 'a%e'))}%'",
        f"STARTS_WITH({text}, '{rng.choice('abc19')}')",
        f"LENGTH({text}) > {rng.randint(0, 60)}",
        f"ARRAY_CONTAINS(tags, '{rng.choice(('comedy', 'the', 'x'))}')",
        f"YEAR(released) - MONTH(released) > {rng.randint(1940, 2030)} OR released < DATE '1990-01-01'",
        "flag",
        '"two words" IS NOT NULL',
    )
    return f" {rng.choice(('AND', 'OR', 'AND NOT'))} ".join(rng.sample(simple, rng.randint(1, 6)))


def _logic(rng: random.Random, depth: int = 0) -> str:
    choice = rng.random()
    if depth > 6 or choice < 0.5:
        return _comparison(rng, depth)
    if choice < 0.85:
        parts = [_logic(rng, depth + 1) for _ in range(rng.randint(2, 4))]
        return f" {rng.choice(('AND', 'OR'))} ".join(parts)
    return rng.choice(("NOT ({})", "({})", "NOT {}")).format(_logic(rng, depth + 1))


def _comparison(rng: random.Random, depth: int) -> str:
    left = _value(rng, depth + 1)
    kind = rng.random()
    if kind < 0.15:
        return f"{left} {rng.choice(('IN', 'NOT IN'))} ({', '.join(_literal(rng) for _ in range(rng.randint(0, 60)))})"
    if kind < 0.25:
        return f"{left} BETWEEN {_literal(rng)} AND {_value(rng, depth + 1)}"
    if kind < 0.35:
        return f"{left} {rng.choice(('IS NULL', 'IS NOT NULL', 'IS TRUE', 'IS DISTINCT FROM 3'))}"
    if kind < 0.5:
        function = rng.choice(("ARRAY_CONTAINS", "STARTS_WITH", "ENDS_WITH"))
        return f"{function}({left}, {_literal(rng)})"
    return f"{left} {rng.choice(COMPARED)} {_value(rng, depth + 1)}"


def _value(rng: random.Random, depth: int) -> str:
    choice = rng.random()
    if depth > 6 or choice < 0.45:
        return rng.choice(COLUMNS)
    if choice < 0.7:
        return _literal(rng)
    if choice < 0.8:
        return f"({_value(rng, depth + 1)} {rng.choice(OPERATORS)} {_value(rng, depth + 1)})"
    if choice < 0.88:
        return f"{rng.choice(FUNCTIONS)}({_value(rng, depth + 1)})"
    if choice < 0.94:
        return f"CAST({_value(rng, depth + 1)} AS {rng.choice(TYPES)})"
    return rng.choice(FORBIDDEN).replace("{}", rng.choice(COLUMNS))


def _literal(rng: random.Random) -> str:
    number = rng.choice((0, 1, -1, 2, 1994, 2**31, -(2**63), 2**63, 10**40, 0.5, 1e308, "1e999", "0x1F"))
    text = rng.choice(
        ("", "a", "%", "100%", "%a%b%c%", "_" * 30, "O''Brien", "\\", "\x00", "\u202e", "2000-01-01", "🎬")
    )
    return rng.choice((str(number), f"'{text}'", "TRUE", "NULL", "DATE '2000-01-01'"))


def _broken(rng: random.Random) -> str:
    """A condition with characters removed, doubled, exchanged or inserted."""
    text = list(_logic(rng))
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(text))
        text[place] = rng.choice(("", text[place] * 2, rng.choice("()'\"\\;-*/%,.[]{}$#@`~\n\0"), rng.choice(text)))
        text = text or ["x"]
    return "".join(text)


def _bomb(rng: random.Random) -> str:
    """A long, deep or slow condition of up to 10,000 characters."""
    count, column = rng.choice((20, 90, 400, 4_000)), rng.choice(COLUMNS)
    bombs = (
        f"{column} > " + "+".join(["1"] * count),
        "(" * count + "year > 1" + ")" * count,
        "NOT " * count + "flag",
        "-" * count + "1 > year",
        " OR ".join(f"{column} = {i}" for i in range(count)),
        f"{column} IN ({', '.join(map(str, range(count)))})",
        " OR ".join(f"text LIKE '%{i}%a%b%'" for i in range(count)),
        f"text ILIKE '{'%a_' * count}z'",
        " OR ".join(f"LOWER(text) = '{i}'" for i in range(count)),
        "LOWER(" * count + "text" + ")" * count + " = 'a'",
        "CASE WHEN flag THEN " * count + "TRUE" + " END" * count,
        "COALESCE(" + ", ".join(["title"] * count) + ") = 'a'",
        f"{column} > " + "*".join(["99999999999"] * count),
        f"year > {'9' * count}",
        f"year BETWEEN {' AND year BETWEEN '.join(['1'] * count)}",
        f"title = '{'x' * count}'",
    )
    return rng.choice(bombs)[:10_000]


def _tokens(rng: random.Random) -> str:
    """Words of SQL in any order."""
    syntax = ("(", ")", ",", "'a'", "1", "AND", "SELECT", "FROM", "CASE", "WHEN", "END", ";", "--", "/*", "*/", "OVER")
    words = (*COLUMNS, *FUNCTIONS, *COMPARED, *OPERATORS, *TYPES, *FORBIDDEN, *syntax)
    return " ".join(rng.choice(words) for _ in range(rng.randint(1, 30)))
