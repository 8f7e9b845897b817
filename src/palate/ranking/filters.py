"""Filters: which rows of the item table a condition holds for, written in SQL by anybody.

A condition may come from a stranger. sqlglot parses it, and every node of the tree must be one that only compares
columns of one row: no subqueries, aggregates, windows, regular expressions, or functions that make long text. Size,
depth and the number of text operations are bounded. Polars evaluates the SQL that is generated from the checked tree,
never the given text; see docs/decisions/22-filters.md.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from palate.errors import ConfigError, quoted

if TYPE_CHECKING:
    from sqlglot.expressions import Expr

MAX_CHARACTERS = 10_000
"""Most characters of a condition."""
MAX_DEPTH = 20
"""Most brackets, NOTs and signs within each other."""
MAX_OPERATIONS = 100
"""Most operators and functions; values of a list count as one operation together."""
MAX_TEXT_OPERATIONS = 25
"""Most operations that read whole texts or lists: LIKE, LOWER and the like."""
CASE_COST = 3
"""Text operations that LOWER and UPPER count as: they make new text."""
MAX_WILDCARDS = 50
"""Most % and _ in all patterns together: the time of a match grows with them."""
ROWS_PER_BLOCK = 10_000
"""Rows evaluated at once, which bounds the memory of intermediate columns."""
VALUES = ("Boolean", "Column", "Identifier", "Literal", "Null", "Paren", "DataType")
COMPARISONS = ("And", "Between", "EQ", "GT", "GTE", "In", "Is", "LT", "LTE", "NEQ", "Not", "Or")
CASE_CHANGES = ("Lower", "Upper")
PATTERNS = ("ILike", "Like")
ARITHMETIC = ("Abs", "Add", "Div", "Mod", "Mul", "Neg", "Sub")
DATES = ("Day", "Month", "Year")
TEXT_OPERATIONS = (
    "ArrayContains", "ArraySize", "Cast", "EndsWith", "ILike", "Length", "Like", "Lower", "StartsWith", "Upper",
)  # fmt: skip
CAST_TYPES = ("BIGINT", "BOOLEAN", "DATE", "DOUBLE", "FLOAT", "INT", "TEXT", "TIMESTAMP", "VARCHAR")
ALLOWED = (
    "=, !=, <, <=, >, >=, AND, OR, NOT, IN, BETWEEN, IS NULL, LIKE, ILIKE, + - * / %, ABS, ARRAY_CONTAINS, "
    "ARRAY_LENGTH, CAST, COALESCE, DAY, ENDS_WITH, LENGTH, LOWER, MONTH, STARTS_WITH, UPPER and YEAR"
)


def where(table: pl.DataFrame | None, condition: str) -> np.ndarray:
    """Rows of a table for which a condition holds, bool `[rows]`; rows without a value do not count.

    Args:
        table: The item table.
        condition: SQL that compares columns, for example "year >= 1990 AND genres LIKE '%Comedy%'".

    Raises:
        ConfigError: There is no table; or the text is not valid SQL, is too long, uses more than comparisons, names
            unknown columns, or is not a condition.
    """
    given = f"where = {quoted(condition, 200)}"
    if table is None:
        raise ConfigError(f"{given} needs an item table, and this data has none; read one with items=")
    tree = _parsed(condition, given)
    _check_columns(tree, table, given)
    _check_nodes(tree, table, given)
    try:
        held = pl.sql_expr(tree.sql(identify=True, comments=False)).alias("held")
        pieces = list(table.iter_slices(ROWS_PER_BLOCK)) or [table]
        found = pl.concat([piece.select(pl.first(), held).get_column("held") for piece in pieces])
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"{given} does not fit the columns of the item table: {_first_line(error)}") from error
    if found.dtype != pl.Boolean:
        raise ConfigError(f"{given} is a {found.dtype} and not a condition; compare it with something")
    return found.fill_null(False).to_numpy(writable=True)


def _parsed(condition: str, given: str) -> Expr:
    """The tree of a condition; size and depth are checked before it is built."""
    import sqlglot
    from sqlglot.errors import SqlglotError
    from sqlglot.expressions import Condition

    if len(condition) > MAX_CHARACTERS:
        raise ConfigError(f"{given} has {len(condition):,} characters; a condition has at most {MAX_CHARACTERS:,}")
    try:
        depth, size, commented = _measure(condition)
        if commented:
            raise ConfigError(f"{given} holds a comment; remove it")
        if depth > MAX_DEPTH:
            raise ConfigError(f"{given} is nested {depth} deep; at most {MAX_DEPTH} levels are allowed")
        if size > 4 * MAX_OPERATIONS:
            raise ConfigError(f"{given} has too many operators; at most {MAX_OPERATIONS} are allowed")
        return sqlglot.parse_one(condition, into=Condition)
    except SqlglotError as error:
        raise ConfigError(f"{given} is not valid SQL: {_first_fault(error)}") from None
    except RecursionError:
        raise ConfigError(f"{given} is nested too deeply; use fewer brackets") from None


def _measure(condition: str) -> tuple[int, int, bool]:
    """Depth of nesting, number of tokens that are neither values nor commas, and whether there are comments."""
    from sqlglot import TokenType, tokenize

    opening = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE}
    closing = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END}
    prefixes = {TokenType.NOT, TokenType.DASH, TokenType.PLUS, TokenType.TILDE}
    values = {TokenType.STRING, TokenType.NUMBER, TokenType.COMMA}
    deepest = level = run = size = 0
    commented = False
    for token in tokenize(condition):
        kind = token.token_type
        run = run + 1 if kind in prefixes else 0
        level += (kind in opening) - (kind in closing)
        deepest = max(deepest, level + run)
        size += kind not in values
        commented = commented or bool(token.comments)
    return deepest, size, commented


def _first_fault(error: Exception) -> str:
    """What sqlglot says of the first fault, without the terminal codes that mark its place."""
    faults = getattr(error, "errors", None)
    if not faults:
        return _first_line(error)
    what, near = str(faults[0].get("description")), faults[0].get("highlight")
    what = "an operand is missing" if what.startswith("Required keyword") else what
    return what + (f" near {quoted(near)}" if near else "")


def _first_line(error: Exception, width: int = 200) -> str:
    """The first line of another library's message, shortened."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return line if len(line) <= width else line[: width - 3] + "..."


