"""create_app(): the application of the service."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from palate import __version__
from palate.errors import PalateError
from palate.recommender.recommender import Recommender
from palate.serving import routes_feedback, routes_items, routes_lists, routes_status
from palate.serving.guard import Guard
from palate.serving.openapi import DESCRIPTION, complete
from palate.serving.problems import MAX_FAULTS, Problem
from palate.serving.served import Served, load_run, prepared
from palate.serving.service import Service
from palate.serving.settings import Settings
from palate.serving.store import Store
from palate.serving.watch import Watch

STATIC = Path(__file__).parent / "static"
Run = str | Path | Recommender


def create_app(
    runs: Run | Sequence[Run], settings: Settings | None = None, *, watch: str | Path | None = None
) -> FastAPI:
    """The application: any ASGI server can run it.

    Args:
        runs: Folders of runs, or recommenders; the first one is the default. All need the same ids.
        settings: Settings. Defaults to a store beside the first run; without a folder, a temporary one.
        watch: A folder of runs, or a run: its newest run takes the place of the first one when it is complete.

    Raises:
        ArtifactError: A run cannot be loaded.
        ConfigError: A setting is not valid, or the store cannot be opened.
        MissingExtra: The extra `serve` is not installed.
    """
    settings = settings or Settings()
    torch.set_num_threads(1)  # Threads of torch would wait for each other, and the event loop for them.
    given = [runs] if isinstance(runs, (str, Path, Recommender)) else list(runs)
    served = load_all(given, settings)
    temporary = None
    url = settings.store
    if url is None and served[0].folder is not None:
        url = store_beside(served[0].folder)
    if url is None:
        temporary = TemporaryDirectory(prefix="palate-store-")
        url = f"sqlite:///{temporary.name}/feedback.db"
    service = Service(served, settings, Store(url))
    watcher = None if watch is None else Watch(service, Path(watch), served[0])
    return _application(service, watcher, temporary)


def store_beside(folder: Path) -> str:
    """The store of a run that no store was named for."""
    folder = folder.resolve()
    return f"sqlite:///{folder.with_name(f'{folder.name}.feedback.db')}"


def load_all(runs: Sequence[Run], settings: Settings) -> list[Served]:
    """Load runs; those of the same model are numbered."""
    found: list[Served] = []
    for run in runs:
        if isinstance(run, Recommender):
            loaded = prepared(run, run.name, f"memory-{len(found)}", time.time(), None, settings.exact_items)
        else:
            loaded = load_run(Path(run), None, settings.exact_items)
        names = [one.name for one in found]
        number = 2
        while loaded.name in names:
            loaded = loaded.renamed(f"{loaded.rec.name}-{number}")
            number += 1
        found.append(loaded)
    return found


def _application(service: Service, watcher: Watch | None, temporary: Any) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if watcher is not None:
            watcher.start()
        try:
            yield
        finally:
            if watcher is not None:
                await watcher.stop()
            service.close()
            if temporary is not None:
                temporary.cleanup()

    # No pages of documentation: they would load scripts from elsewhere.
    app = FastAPI(
        title="palate", version=__version__, description=DESCRIPTION, lifespan=lifespan, docs_url=None,
        redoc_url=None, openapi_url="/openapi.json", redirect_slashes=False, openapi_tags=[],
    )  # fmt: skip
    app.state.service = service
    for routes in (routes_lists, routes_feedback, routes_items, routes_status):
        app.include_router(routes.router)
    app.mount("/static", StaticFiles(directory=STATIC, check_dir=False), name="static")
    app.add_api_route("/", _page, include_in_schema=False, methods=["GET", "HEAD"])
    app.add_exception_handler(PalateError, _palate_error)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    complete(app)
    app.add_middleware(Guard, service=service)
    return app


async def _page() -> Response:
    page = STATIC / "index.html"
    if not page.is_file():
        raise Problem("not-found", "the page is not installed")
    return FileResponse(page, headers={"Cache-Control": "no-cache"})


async def _palate_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PalateError)
    return Problem.of(error).response(request.state.request_id)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response(request.state.request_id)


async def _invalid(request: Request, error: Exception) -> Response:
    """Faults of a body or of parameters, each with the name of the field."""
    assert isinstance(error, (RequestValidationError, ValidationError))
    # An error of a value that the path or the query held names its field alone.
    within = isinstance(error, RequestValidationError)
    errors = [{**one, "loc": one["loc"][1:] if within else one["loc"]} for one in error.errors()]
    if any(one["type"] == "json_invalid" for one in errors):
        reason = errors[0].get("ctx", {}).get("error", "")
        return Problem("bad-json", f"the body is not valid JSON: {reason}").response(request.state.request_id)
    faults = list(dict.fromkeys(_fault(one) for one in errors))
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    problem = Problem("invalid-request", f"{faults[0]}{more}", faults=faults[:MAX_FAULTS])
    return problem.response(request.state.request_id)


def _fault(one: Any) -> str:
    place = ".".join(str(part) for part in one["loc"] if not str(part).startswith("constrained")) or "the body"
    if one["type"] == "extra_forbidden":
        return f"{place}: there is no such field"
    if one["type"] == "missing":
        return f"{place}: this is needed"
    return f"{place}: {one['msg']}"[:300]


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        response = Problem("method-not-allowed", f"{request.method} is not possible here").response(
            request.state.request_id
        )
        response.headers.update(error.headers or {})
        return response
    kind = {404: "not-found", 400: "bad-json"}.get(error.status_code, "invalid-request")
    detail = "there is nothing at this address" if kind == "not-found" else "the body cannot be read as JSON"
    return Problem(kind, detail).response(request.state.request_id)
