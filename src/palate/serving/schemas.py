"""What requests hold and answers give, as the OpenAPI document describes them.

Requests are checked strictly: an unknown field, a number as text or a number out of range is an error that names the
field. Answers are written without these classes, which only describe them; a test compares both.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

MAX_ID = 512
MAX_FEEDBACK = 1000
"""Entries of one request."""

_Number = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
_Text = Annotated[StrictStr, Field(max_length=MAX_ID, pattern=r"^[^\x00]*$")]
Id = Annotated[_Number | _Text, Field(description="As the training data has it: a whole number or text.")]
Finite = Annotated[StrictFloat | StrictInt, Field(allow_inf_nan=False)]
Share = Annotated[StrictFloat | StrictInt, Field(ge=0, le=1)]
Signed = Annotated[StrictFloat | StrictInt, Field(ge=-1, le=1)]
Cell = StrictStr | StrictBool | StrictInt | StrictFloat | None
Length = Annotated[StrictInt, Field(ge=1)]


class Strict(BaseModel):
    """A request body; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Person(Strict):
    """Whom a request is about: user_id, history or features; or user_id with a history that is newer than the store."""

    user_id: Id | None = Field(default=None, description="A user of the training data, or one with stored feedback.")
    history: list[Id] | None = Field(
        default=None, description="Item ids, oldest first; with user_id, items chosen since. Not stored."
    )
    ratings: list[Finite] | None = Field(default=None, description="A rating for each item of history.")
    features: dict[str, Cell | list[Cell]] | None = Field(
        default=None, description="Attributes of a new user: columns of the user table.", max_length=1000
    )
    model: StrictStr | None = Field(default=None, description="A name of GET /v1/models. Defaults to the first.")


class RecommendRequest(Person):
    """A list for one person."""

    k: Length = Field(default=10, description="List length.")
    exclude: list[Id] = Field(default=[], description="Items that the list may not hold.", max_length=10_000)
    candidates: list[Id] | None = Field(default=None, description="Items that the list may hold.", max_length=100_000)
    include_seen: StrictBool = Field(default=False, description="Whether items of the history may be listed.")
    filter: StrictStr | None = Field(
        default=None, description="SQL condition on the columns of the item table.", max_length=10_000
    )
    diversity: Share = Field(default=0.0, description="From 0, the best items, to 1, the most different ones.")
    familiarity: Signed = Field(default=0.0, description="From -1, less popular items, to 1, popular ones.")
    recency: Signed = Field(default=0.0, description="From -1, older items, to 1, newer ones.")
    explain: StrictBool = Field(default=False, description="Whether each item gets a sentence that says why.")
    fields: StrictBool = Field(default=False, description="Whether each item gets its columns and its poster.")
    unknown: Literal["error", "popularity"] = Field(
        default="error", description="What becomes of a user_id of whom nothing is known."
    )
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"user_id": 196, "k": 5},
                {"history": [50, 181], "ratings": [5, 4], "diversity": 0.3, "explain": True},
                {"features": {"age": 30, "occupation": "writer"}},
            ]
        }
    )


class RankRequest(Person):
    """Candidates to be ordered for one person."""

    items: list[Id] = Field(description="Items to order.", min_length=1, max_length=10_000)
    drop_seen: StrictBool = Field(default=False, description="Whether items of the history are left out.")
    fields: StrictBool = False
    unknown: Literal["error", "popularity"] = "error"
    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": 196, "items": [50, 181, 1]}]})


class PredictRequest(Person):
    """Items whose ratings are predicted for one person."""

    items: list[Id] = Field(description="Items to rate.", min_length=1, max_length=10_000)
    unknown: Literal["error", "popularity"] = "error"
    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": 196, "items": [50, 181]}]})


class ExplainRequest(Person):
    """Why one item gets its score."""

    item_id: Id
    method: StrictStr | None = Field(
        default=None, description="An explainer; defaults to the model's quickest exact one."
    )
    samples: Annotated[StrictInt, Field(ge=1, le=10_000)] = Field(default=1000, description="Of shap and lime.")
    kinds: list[Literal["history", "feature", "word", "region"]] | None = Field(
        default=None, description="What may be switched off."
    )
    counterfactual: StrictBool = Field(
        default=False, description="Whether to find what would remove the item from the list."
    )
    k: Annotated[StrictInt, Field(ge=1, le=1000)] = Field(default=10, description="Length of that list.")
    top: Annotated[StrictInt, Field(ge=1, le=1000)] = Field(default=10, description="Most contributions in the answer.")
    unknown: Literal["error", "popularity"] = "error"
    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": 196, "item_id": 50, "counterfactual": True}]})


class FeedbackEntry(Strict):
    """What a user says of an item."""

    user_id: Id
    item_id: Id
    type: Literal["like", "rating", "not_interested", "seen"] = Field(
        default="like", description="like: watched, bought, liked; rating: with value; seen: only leave the item out."
    )
    value: Finite | None = Field(default=None, description="The rating, within the rating scale.")
    timestamp: Annotated[StrictInt, Field(ge=0, lt=2**53)] | None = Field(
        default=None, description="Seconds since 1970 UTC; defaults to now."
    )


