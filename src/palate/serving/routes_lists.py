"""What models are asked: recommend, rank, predict, similar, explain."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import numpy as np
import torch
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from palate.device import on_cpu
from palate.errors import CannotAnswer, ConfigError
from palate.evaluation.measure import FALLBACK
from palate.explanation import EXPLAINERS
from palate.explanation.counterfactual import counterfactual
from palate.explanation.explain import explain
from palate.explanation.explanation import Explanation
from palate.explanation.players import DEFAULT_KINDS, game
from palate.ranking.ranked import INF
from palate.recommender.item_similarity import ITEM_VECTORS, item_similarity
from palate.recommender.one_list import route_of
from palate.serving import lists
from palate.serving.lists import Asked
from palate.serving.replies import answer_fields, cards, closed, list_body, reply, service_of
from palate.serving.schemas import (
    ExplainAnswer,
    ExplainRequest,
    Person,
    PredictAnswer,
    PredictRequest,
    RankAnswer,
    RankRequest,
    RecommendAnswer,
    RecommendRequest,
    SimilarAnswer,
)
from palate.serving.served import Served
from palate.serving.service import Service
from palate.serving.store import Stamp
from palate.serving.strict_route import StrictRoute

router = APIRouter(route_class=StrictRoute, prefix="/v1", tags=["Lists"])
K = Annotated[int, Query(ge=1, description="List length.")]
ModelName = Annotated[str | None, Query(description="A name of GET /v1/models.")]


def check_k(service: Service, k: int) -> None:
    """Refuse lists that are too long.

    Raises:
        ConfigError: k is above `Settings.max_k`.
    """
    if k > service.settings.max_k:
        raise ConfigError(f"k = {k} is out of range; lists have at most {service.settings.max_k:,} items")


def check_history(service: Service, who: Person) -> None:
    """Refuse histories that are too long.

    Raises:
        ConfigError: The history is longer than `Settings.max_history`.
    """
    if len(who.history or ()) > service.settings.max_history:
        raise ConfigError(
            f"history has {len(who.history or ()):,} items; at most {service.settings.max_history:,} are allowed"
        )


def cache_key(served: Served, asked: RecommendRequest) -> object:
    """What an answer depends on beside the store; None for answers that are not kept."""
    if asked.user_id is None or asked.history or asked.candidates is not None or len(asked.exclude) > 100:
        return None
    return (
        served.name, served.model_id, asked.user_id, asked.k, tuple(asked.exclude), asked.include_seen, asked.filter,
        asked.diversity, asked.familiarity, asked.recency, asked.explain, asked.fields, asked.unknown,
    )  # fmt: skip


def work_kind(asked: RecommendRequest, folded: bool) -> str:
    """A name for work that takes about equally long."""
    rules = asked.filter or asked.diversity or asked.familiarity or asked.recency
    return f"{'fold' if folded else 'known'}{' rules' if rules else ''}{' reasons' if asked.explain else ''}"


@router.post("/recommend", response_model=RecommendAnswer)
async def recommend(request: Request, asked: RecommendRequest) -> Response:
    """Recommend items to one person: a user, or somebody known by a history or by attributes.

    The stored feedback of a user is in the answer: everything that was acknowledged before the request.
    """
    service = service_of(request)
    check_k(service, asked.k)
    check_history(service, asked)
    seen_until = time.time()
    stamp = await service.stamp(asked.user_id)
    served = service.run(asked.model)
    key = cache_key(served, asked)
    body = None if key is None else service.cached(key, stamp)
    if body is None:
        body = await _list(service, served, asked, stamp)
        if key is not None:
            service.keep(key, stamp, body)
    return closed(served, body, request.state.request_id, None if asked.user_id is None else seen_until)


async def _list(service: Service, served: Served, asked: RecommendRequest, stamp: Stamp) -> bytes:
    """The list, computed."""
    rows = await service.rows(asked.user_id, stamp)

    def work() -> bytes:
        who = lists.person(served, asked, rows, asked.unknown)
        found = lists.recommend(served, who, asked)
        service.metrics.lists.labels(served.name, found.route).inc()
        service.metrics.listed.update(found.items)
        return list_body(served, found, who, asked.k, asked.user_id is not None, asked.fields)

    folded = bool(rows) or asked.history is not None or asked.features is not None
    return await service.compute(served, work_kind(asked, folded), work)


@router.get("/recommend/{user_id:path}", response_model=RecommendAnswer)
async def recommend_user(
    request: Request,
    user_id: str,
    k: K = 10,
    explain: bool = False,
    fields: bool = False,
    unknown: Literal["error", "popularity"] = "error",
    filter: Annotated[str | None, Query(max_length=10_000)] = None,
    diversity: Annotated[float, Query(ge=0, le=1)] = 0.0,
    familiarity: Annotated[float, Query(ge=-1, le=1)] = 0.0,
    recency: Annotated[float, Query(ge=-1, le=1)] = 0.0,
    include_seen: bool = False,
    model: ModelName = None,
) -> Response:
    """Recommend items to a user; as POST /v1/recommend."""
    served = service_of(request).run(model)
    asked = RecommendRequest(
        user_id=served.rec.data.users.parse(user_id), k=k, explain=explain, fields=fields, unknown=unknown,
        filter=filter, diversity=diversity, familiarity=familiarity, recency=recency, include_seen=include_seen,
        model=model,
    )  # fmt: skip
    return await recommend(request, asked)


async def _person(request: Request, who: Any) -> tuple[Service, Served, Asked, float | None]:
    """The service, the run, the person with their feedback, and until when feedback is seen."""
    service = service_of(request)
    check_history(service, who)
    seen_until = time.time()
    stamp = await service.stamp(who.user_id)
    served = service.run(who.model)
    rows = await service.rows(who.user_id, stamp)
    asked = await service.compute(served, "person", lambda: lists.person(served, who, rows, who.unknown))
    return service, served, asked, None if who.user_id is None else seen_until


def _used(who: Person, asked: Asked) -> dict[str, Any]:
    if who.user_id is None:
        return {}
    return {"feedback": {"stored": asked.stored, "folded_in": asked.folded_in, "excluded": len(asked.left_out)}}


@router.post("/rank", response_model=RankAnswer)
async def rank(request: Request, who: RankRequest) -> Response:
    """Order candidates for one person; items of the history stay unless `drop_seen`."""
    service, served, asked, seen_until = await _person(request, who)

    def work() -> dict[str, Any]:
        index = served.rec.data.items.index(who.items)
        known = np.unique(index[index >= 0])
        scores = served.rec.model.score(asked.query, torch.from_numpy(known))[0]
        keep = ~np.isin(known, np.array([*served.hidden.tolist(), *asked.left_out], dtype=np.int64))
        if who.drop_seen:
            keep &= ~np.isin(known, asked.query.history.values.numpy())
        else:
            keep |= np.isin(known, np.array(asked.left_out, dtype=np.int64))
        order = torch.argsort(-scores, stable=True).numpy()
        order = order[keep[order]]
        items = cards(served, known[order].tolist(), scores[order].tolist(), None, who.fields)
        unknown = [item for item, place in zip(who.items, index.tolist(), strict=True) if place < 0]
        return {"items": items, "unknown_items": unknown, **_used(who, asked), "notes": []}

    content = await service.compute(served, "rank", work)
    route = route_of(served.rec.model, asked.query)
    return reply(request, content | answer_fields(served, route, seen_until))


@router.post("/predict", response_model=PredictAnswer)
async def predict(request: Request, who: PredictRequest) -> Response:
    """Predict the ratings that one person would give; 409 if the model ranks items only."""
    service, served, asked, seen_until = await _person(request, who)

    def work() -> dict[str, Any]:
        model = served.rec.model
        index = served.rec.data.items.index(who.items)
        row = torch.zeros(len(index), dtype=torch.int64)
        found = model.predict(asked.query, torch.from_numpy(index), row).tolist()
        able = bool(model.answerable(asked.query)[0])
        route = route_of(model, asked.query)
        items = [
            {
                "item_id": item,
                "title": None if place < 0 else served.titles[place],
                "prediction": value,
                "route": route if able and place >= 0 else FALLBACK,
            }
            for item, place, value in zip(who.items, index.tolist(), found, strict=True)
        ]
        return {"items": items, "rating_scale": served.rec.data.rating_scale, **_used(who, asked)}

    content = await service.compute(served, "predict", work)
    route = route_of(served.rec.model, asked.query)
    return reply(request, content | answer_fields(served, route, seen_until))


@router.get("/similar/{item_id:path}", response_model=SimilarAnswer)
async def similar(request: Request, item_id: str, k: K = 10, fields: bool = False, model: ModelName = None) -> Response:
    """The items most similar to an item: the cosine of item vectors, or co-occurrence for models without any."""
    service = service_of(request)
    check_k(service, k)
    await service.stamp(None)
    served = service.run(model)
    item = served.require_item(served.rec.data.items.parse(item_id))

    def work() -> tuple[list[dict[str, Any]], str]:
        data = served.rec.data
        score, route = item_similarity(data, on_cpu(served.rec.model.item_vectors()), item)
        score = np.array(score, dtype=np.float64)
        score[[item, *served.hidden.tolist()]] = -INF
        best = np.argsort(-score, kind="stable")[:k]
        best = best[(score[best] > 0) | ((route == ITEM_VECTORS) & (score[best] > -INF))]
        return cards(served, best.tolist(), score[best].tolist(), None, fields), route

    items, route = await service.compute(served, "similar", work)
    content = {"item_id": served.item_ids[item], "title": served.titles[item], "items": items}
    return reply(request, content | answer_fields(served, route, None))


@router.post("/explain", response_model=ExplainAnswer)
async def explain_item(request: Request, who: ExplainRequest) -> Response:
    """Explain the score of one item: what adds to it, with the error of each number, and what would remove it."""
    service, served, asked, seen_until = await _person(request, who)
    item = served.require_item(who.item_id)

    def work() -> dict[str, Any]:
        rec, query = served.rec, asked.query
        if not bool(rec.model.answerable(query)[0]):
            raise CannotAnswer(
                "nothing is known about this person that the model could use, so the list is by popularity; "
                "give feedback or a history"
            )
        found = explain(rec.model, rec.data, query, item, who.method, who.samples, 0, who.kinds)
        removal = None
        if who.counterfactual:
            one = game(rec.model, rec.data, query, item, who.kinds or DEFAULT_KINDS)
            found_set = counterfactual(one, who.k)
            removed = None
            if found_set.removed is not None:
                pairs = zip(found_set.removed, found_set.labels, strict=True)
                removed = [{"item_id": key, "title": label} for key, label in pairs]
            names = ("k", "before", "after", "smallest", "reason")
            removal = {name: getattr(found_set, name) for name in names}
            removal |= {"removed": removed, "sentence": str(found_set)}
        return _explanation(found, who.top, who.k) | {"counterfactual": removal}

    # Never at once: how long it takes depends on the history.
    content = await service.compute(served, f"explain {request.state.request_id}", work)
    content = {"item_id": who.item_id, "title": served.titles[item], **content}
    return reply(request, content | answer_fields(served, route_of(served.rec.model, asked.query), seen_until))


def _explanation(found: Explanation, top: int, k: int) -> dict[str, Any]:
    """An explanation as JSON; see `ExplainAnswer`."""
    contributions, shown = found.of(), set(map(id, found.shown(top)))
    listed = [
        {
            "kind": one.kind, "key": "" if one.key is None else str(one.key), "label": one.label,
            "value": float(one.value), "error": float(one.error), "liked": one.liked, "shown": id(one) in shown,
        }
        for one in contributions[:top]
    ]  # fmt: skip
    return {
        "score": float(found.score),
        "rank": found.rank,
        "sentence": found.sentence(top, k),
        "sentences": found.reasons(top, k),
        "contributions": listed,
        "base": float(found.base),
        "base_parts": [{"label": one.label, "value": float(one.value)} for one in found.of("base")],
        "other": float(sum(one.value for one in contributions[top:])),
        "residual": float(found.residual),
        "method": found.method,
        "methods": list(EXPLAINERS),
        "fit": found.fit,
        "notes": list(found.notes),
    }
