"""Blend: a convex combination of the scores of other models.

prediction(u, i) = sum_m w_m prediction_m(u, i);  w_m >= 0, sum_m w_m = 1
score(u, i) = sum_m w_m score_m(u, i)        if all members predict ratings: all scores are then in rating units
score(u, i) = sum_m w_m z(score_m(u, .))_i   otherwise;  z(s) = (s - mean(s)) / std(s), over the catalogue

Scores of different models have nothing in common but the order they give, so each list is first brought to zero mean
and unit variance, the most robust of the linear scales that Montague and Aslam 2001 ("Relevance score normalization
for metasearch") compare. If one member has all the weight, its own scores are used unchanged.

The weights are those that do best on the validation part; without one they are equal:

- by RMSE: least squares under the constraints, exactly (Breiman 1996, "Stacked regressions");
- by any other metric: a greedy search on the metric itself (Caruana et al. 2004, "Ensemble selection from libraries of
  models"). It starts from the best member or from equal weights, and moves a share of the weight (a half, then a
  quarter, ... 1/32) to or from one member while that helps.

Each member alone is among the candidates, so on the validation part a blend is at least as good as its best member.

Legend: B queries, N items, P pairs, D widths of all members together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

import palate
from palate.config import Training, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.features.schema import FeatureBatch
from palate.errors import ArtifactError, ConfigError, DataError
from palate.models.base import Model
from palate.models.hybrid.member import Member
from palate.models.hybrid.simplex import least_squares, search
from palate.models.layers import standardised
from palate.training.loop import Epoch, TrainRun
from palate.training.train_run import Validate

CACHE_BYTES = 2**30
"""Most bytes of members' answers that are cached while weights are tried."""

Answer = Callable[..., Tensor]
"""Called with a member, queries and pairs; gives the member's answer."""


@dataclass(frozen=True, kw_only=True)
class BlendConfig:
    """Settings of `blend`."""

    members: tuple[str | Member, ...] = ("ease", "ials", "itemknn")
    """Models to combine: names, or tables (on the command line: JSON) of model, config and training."""

    def __post_init__(self) -> None:
        check(self, members=len(self.members) >= 1)
        self.parsed()  # a wrong member is an error now

    def parsed(self) -> list[Member]:
        """The members as `Member`s."""
        return [Member.parse(member) for member in self.members]