Mode = Annotated[Literal["overwrite", "keep"], Field(description="Whether an entry replaces an earlier one.")]
Key = Annotated[StrictStr, Field(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]


class FeedbackRequest(Strict):
    """Feedback: one entry, or many; stored as a whole or not at all."""

    user_id: Id | None = None
    item_id: Id | None = None
    type: Literal["like", "rating", "not_interested", "seen"] | None = None
    value: Finite | None = None
    timestamp: Annotated[StrictInt, Field(ge=0, lt=2**53)] | None = None
    feedback: list[FeedbackEntry] | None = Field(default=None, min_length=1, max_length=MAX_FEEDBACK)
    mode: Mode = "overwrite"
    idempotency_key: Key | None = None
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"user_id": 196, "item_id": 50, "type": "rating", "value": 4, "idempotency_key": "7c1f0a"},
                {"feedback": [{"user_id": 196, "item_id": 50, "type": "like"}], "mode": "keep"},
            ]
        }
    )


class Pair(Strict):
    """A user and an item."""

    user_id: Id
    item_id: Id


class UndoRequest(Strict):
    """Feedback to remove: of one pair of a user and an item, or of many."""

    user_id: Id | None = None
    item_id: Id | None = None
    feedback: list[Pair] | None = Field(default=None, min_length=1, max_length=MAX_FEEDBACK)
    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": 196, "item_id": 50}]})


class NewItems(Strict):
    """Items that came after training, with the columns of the item table."""

    items: list[dict[str, Cell | list[Cell]]] = Field(min_length=1, max_length=1000)
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [{"item_id": 9001, "title": "New film", "year": 2026}]}]}
    )


class ItemChange(Strict):
    """Whether an item is hidden from all lists."""

    hidden: StrictBool
    model_config = ConfigDict(json_schema_extra={"examples": [{"hidden": True}]})


class Answer(BaseModel):
    """What every answer of a model says."""

    route: str = Field(description="Who answered: known_user, history, content, popularity_within, popularity, ...")
    model: str
    model_id: str = Field(description="Changes with each new run and with added items.")
    model_age_s: int = Field(description="Seconds since the run was saved.")
    feedback_seen_until: str | None = Field(description="Feedback acknowledged before this time is in the answer.")
    request_id: str
    model_config = ConfigDict(protected_namespaces=())


class Listed(BaseModel):
    """An item of a list."""

    item_id: int | str
    title: str
    score: float
    rank: int
    reason: str | None = None
    fields: dict[str, Any] | None = None
    poster: str | None = None


class FeedbackUsed(BaseModel):
    """What became of the user's stored feedback."""

    stored: int
    folded_in: int
    excluded: int


class RecommendAnswer(Answer):
    """A list."""

    items: list[Listed]
    feedback: FeedbackUsed | None = None
    empty_reason: Literal["all_seen", "filter", "candidates", "excluded"] | None = None
    notes: list[str]
    k: int
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [{"item_id": 50, "title": "Star Wars (1977)", "score": 3.21, "rank": 1}],
                    "feedback": {"stored": 3, "folded_in": 2, "excluded": 3},
                    "empty_reason": None,
                    "notes": [],
                    "k": 1,
                    "route": "history",
                    "model": "mf",
                    "model_id": "3f9c01aa27be",
                    "model_age_s": 5231,
                    "feedback_seen_until": "2026-11-29T20:31:02.123Z",
                    "request_id": "6f1c2b7a9d0e4f11",
                }
            ]
        }
    )


class RankAnswer(Answer):
    """Candidates in order; unknown ones apart."""

    items: list[Listed]
    unknown_items: list[int | str]
    feedback: FeedbackUsed | None = None
    notes: list[str]


class Predicted(BaseModel):
    """A predicted rating."""

    item_id: int | str
    title: str | None
    prediction: float
    route: str


class PredictAnswer(Answer):
    """Predicted ratings, in the order of the request."""

    items: list[Predicted]
    rating_scale: tuple[float, float] | None
    feedback: FeedbackUsed | None = None


class SimilarAnswer(Answer):
    """Items similar to one item, by the cosine of their vectors."""

    item_id: int | str
    title: str
    items: list[Listed]


class Contribution(BaseModel):
    """A part of a score."""

    kind: str
    key: str
    label: str
    value: float
    error: float
    liked: bool
    shown: bool


class CounterfactualAnswer(BaseModel):
    """What would remove the item from the list."""

    k: int
    removed: list[dict[str, Any]] | None
    before: int
    after: int
    smallest: bool
    sentence: str
    reason: str


class ExplainAnswer(Answer):
    """A score as a sum: base + contributions + other + residual."""

    item_id: int | str
    title: str
    score: float
    rank: int | None
    sentence: str
    sentences: list[str]
    contributions: list[Contribution]
    base: float
    base_parts: list[dict[str, Any]]
    other: float
    residual: float
    method: str
    methods: list[str]
    fit: float | None
    notes: list[str]
    counterfactual: CounterfactualAnswer | None


class Previous(BaseModel):
    """The row that was there before."""

    type: str
    value: float | None
    timestamp: int


class FeedbackResult(BaseModel):
    """What became of an entry."""

    user_id: int | str
    item_id: int | str
    result: Literal["new", "overwritten", "kept", "removed", "absent"]
    previous: Previous | None


class FeedbackAnswer(BaseModel):
    """Feedback that is on disk."""

    accepted: int
    results: list[FeedbackResult]
    stored_at: str
    request_id: str


class UndoAnswer(BaseModel):
    """Feedback that was removed."""

    removed: int
    results: list[FeedbackResult]
    request_id: str


class ProblemDocument(BaseModel):
    """An error, as in RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    faults: list[str] | None = None
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:palate:error:unknown-id",
                    "title": "Unknown id",
                    "status": 404,
                    "detail": "unknown user 99999: not among the 943 users (ids here are whole numbers)",
                    "request_id": "6f1c2b7a9d0e4f11",
                }
            ]
        }
    )


class Anything(BaseModel):
    """An object; its members are described in the documentation of the service."""

    request_id: str
    model_config = ConfigDict(extra="allow")
