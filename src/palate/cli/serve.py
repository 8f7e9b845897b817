"""`palate serve`, `palate feedback export` and `palate keys`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App

from palate.cli import Flat, Switch
from palate.errors import ConfigError
from palate.extras import require
from palate.serving.settings import Place, Settings


def serve(
    *runs: Path,
    watch: Path | None = None,
    mcp: Annotated[bool, Switch] = False,
    place: Annotated[Place, Flat] = Place(),  # noqa: B008
    settings: Annotated[Settings, Flat] = Settings(),  # noqa: B008
) -> None:
    """Serve trained recommenders over HTTP, with a web page; feedback counts in the next list.

    Args:
        runs: Folders that palate train or Recommender.save wrote; the first one answers unless a request names another.
        watch: A run that is replaced from time to time, or a folder of runs: the newest run takes the place of the
            first one as soon as it is complete. Without RUNS, it is served from the start.
        mcp: Speak the Model Context Protocol on standard input and output, for assistants, instead of HTTP.
    """
    _require_service()
    if mcp:
        import asyncio

        from palate.serving.mcp import serve_mcp

        if place != Place() or watch is not None or not runs:
            raise ConfigError("--mcp serves RUN on standard input and output: name RUN, and leave out what HTTP needs")
        asyncio.run(serve_mcp(runs, settings))
        return
    from palate.serving.server import serve as serve_runs

    serve_runs(runs, place, settings, watch)


def _require_service() -> None:
    """The commands of this file can be read without the extra `serve`, and do nothing without it."""
    http = ("fastapi", "httptools", "limits", "pydantic", "uvicorn")
    for package in (*http, "orjson", "prometheus_client", "sqlalchemy"):
        require(package, f"the service needs {package}", "serve")


feedback = App(name="feedback", help="The feedback that the service stored.")
keys = App(name="keys", help="API keys of the service.")


@feedback.command
def export(
    run: Path,
    out: Path,
    *,
    store: str | None = None,
    all: Annotated[bool, Switch] = False,
) -> None:
    """Write stored feedback as a table of interactions: for palate update, or for training again.

    Likes and ratings become rows. If the run has ratings, a like counts as in the lists: halfway from the mean rating
    to the top of the scale.

    Args:
        run: The run that was served: its kind of ids and ratings.
        out: File to write: .csv or .parquet.
        store: The store, as a database URL. Defaults to the file beside RUN.
        all: Also write what is only left out (not_interested, seen), with a column type and without filling ratings.
    """
    _require_service()
    from palate.serving.export import interactions

    if out.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"{out}: the name of the file must end in .csv or .parquet")
    found = interactions(run, store, all)
    if out.suffix == ".csv":
        found.write_csv(out)
    else:
        found.write_parquet(out)
    print(f"wrote {found.height:,} rows to {out}")


@keys.command
def add(name: str, *, store: str, scope: list[Literal["read", "write", "admin"]] | None = None) -> None:
    """Make an API key. It is shown once; the store keeps a hash.

    Args:
        name: Whom it is for.
        store: The store, as a database URL, for example sqlite:///runs/mf.feedback.db.
        scope: What it allows; may be given several times. read: lists and users; write: feedback; admin: items.
            Defaults to read and write.
    """
    _require_service()
    from palate.serving.keys import add_key
    from palate.serving.store import Store

    opened = Store(store)
    try:
        print(add_key(opened.engine, name, scope or ["read", "write"]))
    finally:
        opened.close()


@keys.command(name="list")
def list_keys(*, store: str) -> None:
    """List API keys, without their secrets.

    Args:
        store: The store, as a database URL.
    """
    _require_service()
    import time

    from palate.cli.show import table
    from palate.serving.keys import read_keys
    from palate.serving.store import Store

    opened = Store(store)
    try:
        found = read_keys(opened.reader)
    finally:
        opened.close()
    rows = [
        (key.id, key.name, " ".join(sorted(key.scopes)), time.strftime("%Y-%m-%d", time.gmtime(key.created)))
        for key in found
    ]
    print(table(["id", "name", "scopes", "created"], rows) if rows else "no API keys: everybody who reaches it may ask")


@keys.command
def revoke(key_id: str, *, store: str) -> None:
    """Remove an API key; workers refuse it within a few seconds.

    Args:
        key_id: Its id, as palate keys list shows it.
        store: The store, as a database URL.
    """
    _require_service()
    from palate.serving.keys import revoke_key
    from palate.serving.store import Store

    opened = Store(store)
    try:
        revoke_key(opened.engine, key_id)
    finally:
        opened.close()
    print(f"revoked {key_id}")
