"""What users say, and what is stored of them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Header, Query, Request
from starlette.responses import Response

from palate.errors import ConfigError, DataError, UnknownId
from palate.recommender.one_list import query_of_user, route_of
from palate.serving.logs import timestamp
from palate.serving.problems import Problem
from palate.serving.replies import card_fields, reply, service_of
from palate.serving.schemas import (
    Anything,
    FeedbackAnswer,
    FeedbackEntry,
    FeedbackRequest,
    Key,
    Pair,
    UndoAnswer,
    UndoRequest,
)
from palate.serving.served import Served
from palate.serving.service import Service
from palate.serving.store import Change, Entry, Outcome, Row
from palate.serving.strict_route import StrictRoute

router = APIRouter(route_class=StrictRoute, prefix="/v1", tags=["Feedback"])
KeyHeader = Annotated[Key | None, Header(alias="Idempotency-Key", description="A repeated key changes nothing.")]


@router.post("/feedback", response_model=FeedbackAnswer)
async def give_feedback(request: Request, given: FeedbackRequest, key: KeyHeader = None) -> Response:
    """Store feedback; it is on disk when the answer comes, and counts in the next list, whichever worker makes it."""
    service = service_of(request)
    await service.stamp(None)
    served = service.run(None)
    now = int(time.time())
    entries = [_checked(served, entry, now) for entry in _entries(given)]
    change = Change(
        entries=entries,
        mode=given.mode,
        key=_key(request, key, given.idempotency_key),
        fingerprint=_fingerprint("POST", given.model_dump(exclude={"idempotency_key"})),
    )
    outcome = await service.write(change)
    for entry, (result, _) in zip(entries, outcome.results, strict=True):
        service.metrics.feedback.labels(entry.type, "replayed" if outcome.replayed else result).inc()
    pairs = [(entry.user_id, entry.item_id) for entry in entries]
    content = {
        "accepted": len(entries),
        "results": _results(served, pairs, outcome),
        "stored_at": timestamp(outcome.stored_ms / 1000),
    }
    return reply(request, content, {"Idempotency-Replayed": "true"} if outcome.replayed else None)


def _entries(given: FeedbackRequest) -> Sequence[FeedbackEntry]:
    """The entries of a request, one or many."""
    own = (given.user_id, given.item_id, given.type, given.value, given.timestamp)
    if given.feedback is not None:
        if any(value is not None for value in own):
            raise ConfigError("give one entry, or many in feedback, not both")
        return given.feedback
    if given.user_id is None or given.item_id is None:
        raise ConfigError("give user_id and item_id, or many entries in feedback")
    return [
        FeedbackEntry(
            user_id=given.user_id,
            item_id=given.item_id,
            type=given.type or "like",
            value=given.value,
            timestamp=given.timestamp,
        )
    ]


def _checked(served: Served, entry: FeedbackEntry, now: int) -> Entry:
    """An entry as it is stored.

    Raises:
        UnknownId: The item is not known.
        DataError: The id of the user is of the wrong type, or the rating is missing or outside the scale.
    """
    if served.user_index(entry.user_id) < 0:
        served.require_user_type(entry.user_id)
    served.require_item(entry.item_id)
    if (entry.value is not None) != (entry.type == "rating"):
        raise DataError(f"value goes with type = rating, and {entry.type} has {entry.value}; give both or neither")
    scale = served.rec.data.rating_scale
    if entry.value is not None and scale is not None and not scale[0] <= entry.value <= scale[1]:
        raise DataError(f"value = {entry.value:g} is outside the rating scale, {scale[0]:g} to {scale[1]:g}")
    value = None if entry.value is None else float(entry.value)
    when = now if entry.timestamp is None else entry.timestamp
    return Entry(str(entry.user_id), str(entry.item_id), entry.type, value, when)


def _key(request: Request, header: str | None, field: str | None) -> str:
    """The idempotency key, which is one API key's own; empty for none."""
    if header is not None and field is not None and header != field:
        raise ConfigError("the header Idempotency-Key and the field idempotency_key differ; give one of them")
    given = header or field
    return "" if given is None else f"{request.state.key.id}:{given}"


def _fingerprint(method: str, content: Any) -> str:
    return hashlib.sha256(orjson.dumps([method, content], option=orjson.OPT_SORT_KEYS)).hexdigest()


def _results(served: Served, pairs: Sequence[tuple[str, str]], outcome: Outcome) -> list[dict[str, Any]]:
    data = served.rec.data
    return [
        {"user_id": data.users.parse(user), "item_id": data.items.parse(item), "result": result, "previous": previous}
        for (user, item), (result, previous) in zip(pairs, outcome.results, strict=True)
    ]