class Blend(Model):
    """Several models, weighted by what does best on the validation part."""

    Config = BlendConfig
    default_training = Training()  # each member's own
    answers = frozenset({"known_user", "history", "new_item", "new_user", "similar_items", "rating"})
    reads_repeats = True  # each member decides for itself
    weight: Tensor

    def __init__(self, config: BlendConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: BlendConfig = config
        self._take([member.build(spec) for member in config.parsed()])
        self.needs = frozenset().union(*(member.needs for member in self._members()))
        self.answers = frozenset.intersection(*(member.answers for member in self._members()))
        self.uses_weights = all(member.uses_weights for member in self._members())
        self.gradients = frozenset.intersection(*(member.gradients for member in self._members()))
        self.reads_user = any(member.reads_user or "new_user" in member.answers for member in self._members())
        self.remedy = f"its members are {', '.join(member.model for member in config.parsed())}"
        self.register_buffer("weight", torch.full((len(config.members),), 1 / len(config.members)))
        self._cache: AnswerCache | None = None

    @classmethod
    def spec_of(cls, data: Dataset) -> Spec:
        """The spec of `data` with the features of users and items, which a member may read."""
        return data.feature_spec

    @classmethod
    def of(
        cls,
        members: Sequence[Model],
        validate: Validate | None = None,
        training: Sequence[Training | None] | None = None,
    ) -> Blend:
        """A blend of models that are already fitted; it takes them over.

        Args:
            members: Fitted to the same data, each of a class in `palate.MODELS`.
            validate: Chooses the weights (`palate.evaluation.validate.Validator`). Defaults to equal weights.
            training: Training settings of each member, which a refit uses. Defaults to those of the whole blend.

        Raises:
            ConfigError: A class is not in `palate.MODELS`, or there are no members.
            DataError: The members were fitted to different data.
        """
        names = {kind: name for name, kind in palate.MODELS.items()}
        unknown = [
            f"{type(member).__name__} is not in palate.MODELS" for member in members if type(member) not in names
        ]
        if unknown:
            raise ConfigError.faults("these models cannot be blended", unknown)
        parts = tuple(
            Member(model=names[type(member)], config=member.config, training=how)
            for member, how in zip(members, training or [None] * len(members), strict=True)
        )
        # A spec with features describes the data most completely.
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

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        records = []
        for place, (model, member) in enumerate(zip(self._members(), self.config.parsed(), strict=True)):
            records += member.fit(model, f"member{place}", f"{place}-{member.model}", data, job)
        self.eval()
        if job.start is None:
            self._choose(job.validate)
        else:
            self.weight.copy_(job.start.model.weight)
        return records

    def _take(self, members: Sequence[Model]) -> None:
        for place, member in enumerate(members):  # as modules of their own, so that new items reach them
            self.add_module(f"member{place}", member)

    def _members(self) -> list[Model]:
        return [part for part in self.children() if isinstance(part, Model)]

    def _new_items(self, features: FeatureBatch) -> dict[str, Tensor]:
        return {}  # the members hold the rows of new items

    def _choose(self, validate: Validate | None) -> None:
        """Choose the weights."""
        count = len(self._members())
        self.weight.fill_(1 / count)
        if validate is None or count == 1:
            return

        def loss(weight: np.ndarray) -> float:
            self.weight.copy_(torch.from_numpy(weight))
            value = validate(self)[validate.metric]
            return float("inf") if value != value else -value if validate.higher_is_better else value

        self._cache = AnswerCache()
        try:
            weight = (least_squares if validate.metric == "rmse" else search)(loss, count)
        finally:
            self._cache = None
        self.weight.copy_(torch.from_numpy(weight))

    def check_buffers(self) -> None:
        if bool((self.weight < 0).any()) or not 0.99 < float(self.weight.sum()) < 1.01:
            raise ArtifactError(f"weight holds {self.weight.tolist()}; weights are 0 or more and their sum is 1")

    def _used(self) -> list[tuple[Model, float]]:
        """Members with a positive weight, and the weight."""
        return [pair for pair in zip(self._members(), self.weight.tolist(), strict=True) if pair[1] > 0]

    def _score(self, queries: Queries) -> Tensor:
        used = self._used()
        if len(used) == 1:
            return used[0][0]._score(queries)
        total_BN = torch.zeros(len(queries), self.spec.n_items, device=queries.user.device)
        for member, weight in used:
            total_BN = total_BN.add_(self._ask(self._scaled, member, queries), alpha=weight)
        return total_BN

    def _scaled(self, member: Model, queries: Queries) -> Tensor:
        """The member's scores on the common scale, `[B, N]`."""
        scores_BN = member._score(queries)
        return scores_BN if "rating" in self.answers else standardised(scores_BN)

    def _predict(self, queries: Queries, row_P: Tensor, item_P: Tensor) -> Tensor:
        prediction_P = torch.zeros(len(item_P), device=item_P.device)
        for member, weight in self._used():
            prediction_P.add_(self._ask(_predicted, member, queries, row_P, item_P), alpha=weight)
        return prediction_P

    def _ask(self, compute: Answer, member: Model, queries: Queries, *pairs: Tensor) -> Tensor:
        """A member's answer; from the cache while weights are tried."""
        if self._cache is None:
            return compute(member, queries, *pairs)
        return self._cache.get((id(member), *_tensors(queries), *pairs), lambda: compute(member, queries, *pairs))

    def item_vectors(self) -> Tensor | None:
        """Unit vectors of all members side by side: their cosine is the blend of the members' cosines."""
        vectors = [(member.item_vectors(), weight) for member, weight in self._used()]
        if "similar_items" not in self.answers or any(v_ND is None for v_ND, _ in vectors):
            return None
        return torch.cat(
            [weight**0.5 * nn.functional.normalize(cast("Tensor", v_ND), dim=1) for v_ND, weight in vectors], dim=1
        )


def _counts(spec: Spec) -> Spec:
    """The spec without features, which members that do not read them do not have."""
    return replace(spec, item_features=None, user_features=None)


def _predicted(member: Model, queries: Queries, row_P: Tensor, item_P: Tensor) -> Tensor:
    return member.predict(queries, item_P, row_P)


def _tensors(part: Any) -> Iterator[Tensor]:
    """All tensors of queries, those of the histories and features included."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, dict):
        for value in part.values():
            yield from _tensors(value)
    elif is_dataclass(part):
        for name in (field.name for field in fields(part)):
            yield from _tensors(getattr(part, name))


class AnswerCache:
    """Answers of members by what was asked, up to `CACHE_BYTES` of them."""

    def __init__(self) -> None:
        self._answers: dict[bytes, Tensor] = {}
        self._bytes = 0

    def get(self, asked: tuple[int | Tensor, ...], compute: Callable[[], Tensor]) -> Tensor:
        """The answer to a question, computed the first time.

        Args:
            asked: Everything that decides the answer.
            compute: Gives the answer.
        """
        digest = hashlib.blake2b(digest_size=16)
        for part in asked:
            data = part.contiguous().cpu().numpy().tobytes() if isinstance(part, Tensor) else str(part).encode()
            digest.update(len(data).to_bytes(8, "little") + data)
        key = digest.digest()
        if key in self._answers:
            return self._answers[key]
        answer = compute()
        size = answer.numel() * answer.element_size()
        if self._bytes + size <= CACHE_BYTES:
            self._answers[key] = answer
            self._bytes += size
        return answer
