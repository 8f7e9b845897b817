"""The catalogue: search, cards, posters, new and hidden items, onboarding, the map."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from palate.errors import CannotAnswer, DataError
from palate.recommender.cold_start import earlier_notes
from palate.recommender.onboarding import onboard
from palate.serving import catalogue
from palate.serving.problems import Problem
from palate.serving.replies import JSON, reply, service_of
from palate.serving.routes_lists import K, ModelName, check_k
from palate.serving.schemas import Anything, ItemChange, NewItems
from palate.serving.served import table_of
from palate.serving.service import Service
from palate.serving.store import add_items, hide_item
from palate.serving.strict_route import StrictRoute

router = APIRouter(route_class=StrictRoute, prefix="/v1", tags=["Items"])
IMAGE_TYPES = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}
"""How a file begins -> its type."""


@router.get("/items", response_model=Anything)
async def find_items(
    request: Request,
    search: Annotated[str, Query(max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    hidden: bool = False,
    sort: Literal["popular", "title"] = "popular",
    id: Annotated[list[str], Query(max_length=1000)] = [],  # noqa: B006 - FastAPI copies it
    model: ModelName = None,
) -> Response:
    """Items whose title or id has words that begin with the words searched for; most popular first.

    With `id`, which may be repeated, the items of these ids in this order instead; ids that are not known are left out.
    """
    service = service_of(request)
    await service.stamp(None)
    served = service.run(model)
    if id and (search or hidden or sort != "popular"):
        raise Problem("invalid-request", "id= names the items: leave out search, hidden and sort")
    if id:
        found = catalogue.of_ids(served, id)
    else:
        found = await service.compute(served, "search", lambda: catalogue.find(served, search, sort == "title", hidden))
    items = [catalogue.item_card(served, item) for item in found[offset : offset + limit]]
    fields = [{"name": name, "kind": served.kinds[name]} for name in served.card_columns]
    return reply(request, {"total": len(found), "items": items, "fields": fields})


@router.post("/items", response_model=Anything)
async def new_items(request: Request, given: NewItems) -> Response:
    """Add items that came after training; they are recommended by their features."""
    service = service_of(request)
    await service.stamp(None)
    for row in given.items:
        item_id = row.get("item_id")
        if type(item_id) not in (int, str) or "\x00" in str(item_id) or len(str(item_id)) > 512:
            raise DataError(f"each item needs an item_id, a whole number or text; one has {item_id!r}")
    able = [served for served in service.runs.values() if "new_item" in served.rec.model.answers]
    if not able:
        raise CannotAnswer("no model that is served can score new items: they know items by their interactions alone")
    before = able[0].rec.data
    added = await service.compute(able[0], "add", lambda: able[0].rec.add_items(table_of(given.items)))
    if known := len(given.items) - (added.data.n_items - before.n_items):
        raise DataError(f"{known:,} of {len(given.items):,} items are known already; leave them out")
    rows = [(str(row["item_id"]), json.dumps(row, ensure_ascii=False)) for row in given.items]
    await service.transact(lambda connection: add_items(connection, rows))
    await service.stamp(None)
    notes = list(added.data.notes[len(earlier_notes(before)) :])
    served = service.run(able[0].name)
    content = {"added": len(rows), "n_items": served.rec.data.n_items, "notes": notes, "model_id": served.model_id}
    return reply(request, content)


@router.get("/items/{item_id:path}/poster", response_class=Response)
async def poster(request: Request, item_id: str, model: ModelName = None) -> Response:
    """The picture of an item."""
    served = service_of(request).run(model)
    item = served.require_item(served.rec.data.items.parse(item_id))
    table, column = served.rec.data.item_table, served.poster_column
    image = None if table is None or column is None else table[column][item]
    kind = next((kind for start, kind in IMAGE_TYPES.items() if image is not None and image.startswith(start)), None)
    if image is None or kind is None:
        raise Problem("not-found", "this item has no picture")
    return Response(image, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})


@router.get("/items/{item_id:path}", response_model=Anything)
async def get_item(request: Request, item_id: str, model: ModelName = None) -> Response:
    """Everything that is shown of an item."""
    service = service_of(request)
    await service.stamp(None)
    served = service.run(model)
    item = served.require_item(served.rec.data.items.parse(item_id))
    return reply(request, catalogue.item_card(served, item) | {"mean_rating": catalogue.mean_rating(served, item)})


@router.patch("/items/{item_id:path}", response_model=Anything)
async def change_item(request: Request, item_id: str, change: ItemChange) -> Response:
    """Hide an item from all lists of all workers, or show it again."""
    service: Service = service_of(request)
    await service.stamp(None)
    served = service.run(None)
    named = served.rec.data.items.parse(item_id)
    served.require_item(named)
    await service.transact(lambda connection: hide_item(connection, str(named), change.hidden))
    await service.stamp(None)
    served = service.run(None)
    return reply(request, catalogue.item_card(served, served.require_item(named)))


@router.get("/onboard", response_model=Anything)
async def onboarding(
    request: Request, k: K = 12, diversity: Annotated[float, Query(ge=0, le=1)] = 0.5, model: ModelName = None
) -> Response:
    """Items to ask a new user about: those whose answers say most."""
    service = service_of(request)
    check_k(service, k)
    await service.stamp(None)
    served = service.run(model)

    def work() -> list[dict[str, Any]]:
        hidden = set(served.hidden.tolist())
        found = onboard(served.rec, min(k + len(hidden), served.rec.data.n_items), diversity)
        rows = zip(found["item_id"].to_list(), found["information"].to_list(), found["entropy"].to_list(), strict=True)
        asked = [(served.item_index(item), information, entropy) for item, information, entropy in rows]
        return [
            catalogue.item_card(served, item) | {"information": round(information, 3), "entropy": round(entropy, 3)}
            for item, information, entropy in asked
            if item not in hidden
        ][:k]

    return reply(request, {"items": await service.compute(served, "onboard", work)})


@router.get("/schema", response_model=Anything)
async def schema(request: Request, model: ModelName = None) -> Response:
    """The columns of items and users with their values: what filters and forms need."""
    service = service_of(request)
    served = service.run(model)
    found = await service.compute(served, "schema", lambda: catalogue.schema(served))
    return reply(request, {**found, "run": served.folder.name if served.folder else served.name})


@router.get("/map", response_model=Anything)
async def item_map(
    request: Request, limit: Annotated[int, Query(ge=1, le=50_000)] = 20_000, model: ModelName = None
) -> Response:
    """A map of the catalogue in two dimensions: items with similar vectors lie close together."""
    service = service_of(request)
    await service.stamp(None)
    served = service.run(model)
    tag = f'"{served.model_id}-{limit}-{service.catalogue}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)

    def work() -> bytes:
        found = catalogue.item_map(served)
        order = found["order"][~np.isin(found["order"], served.hidden.numpy())]
        places = order[:limit]
        groups = found["groups"]
        content = {
            "method": found["method"],
            "explained": found["explained"],
            "total": len(order),
            "item_ids": [served.item_ids[place] for place in places.tolist()],
            "titles": [served.titles[place] for place in places.tolist()],
            "x": found["x"][places],
            "y": found["y"][places],
            "popularity": np.round(catalogue.popularity(served)[places], 4),
            "group_name": found["group_name"],
            "groups": None if groups is None else [groups[place] for place in places.tolist()],
            "request_id": request.state.request_id,
        }
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)

    return Response(await service.compute(served, f"map {tag}", work), media_type=JSON, headers=headers)
