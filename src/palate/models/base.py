"""Model and GradientModel, the only abstract classes: public methods check, private hooks compute.

Legend: B queries, N items, I items asked about, P pairs, D width.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from palate.config import CompleteTraining, Training
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.features.schema import FeatureBatch
from palate.data.queries import FEATURES
from palate.device import asked_from_anywhere, module_device, on_device, to_device
from palate.errors import CannotAnswer
from palate.models.buffers import resize_buffers
from palate.models.fallback import Fallback
from palate.training.loop import Epoch, FitContext, Loss, TrainRun, run
from palate.training.losses import Link
from palate.training.train_run import Seeds, Validate
from palate.training.warm_start import WarmStart


class Model(nn.Module, ABC):
    """A recommender over indices. Built from counts alone, so that loading needs no data.

    Subclasses are final. They set the class constants, build their tensors in `__init__` (`state_dict` is saved) and
    write `_fit` and `_score`. A model with a row per user writes `_known_users` and, for histories, `_fold_in`.

    Attributes:
        Config: The frozen dataclass of the model's settings.
        needs: Data needed: some of interactions, rating, time, item_features, user_features, item_text, item_image.
        answers: Questions answered: some of known_user, history, new_item, new_user, similar_items, rating.
        remedy: What to do when the data lacks what the model needs; ends the message.
        confidence: How a score becomes a probability-like confidence.
        default_training: Training settings used where the caller, or a model that contains this one, leaves them open.
        uses_weights: Whether the model learns from `data.weight`. Other models refuse weighted data.
        reads_repeats: Whether the model learns from all events of a user and item, the others from the last one.
        reads_order: Whether the order of a history changes its scores.
        reads_user: Whether scores depend on user attributes although users known only by attributes are not answered.
        dynamic_buffers: Names of buffers whose size only fitting knows; see also `palate.models.buffers`.
        additive: Whether `history_contributions` takes a score apart exactly, as a sum over the history.
        gradients: Of "history", "features", "text" and "image": inputs with respect to which scores have gradients.
    """

    Config: ClassVar[type[Any]]
    needs: frozenset[str] = frozenset({"interactions"})
    answers: frozenset[str] = frozenset({"known_user"})
    remedy: str = ""
    confidence: Link = "score"
    default_training: Training = CompleteTraining()
    uses_weights: bool = False
    reads_repeats: bool = False
    reads_order: bool = False
    reads_user: bool = False
    dynamic_buffers: tuple[str, ...] = ()
    additive: bool = False
    gradients: frozenset[str] = frozenset()

    def __init__(self, config: Any, spec: Spec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.fallback = Fallback(spec)

    @classmethod
    def spec_of(cls, data: Dataset) -> Spec:
        """The spec a model of this class is built from: counts, feature encodings it needs, user attributes."""
        if cls.needs & FEATURES:
            return data.feature_spec
        return replace(data.spec, user_features=data.attribute_schema)

    @final
    def fit(
        self, data: Dataset, training: Training | None = None, validate: Validate | None = None, *,
        checkpoint: Path | None = None, every: float = 60.0, on_epoch: Callable[[Epoch], None] | None = None,
        on_step: Callable[[int, int, int, float], None] | None = None, start: WarmStart | None = None,
    ) -> list[Epoch]:  # fmt: skip
        """Learn from training data.

        Args:
            data: Must provide all of `needs` and agree with `spec`.
            training: Training settings. The model's `default_training` fills what is left open.
            validate: Chooses the epoch (`palate.evaluation.validate.Validator`). Defaults to training all epochs.
            checkpoint, every, on_epoch, on_step, start: As in `palate.training.train_run.TrainRun`.

        Returns:
            One record for each epoch; closed-form models return none.

        Raises:
            DataError: The data lacks something the model needs, holds weights it cannot use, or is of another size.
            TrainingError: The loss is no longer finite.
        """
        self._check(data)
        training = (training or Training()).filled(self.default_training)
        seeds = Seeds.of(training.seed)
        # torch's initialisers and dropout know only the global generator: fork it, so that the caller's is untouched.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.weights)
            self.fallback.learn(data)
            job = TrainRun(
                training=training, rng=torch.Generator().manual_seed(seeds.order), validate=validate,
                checkpoint=checkpoint, every=every, on_epoch=on_epoch, on_step=on_step, start=start,
            )  # fmt: skip
            records = self._fit(data.training_rows(self.reads_repeats, "rating" in self.needs | self.answers), job)
        self.eval()
        return records

    def _check(self, data: Dataset) -> None:
        name = type(self).__name__
        data.require(self.needs, name, self.remedy, self.uses_weights, "history" in self.answers)
        self.spec.require_size(data.n_users, data.n_items, name)

    @final
    @torch.no_grad()
    @asked_from_anywhere
    def score(self, queries: Queries, items: Int64[Tensor, " I"] | None = None) -> Float[Tensor, "B I"]:
        """Scores of items for each query, float32 `[B, I]`, finite; higher is better.

        Queries the model cannot answer itself (see `answerable`) get popularity.

        Args:
            queries: The B questions.
            items: Item indices, `[I]`. Defaults to all items, in order.
        """
        queries = queries if "rating" in self.needs | self.answers else queries.choices(self.spec.rating_scale)
        answerable = self.answerable(queries)
        if bool(answerable.all()):
            return self._score(queries) if items is None else self._score_items(queries, items)
        scores = self.fallback.score(queries).clone() if items is None else self.fallback.score(queries)[:, items]
        if bool(answerable.any()):
            some = queries.take(rows := answerable.nonzero().squeeze(1))
            scores[rows] = self._score(some) if items is None else self._score_items(some, items)
        return scores

    @final
    @torch.no_grad()
    @asked_from_anywhere
    def predict(
        self, queries: Queries, item: Int64[Tensor, " P"], row: Int64[Tensor, " P"] | None = None
    ) -> Float[Tensor, " P"]:
        """Predicted ratings for pairs of a query and an item, within the rating scale.

        Args:
            queries: The B questions. `queries.asked_at` is the time of the rating, for models that know time.
            item: Item indices, `[P]`; -1 for an item the model has never seen.
            row: Which query each item belongs to, `[P]`. Defaults to one item for each query, in order.

        Raises:
            CannotAnswer: The model's scores are not ratings.
        """
        if "rating" not in self.answers:
            raise CannotAnswer(f"{type(self).__name__} ranks items; it does not predict ratings")
        row = torch.arange(len(queries), device=item.device) if row is None else row
        answerable = self.answerable(queries)
        known = answerable[row] & (item >= 0)
        prediction = self.fallback.predict(queries.user[row], item)
        if bool(known.any()):
            some, place = queries.take(answerable.nonzero().squeeze(1)), answerable.cumsum(0) - 1
            prediction[known] = self._predict(some, place[row[known]], item[known])
        low, high = self.spec.rating_scale or (-float("inf"), float("inf"))
        return prediction.clamp(low, high)

    @final
    @torch.no_grad()
    def with_items(self, features: FeatureBatch) -> Model:
        """The same model for a larger catalogue: items that training never saw follow those it knows.

        Args:
            features: Features of the new items, encoded by `spec.item_features`.

        Raises:
            CannotAnswer: The model knows items by their interactions alone.
        """
        if "new_item" not in self.answers:
            raise CannotAnswer(
                f"{type(self).__name__} knows items by their interactions alone and cannot score new ones"
            )
        larger, more = copy.copy(self), len(features)
        larger._buffers, larger._modules = dict(self._buffers), dict(self._modules)
        for name, part in self._modules.items():  # A model inside that takes new items takes them along.
            if isinstance(part, Model) and "new_item" in part.answers:
                larger._modules[name] = part.with_items(features)
        for name, rows in self._new_items(to_device(features, module_device(self))).items():
            setattr(larger, name, torch.cat([getattr(self, name), rows]))
        larger.spec = replace(self.spec, n_items=self.spec.n_items + more, new_items=self.spec.new_items + more)
        larger.fallback = self.fallback.with_items(more)
        return larger

    @final
    def answerable(self, queries: Queries) -> Tensor:
        """Queries that the model answers itself, bool `[B]`: known users, and histories if it reads them."""
        known = queries.user >= 0 if "known_user" in self.answers else torch.zeros_like(queries.user, dtype=torch.bool)
        if "history" in self.answers:
            known = known | (queries.history.lengths > 0)
        if "new_user" in self.answers and queries.features is not None:
            known = known | queries.features.any_known
        return known

    @final
    def represent(self, queries: Queries) -> Tensor:
        """What the model scores each query by, float `[B, D]`: the one place where known users and histories meet.

        A known user has the row that training made. A user the model does not know, or one whose history is newer than
        training (`queries.fresh`), is folded in from the history if the model reads histories.
        """
        trained = queries.trained if "history" in self.answers else queries.user >= 0
        if bool(trained.all()):
            return self._known_users(queries.user)
        if not bool(trained.any()):
            return self._fold_in(queries)
        known, new = trained.nonzero().squeeze(1), (~trained).nonzero().squeeze(1)
        folded = self._fold_in(queries.take(new))
        rows = folded.new_empty(len(queries), *folded.shape[1:])
        rows[known], rows[new] = self._known_users(queries.user[known]), folded
        return rows

    @final
    def refresh(self, context: Any = None) -> None:
        """Rebuild what the weights determine: after loading (no `context`), before each evaluation, after training."""
        with torch.no_grad():
            for part in reversed([part for part in self.modules() if part is not self and isinstance(part, Model)]):
                part._refresh(None)
            self._refresh(context)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in `torch.nn.Module`; buffers whose size only fitting knows take the size of what is loaded."""
        resize_buffers(self, state_dict)
        return super().load_state_dict(state_dict, strict, assign)

    @abstractmethod
    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]: ...

    @abstractmethod
    def _score(self, queries: Queries) -> Tensor: ...

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        """As `_score`, for some items, `[B, I]`; override it where not all items need to be scored for that."""
        return self._score(queries)[:, item_I]

    def _predict(self, queries: Queries, row_P: Tensor, item_P: Tensor) -> Tensor:
        """Ratings `[P]`, not yet cut to the scale; at `queries.asked_at` if the model knows time."""
        return self._score(queries)[row_P, item_P]

    def _known_users(self, user_B: Tensor) -> Tensor:
        """The trained rows of known users, `[B, D]`."""
        raise NotImplementedError

    def _fold_in(self, queries: Queries) -> Tensor:
        """Rows of users known only by a history (and attributes), `[B, D]`."""
        raise NotImplementedError

    def _refresh(self, context: Any) -> None:
        """See `refresh`; this model's own part, without the models inside it. Runs without gradients."""

    def history_contributions(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        """Of `additive` models, for one query: each history value's share of the score, `[total]`, and the rest."""
        raise NotImplementedError

    def _new_items(self, features: FeatureBatch) -> dict[str, Tensor]:
        """Rows of new items by name of each buffer that has one row an item; `score` reads new items from these."""
        raise NotImplementedError

    def item_vectors(self) -> Float[Tensor, "N D"] | None:
        """Item vectors whose cosine measures item similarity, `[N, D]`; None if the model has none."""
        return None

    def item_factors(self) -> Float[Tensor, "N E"] | None:
        """Vectors whose dot products with `query_factors` order the items as `score` does, `[N, E]`, or None."""
        return None

    def query_factors(self, queries: Queries) -> Float[Tensor, "B E"]:
        """Of models with `item_factors`: the vectors of queries that the model answers itself, `[B, E]`."""
        raise NotImplementedError


class GradientModel(Model):
    """A model trained by gradient steps: adds `batches` and `loss`; the loop does the rest.

    Attributes:
        loss_name: What the loss curves show, in words and per what, for example "squared error per rating".
    """

    loss_name: str = "loss"

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        self.init_from_data(data)
        job.begin(self)
        return self._train(self.fit_context(data, job.settings), job)

    @final
    def _train(self, context: Any, job: TrainRun) -> list[Epoch]:
        """Run the training loop from the weights as they are."""
        torch.manual_seed(Seeds.of(job.training.seed).noise)
        with on_device(self, context, job.training.device) as there:
            records = run(self, there, job)
            self.refresh(there)
        return records

    def init_from_data(self, data: Dataset) -> None:
        """Draw initial weights and set what is computed from the data (means); called once, before the first epoch."""
        for module in self.modules():
            if module is not self and callable(reset := getattr(module, "reset_parameters", None)):
                reset()

    def fit_context(self, data: Dataset, settings: CompleteTraining) -> Any:
        """What training needs of the data, built once a fit, and once for a validation part to measure its loss.

        Returns:
            A `FitContext`, or a frozen dataclass of the model's own with a field `data`.
        """
        return FitContext(data)

    @abstractmethod
    def batches(self, context: Any, rng: torch.Generator, size: int) -> Iterator[Any]:
        """One epoch of batches, each with a length; all randomness comes from `rng`."""

    @abstractmethod
    def loss(self, batch: Any, context: Any) -> Tensor | Loss:
        """The mean loss of a batch, a scalar; a `Loss` if what is minimised holds more than curves should show."""
