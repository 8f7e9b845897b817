"""Client: the service from Python, typed. It needs the extra `client` (httpx, pydantic), and neither torch nor polars.

    from palate.serving.client import Client

    with Client("http://127.0.0.1:8000") as palate:
        found = palate.recommend(196, k=5)
        palate.feedback(196, found.items[0].item_id, "like")

A request is sent again if the service is busy or starting (429, 503) or the connection breaks. Feedback carries an
idempotency key, so that it is stored once, however often it is sent.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from palate.errors import CannotAnswer, ConfigError, DataError, PalateError, UnknownId
from palate.extras import missing_extra
from palate.serving.schemas import (
    ExplainAnswer,
    FeedbackAnswer,
    PredictAnswer,
    RankAnswer,
    RecommendAnswer,
    SimilarAnswer,
    UndoAnswer,
)

if TYPE_CHECKING:
    import httpx

Id = str | int
FeedbackType = Literal["like", "rating", "not_interested", "seen"]
Unknown = Literal["error", "popularity"]
Found = TypeVar("Found", bound=BaseModel)

FIRST_WAIT, LONGEST_WAIT = 0.1, 10.0
"""Seconds before the first repetition of a request (later ones wait twice as long each), and at most."""
_AGAIN = (429, 503)
_ERRORS: dict[str, type[PalateError]] = {
    "unknown-id": UnknownId, "cannot-answer": CannotAnswer, "config-error": ConfigError, "data-error": DataError,
    "invalid-request": ConfigError,
}  # fmt: skip


class ServiceError(PalateError):
    """The service refused a request, failed, or cannot be reached.

    Args:
        detail: What it said.
        status: HTTP status; 0 if there was no answer.
        kind: The kind of problem, for example "unauthorized"; "" without an answer.
        request_id: For the logs of the service.
    """

    def __init__(self, detail: str, status: int = 0, kind: str = "", request_id: str = "") -> None:
        super().__init__(detail)
        self.status, self.kind, self.request_id = status, kind, request_id


class Client:
    """A connection to the service. Use it as a context manager, or close it. It may be shared by threads.

    Errors of a question are those of palate in Python: `UnknownId`, `ConfigError`, `DataError`, `CannotAnswer`. All
    others are `ServiceError`.

    Args:
        url: Address of the service.
        key: API key, if the service needs one.
        timeout: Seconds that a request may take.
        retries: How often a request is sent again.

    Raises:
        MissingExtra: httpx is not installed.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout: float = 10.0, retries: int = 4) -> None:
        try:
            import httpx
        except ImportError as error:
            raise missing_extra("the client needs httpx", "client") from error
        headers = {"Accept": "application/json"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
        # No proxies and keys from the environment: only what is said here is sent.
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False)
        self._broken, self.retries = httpx.TransportError, retries

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def recommend(
        self, user_id: Id | None = None, *, history: Sequence[Id] | None = None,
        ratings: Sequence[float] | None = None, features: Mapping[str, Any] | None = None, k: int = 10,
        exclude: Sequence[Id] = (), candidates: Sequence[Id] | None = None, include_seen: bool = False,
        filter: str | None = None, diversity: float = 0.0, familiarity: float = 0.0, recency: float = 0.0,
        explain: bool = False, fields: bool = False, unknown: Unknown = "error", model: str | None = None,
    ) -> RecommendAnswer:  # fmt: skip
        """Recommend k items to one person.

        Args:
            user_id: A user of the training data, or one with feedback.
            history: Item ids, oldest first: of a new user, or chosen since by `user_id`. Not stored.
            ratings: A rating for each item of `history`.
            features: Attributes of a new user: columns of the user table.
            k: List length.
            exclude, candidates: Items that the list may not hold, and all that it may hold.
            include_seen: Whether items of the history may be listed.
            filter: SQL condition on the columns of the item table.
            diversity: From 0, the best items, to 1, the most different ones.
            familiarity: From -1, less popular items, to 1, popular ones.
            recency: From -1, older items, to 1, newer ones.
            explain: Whether each item gets a sentence that says why.
            fields: Whether each item gets its columns.
            unknown: What becomes of a `user_id` of whom nothing is known.
            model: A name of `models`. Defaults to the first.
        """
        body = {
            "user_id": user_id, "history": _ids(history), "ratings": _ids(ratings), "features": features, "k": k,
            "exclude": list(exclude), "candidates": _ids(candidates), "include_seen": include_seen, "filter": filter,
            "diversity": diversity, "familiarity": familiarity, "recency": recency, "explain": explain,
            "fields": fields, "unknown": unknown, "model": model,
        }  # fmt: skip
        return self._ask(RecommendAnswer, "POST", "/v1/recommend", body)

    def rank(
        self, items: Sequence[Id], user_id: Id | None = None, *, history: Sequence[Id] | None = None,
        ratings: Sequence[float] | None = None, features: Mapping[str, Any] | None = None, drop_seen: bool = False,
        unknown: Unknown = "error", model: str | None = None,
    ) -> RankAnswer:  # fmt: skip
        """Order candidates for one person; unknown items are listed apart.

        Args:
            items: Item ids.
            user_id, history, ratings, features, unknown, model: As in `recommend`.
            drop_seen: Whether items of the history are left out.
        """
        body = {**_person(user_id, history, ratings, features, model), "items": list(items), "unknown": unknown}
        return self._ask(RankAnswer, "POST", "/v1/rank", body | {"drop_seen": drop_seen})

    def predict(
        self, items: Sequence[Id], user_id: Id | None = None, *, history: Sequence[Id] | None = None,
        ratings: Sequence[float] | None = None, features: Mapping[str, Any] | None = None, unknown: Unknown = "error",
        model: str | None = None,
    ) -> PredictAnswer:  # fmt: skip
        """Predict the ratings that one person would give.

        Args:
            items: Item ids.
            user_id, history, ratings, features, unknown, model: As in `recommend`.
        """
        body = {**_person(user_id, history, ratings, features, model), "items": list(items), "unknown": unknown}
        return self._ask(PredictAnswer, "POST", "/v1/predict", body)

    def similar(self, item_id: Id, k: int = 10, *, fields: bool = False, model: str | None = None) -> SimilarAnswer:
        """The k items most similar to an item.

        Args:
            item_id: The item.
            k: List length.
            fields, model: As in `recommend`.
        """
        query = _query(k=k, fields=fields, model=model)
        return self._ask(SimilarAnswer, "GET", f"/v1/similar/{_quoted(item_id)}", query=query)

    def explain(
        self, item_id: Id, user_id: Id | None = None, *, history: Sequence[Id] | None = None,
        ratings: Sequence[float] | None = None, features: Mapping[str, Any] | None = None, method: str | None = None,
        samples: int = 1000, kinds: Sequence[str] | None = None, counterfactual: bool = False, k: int = 10,
        top: int = 10, model: str | None = None,
    ) -> ExplainAnswer:  # fmt: skip
        """Explain why an item gets its score for one person.

        Args:
            item_id: The item.
            user_id, history, ratings, features, model: As in `recommend`.
            method, samples, kinds: As in `palate.explanation.explain.explain`.
            counterfactual: Whether to find what would remove the item from the person's list of k items.
            k: Length of that list.
            top: Most contributions in the answer.
        """
        body = {
            **_person(user_id, history, ratings, features, model), "item_id": item_id, "method": method,
            "samples": samples, "kinds": _ids(kinds), "counterfactual": counterfactual, "k": k, "top": top,
        }  # fmt: skip
        return self._ask(ExplainAnswer, "POST", "/v1/explain", body)

    def feedback(
        self, user_id: Id, item_id: Id, type: FeedbackType = "like", value: float | None = None, *,
        timestamp: int | None = None, mode: Literal["overwrite", "keep"] = "overwrite",
        idempotency_key: str | None = None,
    ) -> FeedbackAnswer:  # fmt: skip
        """Store feedback; it is on disk when this returns, and counts in the next list.

        Args:
            user_id, item_id: Whose feedback on what.
            type: like (watched, bought), rating (with `value`), not_interested, or seen (only leave the item out).
            value: The rating.
            timestamp: Seconds since 1970 UTC. Defaults to now.
            mode: Whether it replaces earlier feedback on the item.
            idempotency_key: Names this request, so that it is stored once. Defaults to a new one.
        """
        entry = {"user_id": user_id, "item_id": item_id, "type": type, "value": value, "timestamp": timestamp}
        return self.feedback_many([entry], mode=mode, idempotency_key=idempotency_key)

    def feedback_many(
        self, entries: Iterable[Mapping[str, Any]], *, mode: Literal["overwrite", "keep"] = "overwrite",
        idempotency_key: str | None = None,
    ) -> FeedbackAnswer:  # fmt: skip
        """Store many entries, all or none.

        Args:
            entries: Each with user_id, item_id and, if wanted, type, value and timestamp; at most 1,000.
            mode, idempotency_key: As in `feedback`.
        """
        body = {"feedback": [dict(entry) for entry in entries], "mode": mode}
        return self._ask(FeedbackAnswer, "POST", "/v1/feedback", body, key=idempotency_key or uuid.uuid4().hex)

    def undo(self, user_id: Id, item_id: Id) -> UndoAnswer:
        """Remove the feedback of a user on an item.

        Args:
            user_id, item_id: Whose feedback on what.
        """
        return self._ask(UndoAnswer, "DELETE", "/v1/feedback", {"user_id": user_id, "item_id": item_id})

    def user(self, user_id: Id) -> dict[str, Any]:
        """What is known of a user: training history, stored feedback, attributes.

        Args:
            user_id: The user.
        """
        return self._json("GET", f"/v1/users/{_quoted(user_id)}")

    def forget(self, user_id: Id) -> dict[str, Any]:
        """Remove all that is stored of a user.

        Args:
            user_id: The user.
        """
        return self._json("DELETE", f"/v1/users/{_quoted(user_id)}")

    def items(self, search: str = "", *, limit: int = 20, offset: int = 0) -> dict[str, Any]:
        """Search the catalogue.

        Args:
            search: Beginnings of words of a title or id. Defaults to all items, popular ones first.
            limit, offset: Which of them.
        """
        return self._json("GET", "/v1/items", query=_query(search=search, limit=limit, offset=offset))

    def item(self, item_id: Id) -> dict[str, Any]:
        """Everything that is shown of an item.

        Args:
            item_id: The item.
        """
        return self._json("GET", f"/v1/items/{_quoted(item_id)}")

    def add_items(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Add items that came after training.

        Args:
            items: The columns of the item table, with `item_id`.
        """
        return self._json("POST", "/v1/items", {"items": [dict(item) for item in items]}, again=False)

    def hide(self, item_id: Id, hidden: bool = True) -> dict[str, Any]:
        """Hide an item from all lists, or show it again.

        Args:
            item_id: The item.
            hidden: Whether it is hidden.
        """
        return self._json("PATCH", f"/v1/items/{_quoted(item_id)}", {"hidden": hidden})

    def onboard(self, k: int = 12, *, diversity: float = 0.5) -> dict[str, Any]:
        """Items to ask a new user about.

        Args:
            k: How many.
            diversity: From 0, the most informative ones, to 1, the most different ones.
        """
        return self._json("GET", "/v1/onboard", query=_query(k=k, diversity=diversity))

    def models(self) -> dict[str, Any]:
        """The models' cards: data, protocol, metrics with intervals."""
        return self._json("GET", "/v1/models")

    def ready(self) -> bool:
        """Whether the service is ready; false if it cannot be reached."""
        try:
            return self._http.get("/healthz/ready").status_code == 200
        except self._broken:
            return False

    def _ask(self, kind: type[Found], method: str, path: str, body: Any = None, **options: Any) -> Found:
        """The answer as an object of a class of `palate.serving.schemas`."""
        return kind.model_validate(self._json(method, path, body, **options))

    def _json(
        self, method: str, path: str, body: Any = None, *, query: Any = None, key: str | None = None, again: bool = True
    ) -> dict[str, Any]:
        """The answer; `again` says whether the request may be repeated although its answer was lost."""
        headers = {} if key is None else {"Idempotency-Key": key}
        body = None if body is None else {name: value for name, value in body.items() if value is not None}
        for attempt in range(self.retries + 1):
            last = attempt == self.retries
            wait = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT)
            try:
                response = self._http.request(method, path, json=body, params=query, headers=headers)
            except self._broken as error:
                if last or not again:
                    raise ServiceError(
                        f"no answer from {self._http.base_url}: {error or type(error).__name__}"
                    ) from None
            else:
                if response.is_success:
                    found: dict[str, Any] = response.json()
                    return found
                if last or response.status_code not in _AGAIN:
                    raise _error_of(response)
                wait = min(max(wait, float(response.headers.get("Retry-After", 0))), LONGEST_WAIT)
            time.sleep(wait)
        raise AssertionError("unreachable")


def _error_of(response: httpx.Response) -> PalateError:
    """The error that a problem document (RFC 9457) tells."""
    try:
        problem: dict[str, Any] = response.json()
        detail, kind = str(problem["detail"]), str(problem["type"]).rpartition(":")[2]
    except (ValueError, KeyError, TypeError):  # Something between us and the service answered.
        return ServiceError(f"HTTP status {response.status_code}: {response.text[:200]}", response.status_code)
    if (faults := problem.get("faults")) and len(faults) > 1:
        detail = "\n  - ".join([f"{len(faults)} faults", *map(str, faults)])
    if kind in _ERRORS:
        return _ERRORS[kind](detail)
    return ServiceError(detail, response.status_code, kind, str(problem.get("request_id", "")))


def _person(
    user_id: Id | None, history: Sequence[Id] | None, ratings: Sequence[float] | None,
    features: Mapping[str, Any] | None, model: str | None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "user_id": user_id, "history": _ids(history), "ratings": _ids(ratings), "features": features, "model": model,
    }  # fmt: skip


def _ids(values: Sequence[Any] | None) -> list[Any] | None:
    return None if values is None else list(values)


def _query(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _quoted(value: Id) -> str:
    return quote(str(value), safe="")
