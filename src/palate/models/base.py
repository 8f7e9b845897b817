"""Model and GradientModel: the only abstract classes. The public method checks, the private hook computes.

Legend: B queries, N items, I items asked about, P pairs.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from palate.config import Recipe, Training
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.encoded import Encoded
from palate.data.queries import FEATURES
from palate.errors import CannotAnswer, DataError
from palate.models.fallback import Fallback
from palate.training.loop import Epoch, Job, run
from palate.training.losses import Link


class Model(nn.Module, ABC):
    """A recommender over indices. Built from counts alone, so that loading needs no data.

    Subclasses are final. They set the class constants, build their tensors in `__init__` (what `state_dict` holds is
    saved) and write `_fit` and `_score`.

    Attributes:
        Config: The frozen dataclass of the model's settings.
        needs: Of interactions, rating, time, item_features, user_features, item_text, item_image: what data must hold.
        answers: Which questions can be asked: subset of known_user, history, new_item, new_user, similar_items, rating.
            On the class: under some config; on an instance: under its own.
        remedy: What to do when the data lacks what the model needs; ends the message.
        confidence: What makes a score the model's confidence in an item.
        recipe: How it is trained where nothing else is said; of models with members a `Training` that is open.
        reads_user: Whether scores go by users' attributes though a person known only by them is not answered.
        grown: Names of buffers whose size only `_fit` knows (a sparse matrix); they are empty before.
    """

    Config: ClassVar[type[Any]]
    needs: frozenset[str] = frozenset({"interactions"})
    answers: frozenset[str] = frozenset({"known_user"})
    remedy: str = ""
    confidence: Link = "score"
    recipe: Training = Recipe()
    reads_user: bool = False
    grown: tuple[str, ...] = ()

    def __init__(self, config: Any, spec: Spec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.fallback = Fallback(spec)

    @classmethod
    def spec_of(cls, data: Dataset) -> Spec:
        """What a model of this class is built from: counts, what it needs to know of features, users' attributes."""
        return data.described if cls.needs & FEATURES else replace(data.spec, user_features=data.user_side.attributes)

    @final
    def fit(self, data: Dataset, training: Training | None = None, validate: Any = None, **job: Any) -> list[Epoch]:
        """Learn from training data.

        Args:
            data: Must provide all of `needs` and agree with `spec`.
            training: How; what it leaves open is the model's `recipe`.
            validate: A `palate.training.loop.Validate` made from the `valid` part; chooses the epoch.
            job: `checkpoint` and `on_epoch`, as in `palate.training.loop.Job`.

        Returns:
            One record for each epoch; closed-form models return none.

        Raises:
            DataError: The data lacks something the model needs, or is not the data it was sized for.
            TrainingError: The loss is no longer a number.
        """
        self._check(data)
        training = (training or Training()).filled(self.recipe)
        # torch's dropout and initialisers know only the global generator: fork it, so that the caller's is left alone.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            rng = torch.Generator().manual_seed(training.seed)
            self.fallback.learn(data)
            records = self._fit(data, Job(training=training, rng=rng, validate=validate, **job))
        self.eval()
        return records

    def _check(self, data: Dataset) -> None:
        name, remedy = type(self).__name__, self.remedy and f"; {self.remedy}"
        try:
            data.require(self.needs, name)
        except DataError as error:
            raise DataError(f"{error}{remedy}") from None
        sized, given = (self.spec.n_users, self.spec.n_items), (data.n_users, data.n_items)
        if sized != given:
            raise DataError(
                f"{name} was built for {sized[0]} users and {sized[1]} items, and this data has {given[0]} and "
                f"{given[1]}; build the model on this data's `spec`"
            )

    @final
    @torch.no_grad()
    def score(self, queries: Queries, items: Int64[Tensor, " I"] | None = None) -> Float[Tensor, "B I"]:
        """A score for every (query, item); higher is better. float32, finite.

        Queries the model has no answer to (see `answerable`) get popularity.

        Args:
            queries: Who is asked about.
            items: Only these; default: all, in order.
        """
        answerable = self.answerable(queries)
        if bool(answerable.all()):
            return self._score(queries) if items is None else self._score_items(queries, items)
        scores = self.fallback.score(queries).clone() if items is None else self.fallback.score(queries)[:, items]
        if bool(answerable.any()):
            rows = answerable.nonzero().squeeze(1)
            some = queries.take(rows)
            scores[rows] = self._score(some) if items is None else self._score_items(some, items)
        return scores

    @final
    @torch.no_grad()
    def predict(
        self,
        queries: Queries,
        item: Int64[Tensor, " P"],
        row: Int64[Tensor, " P"] | None = None,
        time: Int64[Tensor, " P"] | None = None,
    ) -> Float[Tensor, " P"]:
        """Predictions in rating units for pairs of a query and an item.

        Args:
            queries: Who is asked about.
            item: Item indices; -1 for an item the model has never seen.
            row: Which query each item belongs to; default: one item for each query, in order.
            time: When each is given, seconds since 1970; default: the end of training. Most models leave it aside.

        Raises:
            CannotAnswer: The model's scores are not ratings.
        """
        if "rating" not in self.answers:
            raise CannotAnswer(f"{type(self).__name__} ranks items; it does not predict ratings")
        row = torch.arange(len(queries)) if row is None else row
        known = self.answerable(queries)[row] & (item >= 0)
        prediction = self.fallback.predict(queries.user[row], item)
        if bool(known.any()):
            when = None if time is None else time[known]
            prediction[known] = self._predict_at(queries, row[known], item[known], when)
        low, high = self.spec.rating_scale or (-float("inf"), float("inf"))
        return prediction.clamp(low, high)

    @final
    @torch.no_grad()
    def with_items(self, features: Encoded) -> Model:
        """The same model for a larger catalogue: items that training never saw follow after those it knows.

        Args:
            features: What is known of the new items, encoded by `spec.item_features`.

        Raises:
            CannotAnswer: The model knows items by their interactions alone.
        """
        if "new_item" not in self.answers:
            raise CannotAnswer(f"{type(self).__name__} knows items by their interactions alone; it takes no new ones")
        grown, more = copy.copy(self), len(features)
        grown._buffers, grown._modules = dict(self._buffers), dict(self._modules)
        for name, part in self._modules.items():  # A model inside that takes new items takes them along.
            if isinstance(part, Model) and "new_item" in part.answers:
                grown._modules[name] = part.with_items(features)
        for name, rows in self._new_items(features).items():
            setattr(grown, name, torch.cat([getattr(self, name), rows]))
        grown.spec = replace(self.spec, n_items=self.spec.n_items + more, new_items=self.spec.new_items + more)
        grown.fallback = self.fallback.with_items(more)
        return grown

    @final
    def answerable(self, queries: Queries) -> Tensor:
        """Which queries the model answers itself, bool `[B]`: known users, and histories where it takes them."""
        known = (queries.user >= 0) if "known_user" in self.answers else torch.zeros(len(queries), dtype=torch.bool)
        if "history" in self.answers:
            known = known | (queries.history.lengths > 0)
        if "new_user" in self.answers and queries.features is not None:
            known = known | queries.features.any_known
        return known

    @abstractmethod
    def _fit(self, data: Dataset, job: Job) -> list[Epoch]: ...

    @abstractmethod
    def _score(self, queries: Queries) -> Tensor: ...

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        """As `_score` for some items, `[B, I]`; a model that need not score all of them for that says how."""
        return self._score(queries)[:, item_I]

    def _parts(self, queries: Queries, item: int) -> tuple[Tensor, float] | None:
        """Of models whose score is a sum over the history: the share of each history value, and what no value adds."""
        return None

    def _new_items(self, features: Encoded) -> dict[str, Tensor]:
        """By name of each buffer with one row an item, those of new items; `score` reads items from these alone."""
        raise NotImplementedError

    def _predict(self, queries: Queries, row_P: Tensor, item_P: Tensor) -> Tensor:
        return self._score(queries)[row_P, item_P]

    def _predict_at(self, queries: Queries, row_P: Tensor, item_P: Tensor, time_P: Tensor | None) -> Tensor:
        """As `_predict`, which models that know time leave aside; without a time, at the end of the training data."""
        return self._predict(queries, row_P, item_P)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in self.grown:
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def item_vectors(self) -> Float[Tensor, "N D"] | None:
        """Vectors whose cosine says how alike two items are, where the model has such."""
        return None

    def item_factors(self) -> Float[Tensor, "N E"] | None:
        """Vectors whose dot products with `query_factors` order the items as `score` does, where there are such."""
        return None

    def query_factors(self, queries: Queries) -> Float[Tensor, "B E"]:
        """Of models with `item_factors`: the vectors of people that the model answers itself."""
        raise NotImplementedError


class GradientModel(Model):
    """A model trained by gradient steps: adds `start`, `batches` and `loss`; the loop does the rest."""

    held: tuple[str, ...] = ()
    """Attributes that `start` sets to what training needs of the data; they are None again afterwards."""

    def _fit(self, data: Dataset, job: Job) -> list[Epoch]:
        try:
            self.start(data)
            return run(self, data, job)
        finally:
            for name in self.held:
                setattr(self, name, None)

    def start(self, data: Dataset) -> None:
        """Draw fresh weights and set what is computed from the data (means); called once, before the first epoch."""
        for module in self.modules():
            if module is not self and callable(reset := getattr(module, "reset_parameters", None)):
                reset()

    @abstractmethod
    def batches(self, data: Dataset, rng: torch.Generator, size: int) -> Iterator[Any]:
        """One epoch of batches, each with a length; all chance comes from `rng`."""

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """The mean loss of a batch, a scalar."""
