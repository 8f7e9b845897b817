"""Frames of other libraries and queries -> polars frames."""

from __future__ import annotations

from typing import Any

import polars as pl

from palate.errors import DataError, MissingExtra


def read_frame(source: Any) -> pl.DataFrame:
    """A polars, pandas or Arrow frame (anything with `__arrow_c_stream__`) as polars.

    Raises:
        DataError: It is none of these.
        MissingExtra: pandas frames need pyarrow.
    """
    if isinstance(source, pl.LazyFrame):
        return source.collect()
    if isinstance(source, pl.DataFrame):
        return source
    try:
        if type(source).__module__.startswith("pandas"):
            return pl.from_pandas(source)
        if hasattr(source, "__arrow_c_stream__"):
            return pl.DataFrame(source)
    except ModuleNotFoundError as error:
        raise MissingExtra(f"a pandas frame needs the package {error.name}: pip install {error.name}") from error
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise DataError(f"the frame cannot be read: {short(error)}") from error
    raise DataError(
        f"a table cannot be read from {type(source).__name__}; give a path, a query (SELECT ...) or a polars, pandas "
        "or Arrow frame"
    )


def read_query(query: str, connection: Any) -> pl.DataFrame:
    """The rows of a query.

    Args:
        query: SQL.
        connection: SQLAlchemy URL or engine, DB-API or ADBC connection.

    Raises:
        DataError: There is no connection, or the database refuses.
        MissingExtra: A URL needs SQLAlchemy.
    """
    if connection is None:
        raise DataError("a query needs connection=: a SQLAlchemy URL or engine, or an ADBC connection")
    if not isinstance(connection, str):
        return _run_query(query, connection)
    try:
        import sqlalchemy
    except ModuleNotFoundError as error:
        raise MissingExtra("a query over a URL needs SQLAlchemy: pip install 'palate[sql]'") from error
    try:
        engine = sqlalchemy.create_engine(connection)
    except (sqlalchemy.exc.ArgumentError, ModuleNotFoundError) as error:
        raise DataError(f"connection is not a usable SQLAlchemy URL: {short(error)}") from error
    try:
        return _run_query(query, engine)
    finally:
        engine.dispose()


def _run_query(query: str, connection: Any) -> pl.DataFrame:
    try:
        return pl.read_database(query, connection, infer_schema_length=None)
    except Exception as error:  # each database driver has its own family of errors
        raise DataError(f"the query failed: {short(error)}") from error


def short(error: BaseException) -> str:
    """The first line of what an error says; palate's own messages say the rest."""
    return str(error).strip().split("\n")[0][:300]
