"""Blend: a convex combination of other models' scores.

prediction(u, i) = sum_m w_m prediction_m(u, i);  w_m >= 0, sum_m w_m = 1
score(u, i) = sum_m w_m score_m(u, i)        where all members predict ratings, for then all scores are in rating units
score(u, i) = sum_m w_m z(score_m(u, .))_i   elsewhere;  z(s) = (s - mean(s)) / std(s), over the catalogue

Scores of unlike models share nothing but the order they stand for, so each list is brought to zero mean and unit
variance first: the most robust of the linear scales that Montague and Aslam 2001 ("Relevance score normalization for
metasearch") compare. A member that has all the weight is answered by itself, as it is.

The weights are those that do best on `valid`; where there is none they are equal:

- by rmse: the least squares under the constraints, exactly (Breiman 1996, "Stacked regressions");
- by any other metric: a search, from the best member or the mean of all, moving a share of the weight (a half, then a
  quarter, ... 1/32) to or off one member while that helps (Caruana et al. 2004, "Ensemble selection from libraries of
  models": greedy, on the metric itself).

Each member alone is among what is tried, so on `valid` a blend is at least as good as its best member.

Legend: B queries, N items, P pairs, D widths of all members together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from palate.config import Training, check, from_dict
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.encoded import Encoded
from palate.errors import ConfigError, DataError
from palate.models.base import Model
from palate.models.layers import standardised
from palate.models.simplex import least_squares, search
from palate.training.loop import Epoch, Job, Validate

MEMBERS: dict[str, type[Model]] = {}
"""What a blend can be made of, by name; `palate.models` puts all of `MODELS` here. Add a model of your own likewise."""

MEMORY = 2**30
"""Bytes of members' answers kept while weights are tried; what is beyond is asked for again each time."""