def _check_columns(tree: Expr, table: pl.DataFrame, given: str) -> None:
    """Every column must be one of the table's; the message lists all that are not."""
    from sqlglot.expressions import Column

    columns = tree.find_all(Column)
    names = {".".join(part.name for part in column.parts) for column in columns}
    unknown = sorted(names - set(table.columns))
    if unknown:
        near = get_close_matches(unknown[0], table.columns, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"{given}: there is no column {', '.join(map(quoted, unknown[:5]))} in the item table; it has "
            f"{', '.join(table.columns)} (write text in 'single quotes'){hint}"
        )


def _check_nodes(tree: Expr, table: pl.DataFrame, given: str) -> None:
    """Every node must be allowed; those that take time are counted."""
    allowed, counted, text = _node_classes()
    operations = texts = wildcards = 0
    for node in tree.walk():
        if type(node) not in allowed:
            part = quoted(node.sql(comments=False))
            raise ConfigError(f"{given}: {part} is not allowed in a condition; allowed are {ALLOWED}")
        operations += type(node) in counted
        texts += CASE_COST if type(node).__name__ in CASE_CHANGES else type(node) in text
        wildcards += sum(node.name.count(sign) for sign in "%_") if type(node.parent).__name__ in PATTERNS else 0
        if (check := _CHECKS.get(type(node).__name__)) is not None:
            check(node, table, given)
    _check_counts(operations, texts, wildcards, given)