@router.delete("/feedback", response_model=UndoAnswer)
async def undo_feedback(
    request: Request,
    given: Annotated[UndoRequest | None, Body()] = None,
    user_id: Annotated[str | None, Query(max_length=512)] = None,
    item_id: Annotated[str | None, Query(max_length=512)] = None,
    key: KeyHeader = None,
) -> Response:
    """Remove feedback of pairs of a user and an item, named in the body or the query; what is not there stays so."""
    service = service_of(request)
    served = service.run(None)
    if (user_id is None) != (item_id is None) or (given is None) == (user_id is None):
        raise ConfigError("name user_id and item_id, in the query or in the body")
    if given is None:
        users, items = served.rec.data.users, served.rec.data.items
        given = UndoRequest(user_id=users.parse(user_id or ""), item_id=items.parse(item_id or ""))
    pairs = list(given.feedback or ())
    if given.user_id is not None and given.item_id is not None and not pairs:
        pairs = [Pair(user_id=given.user_id, item_id=given.item_id)]
    elif given.user_id is not None or given.item_id is not None or not pairs:
        raise ConfigError("give user_id and item_id, or many pairs in feedback, not both")
    named = [(_text(one.user_id), _text(one.item_id)) for one in pairs]
    change = Change(removed=named, key=_key(request, key, None), fingerprint=_fingerprint("DELETE", given.model_dump()))
    outcome = await service.write(change)
    removed = sum(result == "removed" for result, _ in outcome.results)
    return reply(request, {"removed": removed, "results": _results(served, named, outcome)})


def _text(one: str | int) -> str:
    text = str(one)
    if "\x00" in text:
        raise DataError("an id cannot hold the character U+0000")
    return text


@router.get("/users/{user_id:path}", response_model=Anything)
async def get_user(
    request: Request,
    user_id: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    fields: bool = False,
) -> Response:
    """What is known of a user: the rows of training, the stored feedback, the attributes."""
    service = service_of(request)
    served = service.run(None)
    named = served.rec.data.users.parse(_text(user_id))
    stamp = await service.stamp(named)
    rows = await service.rows(named, stamp)
    user = served.user_index(named)
    if user < 0 and not rows:
        raise UnknownId(f"unknown user {named!r}: neither in the training data nor in the feedback store")
    query = query_of_user(served.rec, user)
    return reply(
        request,
        {
            "user_id": named,
            "known": user >= 0,
            "route": route_of(served.rec.model, query),
            "training": _training(served, user, limit, offset, fields),
            "feedback": {"count": stamp.rows, "items": _stored(served, rows, limit, offset, fields)},
            "attributes": _attributes(served, user),
        },
    )


def _training(served: Served, user: int, limit: int, offset: int, fields: bool) -> dict[str, Any]:
    """The known interactions of a user, newest first."""
    known = served.rec.known
    if user < 0:
        return {"count": 0, "items": []}
    start, stop = int(known.offsets[user]), int(known.offsets[user + 1])
    shown = range(stop - 1 - offset, max(start, stop - offset - limit) - 1, -1)
    items = []
    for row in shown:
        item = int(known.item[row])
        if item >= len(served.item_ids):  # Only the held-out part has it.
            one: dict[str, Any] = {"item_id": known.items.ids[item], "title": str(known.items.ids[item])}
        else:
            one = {"item_id": served.item_ids[item], "title": served.titles[item]}
            one |= card_fields(served, item) if fields else {}
        one["rating"] = None if known.rating is None else float(known.rating[row])
        one["timestamp"] = None if known.timestamp is None else int(known.timestamp[row])
        items.append(one)
    return {"count": stop - start, "items": items}


def _stored(served: Served, rows: Sequence[Row], limit: int, offset: int, fields: bool) -> list[dict[str, Any]]:
    """The stored feedback, newest first."""
    found = []
    for row in rows[::-1][offset : offset + limit]:
        item_id = served.rec.data.items.parse(row.item_id)
        item = served.item_index(item_id)
        one: dict[str, Any] = {"item_id": item_id, "title": served.titles[item] if item >= 0 else str(item_id)}
        one |= {"type": row.type, "value": row.value, "timestamp": row.timestamp}
        one["stored_at"] = timestamp(row.stored_ms / 1000)
        found.append(one | (card_fields(served, item) if fields and item >= 0 else {}))
    return found


def _attributes(served: Served, user: int) -> dict[str, Any] | None:
    table = served.rec.known.user_table
    if table is None or user < 0:
        return None
    row = table.row(user, named=True)
    return {name: served.plain(value) for name, value in row.items() if name != "user_id"}


@router.get("/users", response_model=Anything)
async def find_users(
    request: Request,
    search: Annotated[str, Query(max_length=512)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
) -> Response:
    """Users of the training data whose id begins with a text."""
    served = service_of(request).run(None)
    data = served.rec.data
    places = [place for place, text in enumerate(served.user_texts) if text.startswith(search)]
    counts = data.offsets[1:] - data.offsets[:-1]
    items = [
        {"user_id": data.users.ids[place], "interactions": int(counts[place])}
        for place in places[offset : offset + limit]
    ]
    return reply(request, {"total": len(places), "items": items})


@router.delete("/users/{user_id:path}", response_model=Anything)
async def forget_user(request: Request, user_id: str) -> Response:
    """Forget a user: remove all their feedback and the answers kept for their idempotency keys."""
    service: Service = service_of(request)
    served = service.run(None)
    named = served.rec.data.users.parse(_text(user_id))
    if len(str(named)) > 512:
        raise Problem("invalid-request", "an id has at most 512 characters")
    outcome = await service.write(Change(forget=str(named)))
    user = served.user_index(named)
    count = 0 if user < 0 else int(served.rec.known.offsets[user + 1] - served.rec.known.offsets[user])
    note = (
        f"The model in use was trained on {count:,} interactions of this user; retrain without them to forget these "
        "too."
    )
    content = {"user_id": named, "removed": outcome.removed, "in_training": count > 0, "notes": [note] * (count > 0)}
    return reply(request, content)
