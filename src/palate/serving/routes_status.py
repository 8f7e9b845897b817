"""About the service: models, what a key may do, health, numbers."""

from __future__ import annotations

import os

from fastapi import APIRouter, Request
from starlette.responses import Response

from palate.serving.card import card
from palate.serving.keys import SCOPES
from palate.serving.problems import Problem
from palate.serving.replies import reply, service_of
from palate.serving.schemas import Anything
from palate.serving.strict_route import StrictRoute

router = APIRouter(route_class=StrictRoute, tags=["Service"])
WORKERS = "PALATE_WORKERS"
"""Environment variable with the number of workers, set by the command."""


@router.get("/v1/models", response_model=Anything)
async def models(request: Request) -> Response:
    """The card of each model: data, protocol, metrics with intervals, slices, learning curve, limits."""
    service = service_of(request)
    await service.stamp(None)
    runs = list(service.runs.values())
    default = runs[0]
    cards = [await service.compute(one, "card", lambda one=one: card(one)) for one in runs]  # type: ignore[misc]
    data = default.rec.data
    return reply(
        request,
        {
            "default": default.name,
            "names": [one.name for one in runs],
            "models": cards,
            "user_id_type": "string" if data.users.is_text else "integer",
            "item_id_type": "string" if data.items.is_text else "integer",
            "rating_scale": data.rating_scale if data.rating is not None else None,
            "notes": service.notes,
        },
    )


@router.get("/v1/session", response_model=Anything)
async def session(request: Request) -> Response:
    """What the caller may do: whether a key is needed, and the scopes of the one that was sent."""
    service = service_of(request)
    try:
        key = await service.key_of(dict(request.scope["headers"]))
    except Problem as problem:
        if problem.kind != "unauthorized":
            raise
        return reply(request, {"auth_required": True, "scopes": []})
    scopes = [scope for scope in SCOPES if scope in key.scopes]
    return reply(request, {"auth_required": service.keys.needed, "scopes": scopes})


@router.get("/v1/stats", response_model=Anything)
async def stats(request: Request) -> Response:
    """Requests, latency and coverage of the worker that answers; /metrics has those of all."""
    service = service_of(request)
    rows = await service.read(service.store.count)
    served = service.run(None)
    listed = len(service.metrics.listed)
    summary = service.metrics.summary() | {
        "worker": os.getpid(),
        "workers": int(os.environ.get(WORKERS, "1")),
        "feedback_rows": rows,
        "store": service.store.engine.dialect.name,
        "coverage": {"items_listed": listed, "share": round(listed / served.rec.data.n_items, 4)},
    }
    return reply(request, summary)


@router.get("/healthz/live", response_model=Anything)
async def live(request: Request) -> Response:
    """Whether the process answers."""
    return reply(request, {"status": "live"})


@router.get("/healthz/ready", response_model=Anything)
async def ready(request: Request) -> Response:
    """Whether models are loaded and the store can be read."""
    service = service_of(request)
    await service.stamp(None)
    ids = {name: served.model_id for name, served in service.runs.items()}
    return reply(request, {"status": "ready", "models": list(ids), "model_ids": ids, "store": "ok"})


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Numbers of all workers for Prometheus."""
    service = service_of(request)
    text = await service.read_slowly(service.metrics.text)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