def _check_counts(operations: int, texts: int, wildcards: int, given: str) -> None:
    """The operations that a condition asks for are bounded, since its time grows with them."""
    for count, limit, what in (
        (operations, MAX_OPERATIONS, "operations (a list of values, `item_id IN (1, 2)`, is one)"),
        (texts, MAX_TEXT_OPERATIONS, "operations on text or lists (LOWER and UPPER count three times)"),
        (wildcards, MAX_WILDCARDS, "wildcards (% and _) in its patterns"),
    ):
        if count > limit:
            raise ConfigError(f"{given} has {count} {what}; at most {limit} are allowed")


@cache
def _node_classes() -> tuple[frozenset[type], frozenset[type], frozenset[type]]:
    """The classes of nodes that are allowed, those counted as operations, and those that read whole texts."""
    from sqlglot import expressions

    def classes(*names: str) -> frozenset[type]:
        return frozenset(getattr(expressions, name) for name in names)

    text = classes(*TEXT_OPERATIONS)
    counted = classes(*COMPARISONS, *ARITHMETIC, *DATES, "Coalesce") | text
    return classes(*VALUES) | counted, counted, text


def _check_pattern(node: Expr, table: pl.DataFrame, given: str) -> None:
    """A pattern is text that is written out."""
    if not getattr(node.expression, "is_string", False):
        raise ConfigError(f"{given}: {quoted(node.sql())} needs a pattern in 'single quotes' on its right side")


def _check_cast(node: Expr, table: pl.DataFrame, given: str) -> None:
    """A type is a plain one."""
    to = _type(node)
    if to.this.name not in CAST_TYPES or to.expressions or node.args.get("format"):
        raise ConfigError(
            f"{given}: {quoted(to.sql())} is not a type that CAST accepts; choose one of {', '.join(CAST_TYPES)}"
        )


def _type(cast: Expr) -> Expr:
    """The type that a CAST converts to."""
    found: Expr = cast.args["to"]
    return found


def _check_list(node: Expr, table: pl.DataFrame, given: str) -> None:
    """The right side of IN is a list of written values."""
    values = node.expressions
    if not values or not all(_is_written(value) for value in values):
        raise ConfigError(f"{given}: {quoted(node.sql())} needs a list of values, for example `year IN (1994, 1995)`")


def _check_numbers(node: Expr, table: pl.DataFrame, given: str) -> None:
    """Arithmetic takes numbers: on text it would build ever longer text."""
    for side in (node.this, node.args.get("expression")):
        if side is not None and not _is_number(side, table):
            raise ConfigError(f"{given}: {quoted(side.sql(comments=False))} is not a number")


_CHECKS: dict[str, Callable[[Expr, pl.DataFrame, str], None]] = {
    **dict.fromkeys(PATTERNS, _check_pattern),
    "Cast": _check_cast,
    "In": _check_list,
    **dict.fromkeys(ARITHMETIC, _check_numbers),
}


def _is_written(value: Expr) -> bool:
    """Whether a value is written out: a number, text, true, false or null."""
    kind = type(value).__name__
    return kind in ("Literal", "Boolean", "Null") or (kind == "Neg" and _is_written(value.this))


def _is_number(node: Expr, table: pl.DataFrame) -> bool:
    """Whether an expression is a number or a date, as far as its own node and the types of columns tell."""
    kind = type(node).__name__
    if kind == "Column":
        dtype = table.schema[node.name]
        return dtype.is_numeric() or dtype.is_temporal()
    if kind == "Literal":
        return not node.is_string
    if kind == "Paren":
        return _is_number(node.this, table)
    if kind == "Coalesce":
        return all(_is_number(part, table) for part in (node.this, *node.expressions))
    if kind == "Cast":
        return _type(node).this.name not in ("TEXT", "VARCHAR")
    return kind in (*ARITHMETIC, *DATES, "Length", "ArraySize")
