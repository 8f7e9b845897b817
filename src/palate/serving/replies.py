"""Answers as JSON, written by hand where they are asked for most."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from palate.serving.lists import Asked, List
from palate.serving.logs import timestamp
from palate.serving.served import Served
from palate.serving.service import Service

JSON = "application/json"


def service_of(request: Request) -> Service:
    """The service of the application that got a request."""
    service: Service = request.app.state.service
    return service


def reply(request: Request, content: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """An answer with the request id."""
    body = orjson.dumps({**content, "request_id": request.state.request_id})
    return Response(body, media_type=JSON, headers=headers)


def answer_fields(served: Served, route: str, seen_until: float | None) -> dict[str, Any]:
    """What every answer of a model says; see `palate.serving.schemas.Answer`."""
    return {
        "route": route,
        "model": served.name,
        "model_id": served.model_id,
        "model_age_s": max(0, int(time.time() - served.saved_at)),
        "feedback_seen_until": None if seen_until is None else timestamp(seen_until),
    }


def list_body(served: Served, found: List, asked: Asked, k: int, by_user: bool, fields: bool) -> bytes:
    """A list as JSON without what changes from answer to answer, open at its end."""
    if fields or found.reasons is not None:
        items = orjson.dumps(cards(served, found.items, found.scores, found.reasons, fields))
    else:
        listed = zip(found.items, found.scores, strict=True)
        # 9 digits are all that a float32 has.
        pieces = [b'%b,"score":%.9g,"rank":%d}' % (served.head(i), s, n) for n, (i, s) in enumerate(listed, 1)]
        items = b"[" + b",".join(pieces) + b"]"
    rest: dict[str, Any] = {"empty_reason": found.empty_reason, "notes": found.notes, "k": k, "route": found.route}
    if by_user:
        used = {"stored": asked.stored, "folded_in": asked.folded_in, "excluded": len(asked.left_out)}
        rest = {"feedback": used, **rest}
    rest |= {"model": served.name, "model_id": served.model_id}
    return b'{"items":' + items + b"," + orjson.dumps(rest)[1:-1]


def closed(served: Served, body: bytes, request_id: str, seen_until: float | None) -> Response:
    """A list with its age, until when feedback is in it, and the request id."""
    age = max(0, int(time.time() - served.saved_at))
    until = b"null" if seen_until is None else b'"%b"' % timestamp(seen_until).encode()
    end = b',"model_age_s":%d,"feedback_seen_until":%b,"request_id":"%b"}' % (age, until, request_id.encode())
    return Response(body + end, media_type=JSON)


def cards(
    served: Served, items: Sequence[int], scores: Sequence[float], reasons: Sequence[str] | None, fields: bool
) -> list[dict[str, Any]]:
    """Items of a list, with reasons and fields if asked for."""
    found = []
    for place, (item, score) in enumerate(zip(items, scores, strict=True)):
        one = {"item_id": served.item_ids[item], "title": served.titles[item], "score": score, "rank": place + 1}
        if reasons is not None:
            one["reason"] = reasons[place]
        found.append(one | card_fields(served, item) if fields else one)
    return found


def card_fields(served: Served, item: int) -> dict[str, Any]:
    """The columns of an item and the address of its poster."""
    return {"fields": served.fields(item), "poster": served.poster_url(item)}