Answer = Callable[..., tuple[Tensor, ...]]
"""Of a member, queries and what else is asked."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model of a blend."""

    model: str
    """Its name in `MODELS`."""
    config: Any = None
    """Its settings: its `Config` or a dict of its fields; default: its defaults."""
    training: Training | None = None
    """How it is trained, the seed apart; default: as the blend is."""

    def __post_init__(self) -> None:
        if self.model not in MEMBERS:
            near = get_close_matches(self.model, MEMBERS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; choose of {', '.join(MEMBERS)}"
            raise ConfigError(f"Member: model = {self.model!r} is no model{hint}")
        kind = MEMBERS[self.model].Config
        if not isinstance(self.config, kind):
            object.__setattr__(self, "config", from_dict(kind, {} if self.config is None else self.config))


@dataclass(frozen=True, kw_only=True)
class BlendConfig:
    """Settings of `blend`."""

    members: tuple[str | Member, ...] = ("ease", "ials", "itemknn")
    """Models to combine: names, or tables (as a flag: JSON) of model, config and training."""

    def __post_init__(self) -> None:
        check(self, members=len(self.members) >= 1)
        self.each()  # a member that is wrong is told now

    def each(self) -> list[Member]:
        """The members, names written out."""
        return [_member(one) if isinstance(one, str) else one for one in self.members]


def _member(text: str) -> Member:
    if not text.lstrip().startswith("{"):
        return Member(model=text)
    try:
        return from_dict(Member, json.loads(text))
    except ValueError as error:
        raise ConfigError(f"the member {text!r} is no JSON: {error}") from None


class Blend(Model):
    """Several models, weighted by what does best on `valid`."""

    Config = BlendConfig
    recipe = Training()  # its members' own
    answers = frozenset({"known_user", "history", "new_item", "new_user", "similar_items", "rating"})
    weight: Tensor

    def __init__(self, config: BlendConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: BlendConfig = config
        self._take([MEMBERS[member.model](member.config, spec) for member in config.each()])
        self.needs = frozenset().union(*(member.needs for member in self._members()))
        self.answers = frozenset.intersection(*(member.answers for member in self._members()))
        self.reads_user = any(member.reads_user or "new_user" in member.answers for member in self._members())
        self.remedy = f"its members are {', '.join(member.model for member in config.each())}"
        self.register_buffer("weight", torch.full((len(config.members),), 1 / len(config.members)))
        self._kept: Kept | None = None

    @classmethod
    def spec_of(cls, data: Dataset) -> Spec:
        """With whatever is known of users and items: a member may read it."""
        return data.described

    @classmethod
    def of(cls, members: Sequence[Model], validate: Validate | None = None) -> Blend:
        """A blend of models that are fitted already; they become its own.

        Args:
            members: Fitted to the same data, each of a class in `MEMBERS`.
            validate: Chooses the weights (`palate.evaluation.validate.Validator`); without it they are equal.

        Raises:
            ConfigError: A class is not in `MEMBERS`, or there are no members.
            DataError: The members were fitted to different data.
        """
        names = {kind: name for name, kind in MEMBERS.items()}
        unknown = [f"{type(member).__name__} is not in MEMBERS" for member in members if type(member) not in names]
        if unknown:
            raise ConfigError.faults("these cannot be blended", unknown)
        parts = tuple(Member(model=names[type(member)], config=member.config) for member in members)
        # Who knows features of the data describes it best.
        first = max(members, key=lambda member: member.spec.item_features is not None)
        blend = cls(BlendConfig(members=parts), first.spec)
        for member in members:
            if _counts(member.spec) != _counts(first.spec) or not torch.equal(
                member.fallback.popularity, first.fallback.popularity
            ):
                raise DataError(
                    f"{type(member).__name__} and {type(first).__name__} were fitted to different data; "
                    "fit all members of a blend to the same training part"
                )
        blend._take(members)
        blend.fallback.load_state_dict(first.fallback.state_dict())
        blend.eval()
        blend._choose(validate)
        return blend

    def _fit(self, data: Dataset, job: Job) -> list[Epoch]:
        for place, (member, settings) in enumerate(zip(self._members(), self.config.each(), strict=True)):
            training = replace(settings.training or job.training, seed=job.training.seed)
            folder = None if job.checkpoint is None else job.checkpoint / f"{place}-{settings.model}"
            member.fit(data, training, job.validate, checkpoint=folder, every=job.every, on_step=job.on_step)
        self.eval()
        self._choose(job.validate)
        return []

    def _take(self, members: Sequence[Model]) -> None:
        for place, member in enumerate(members):  # each by itself, so that new items reach it
            self.add_module(f"member{place}", member)

    def _members(self) -> list[Model]:
        return [part for part in self.children() if isinstance(part, Model)]

    def _new_items(self, features: Encoded) -> dict[str, Tensor]:
        return {}  # the members take them

    def _choose(self, validate: Validate | None) -> None:
        """Set the weights."""
        count = len(self._members())
        self.weight.fill_(1 / count)
        if validate is None or count == 1:
            return

        def loss(weight: np.ndarray) -> float:
            self.weight.copy_(torch.from_numpy(weight))
            value = validate(self)[validate.metric]
            return float("inf") if value != value else -value if validate.higher_is_better else value

        self._kept = Kept()
        try:
            weight = (least_squares if validate.metric == "rmse" else search)(loss, count)
        finally:
            self._kept = None
        self.weight.copy_(torch.from_numpy(weight))

    def _used(self) -> list[tuple[Model, float]]:
        """The members that have weight, and it."""
        return [pair for pair in zip(self._members(), self.weight.tolist(), strict=True) if pair[1] > 0]

    def _score(self, queries: Queries) -> Tensor:
        used = self._used()
        if len(used) == 1:
            return used[0][0]._score(queries)
        scores_BN = torch.zeros(len(queries), self.spec.n_items)
        for member, weight in used:
            scores_BN.add_(self._ask(self._scaled, member, queries)[0], alpha=weight)
        return scores_BN

    def _scaled(self, member: Model, queries: Queries) -> tuple[Tensor, ...]:
        """Scores on one scale, `[B, N]`."""
        scores_BN = member._score(queries)
        return (scores_BN if "rating" in self.answers else standardised(scores_BN),)

    def _predict_at(self, queries: Queries, row_P: Tensor, item_P: Tensor, time_P: Tensor | None) -> Tensor:
        prediction_P = torch.zeros(len(item_P))
        for member, weight in self._used():
            prediction_P.add_(self._ask(_predicted, member, queries, row_P, item_P, time_P)[0], alpha=weight)
        return prediction_P

    def _ask(self, compute: Answer, member: Model, queries: Queries, *pairs: Tensor | None) -> tuple[Tensor, ...]:
        """A member's answer; the one from before where weights are being tried."""
        if self._kept is None:
            return compute(member, queries, *pairs)
        asked = (queries.user, queries.history.values, queries.history.offsets, queries.ratings, *pairs)
        return self._kept.get((id(member), *asked), lambda: compute(member, queries, *pairs))

    def item_vectors(self) -> Tensor | None:
        """Unit vectors of each member side by side, so that a cosine is the blend of the members' cosines."""
        vectors = [(member.item_vectors(), weight) for member, weight in self._used()]
        if "similar_items" not in self.answers or any(v_ND is None for v_ND, _ in vectors):
            return None
        return torch.cat(
            [weight**0.5 * nn.functional.normalize(cast("Tensor", v_ND), dim=1) for v_ND, weight in vectors], dim=1
        )


def _counts(spec: Spec) -> Spec:
    """Without what is known of users and items, which a member that does not read it was not told."""
    return replace(spec, item_features=None, user_features=None)


def _predicted(
    member: Model, queries: Queries, row_P: Tensor, item_P: Tensor, time_P: Tensor | None
) -> tuple[Tensor, ...]:
    return (member.predict(queries, item_P, row_P, time_P),)


class Kept:
    """Answers that were given, by what was asked; up to `MEMORY` bytes of them."""

    def __init__(self) -> None:
        self._answers: dict[bytes, tuple[Tensor, ...]] = {}
        self._bytes = 0

    def get(
        self, asked: tuple[int | Tensor | None, ...], compute: Callable[[], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """The answer to a question, computed the first time.

        Args:
            asked: All that decides the answer.
            compute: Gives it.
        """
        digest = hashlib.blake2b(digest_size=16)
        for part in asked:
            data = part.contiguous().numpy().tobytes() if isinstance(part, Tensor) else str(part).encode()
            digest.update(len(data).to_bytes(8, "little") + data)
        key = digest.digest()
        if key in self._answers:
            return self._answers[key]
        answer = compute()
        size = sum(tensor.numel() * tensor.element_size() for tensor in answer)
        if self._bytes + size <= MEMORY:
            self._answers[key] = answer
            self._bytes += size
        return answer
