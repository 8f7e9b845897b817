"""Hybrid: a router between a warm model, for known items, and a content model, for new ones.

known item, user the warm model answers:      score(u, i) = z(s_w(u, i))
new item:                                     score(u, i) = slope z(s_c(u, i)) + offset
user folded in from n items, known item:      score(u, i) = w z(s_w(u, i)) + (1 - w) z(expected),  w = n / (n + prior)
user only the content model answers:          score(u, i) = z(s_c(u, i))

z(s) = (s - m) / d, with the mean m and standard deviation d of the user's scores over the known items, for either
model: both scores are then in deviations above this user's mean.

slope and offset are chosen on a split of the training data. A share of the items is held out entirely, and a tenth of
the other rows as well; both models are fitted to the rest. A grid of settings is tried. Those are admitted that leave
the held-out rows of known items at least `keep` of the ndcg@10 they have when no new item competes. Among them, the
setting wins that puts most held-out rows of new items into the top 20. New items are thus let in as far as the quality
of the warm model allows.

A history of one item says little about a user, so a new user's warm scores are mixed with what is expected of any user:
popularity (within the user's attributes, if known), moved by the history if the warm model has item vectors
(`palate.models.baselines.new_users`). From `prior` items on, the warm model has more weight. Ratings need no common
scale: each model predicts in rating units.

Legend: B queries, N items (the W known ones first), X new items, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

import palate
from palate.config import Training, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.features.schema import FeatureBatch
from palate.data.splits.build import Split
from palate.errors import ArtifactError, ConfigError
from palate.models.base import Model
from palate.models.baselines.new_users import GaussianProcessFoldIn
from palate.models.hybrid.hybrid_scale import held_out, joined, scale
from palate.models.hybrid.member import Member
from palate.models.layers import standardised
from palate.training.loop import Epoch, TrainRun


@dataclass(frozen=True, kw_only=True)
class HybridConfig:
    """Settings of `hybrid`."""

    warm: str | Member = "ials"
    """Model for known users and items: a name, or a table (on the command line: JSON) of model, config and training."""
    content: str | Member = "content-knn"
    """Model for new items and for users the warm model cannot answer, in the same form."""
    held_out: float = 0.2
    """Share of the training items held out to choose the scale of new items; 0 scores them as if they were known."""
    keep: float = 0.99
    """Share of the warm model's ndcg@10 on known items that must remain when new items compete."""
    prior: float = 20.0
    """History length at which a new user's warm scores weigh as much as popularity; 0 uses the warm scores alone."""

    def __post_init__(self) -> None:
        check(self, held_out=0 <= self.held_out < 1, keep=0 <= self.keep <= 1, prior=self.prior >= 0)
        self.members()  # a wrong member is an error now

    def members(self) -> tuple[Member, Member]:
        """The warm and the content model as `Member`s."""
        warm, content = Member.parse(self.warm), Member.parse(self.content)
        if "new_item" not in content.kind.answers:
            able = ", ".join(name for name, kind in palate.MODELS.items() if "new_item" in kind.answers)
            raise ConfigError(f"content = {content.model!r} cannot score new items; choose one of {able}")
        return warm, content


class Hybrid(Model):
    """Router: a warm model for known users and items, a content model for new ones, on one scale."""

    Config = HybridConfig
    default_training = Training()  # each member's own
    needs = frozenset({"interactions", "item_features"})
    answers = frozenset({"known_user", "history", "new_item", "new_user", "similar_items", "rating"})
    reads_repeats = True  # each member decides for itself
    slope: Tensor
    offset: Tensor

    def __init__(self, config: HybridConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: HybridConfig = config
        self.known = spec.n_items - spec.new_items
        warm, content = config.members()
        before = replace(spec, n_items=self.known, new_items=0)
        self.warm = warm.build(before)
        if spec.new_items and "new_item" in self.warm.answers:  # a warm model that takes new items holds them too
            self.warm = warm.build(spec)
        self.content = content.build(spec)
        if "new_item" not in self.content.answers:
            raise ConfigError(f"content = {content.model!r} cannot score new items from these features")
        self.needs = self.needs | self.warm.needs | self.content.needs
        self.remedy = f"it combines {warm.model} and {content.model}"
        self.uses_weights = self.warm.uses_weights and self.content.uses_weights
        self.gradients = self.warm.gradients & self.content.gradients
        both = self.warm.answers & self.content.answers & {"rating"}
        of_items = self.content.answers & {"similar_items"}
        people = (self.warm.answers | self.content.answers) & {"known_user", "history", "new_user"}
        self.answers = people | both | of_items | {"new_item"}
        # A new user's expected scores are the popularity within the user's attributes.
        self.reads_user = config.prior > 0 and not both
        folds_in = self.reads_user and self.warm.item_factors() is not None
        self.new_users = GaussianProcessFoldIn() if folds_in else None
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        records: list[Epoch] = []
        used: list[Training] = []
        models = (self.warm, self.content)
        for name, member, model in zip(("warm", "content"), self.config.members(), models, strict=True):
            found = member.fit(model, name, f"{name}-{member.model}", data, job)
            best = [record.epoch for record in found if record.best]
            settings = member.settings(job)
            used.append(replace(settings, epochs=best[-1]) if best else settings)
            records += found
        if self.new_users is not None:
            self.new_users.learn(self.warm, data)
        if job.start is not None:
            self.slope.copy_(job.start.model.slope)
            self.offset.copy_(job.start.model.offset)
            return records
        self.slope.fill_(1.0)
        self.offset.fill_(0.0)
        parts = held_out(data, self.config.held_out, job.training.seed) if "rating" not in self.answers else None
        if parts is not None:
            slope, offset = self._choose_scale(parts, used, job.training.seed)
            self.slope.fill_(slope)
            self.offset.fill_(offset)
        return records

    def _choose_scale(self, parts: Split, settings: list[Training], seed: int) -> tuple[float, float]:
        """Slope and offset, by both models fitted to a part of the training data for as many epochs as were best."""
        models = []
        for member, training in zip(self.config.members(), settings, strict=True):
            model = member.build(member.kind.spec_of(parts.train))
            model.fit(parts.train, training)
            models.append(model)
        return scale(models[0], models[1], parts, self.config.keep, seed)

    def check_buffers(self) -> None:
        vectors = self.warm.item_factors()
        if self.new_users is not None and vectors is not None and len(self.new_users.root):
            width = vectors.shape[1]
            if self.new_users.root.shape != (width, width):
                shape = tuple(self.new_users.root.shape)
                raise ArtifactError(f"new_users.root has shape {shape}; the warm model needs {(width, width)}")

    def _new_items(self, features: FeatureBatch) -> dict[str, Tensor]:
        return {}  # the content model holds the rows of new items

    def _score(self, queries: Queries) -> Tensor:
        content_BN = self.content.score(queries)
        warm = self._of_known(queries)
        # Explanations also ask about queries that neither model answers: the warm model then scores an empty history.
        rows = (self.warm.answerable(warm) | ~self.content.answerable(queries)).nonzero().squeeze(1)
        if "rating" not in self.answers:
            content_BN = standardised(content_BN, content_BN[:, : self.known])
        if not len(rows):
            return content_BN
        warm_BW = self._warm(warm.take(rows))
        if self.spec.new_items:
            answered_B1 = self.content.answerable(queries)[rows].unsqueeze(1)
            new_BX = joined(warm_BW, content_BN[rows], float(self.slope), float(self.offset), answered_B1)
            warm_BW = torch.cat([warm_BW, new_BX], 1)
        if len(rows) == len(queries):
            return warm_BW
        return content_BN.index_copy(0, rows, warm_BW)

    def _warm(self, queries: Queries) -> Tensor:
        """Scores of known items, `[B, W]`; for new users a mix with expected scores that depends on history length."""
        warm_BW = self.warm._score(queries)[:, : self.known]
        if "rating" in self.answers:
            return warm_BW
        warm_BW, row = standardised(warm_BW), (~queries.trained).nonzero().squeeze(1)
        if not (self.config.prior and len(row)):
            return warm_BW
        new = queries.take(row)
        share_B1 = (new.history.lengths / (new.history.lengths + self.config.prior)).unsqueeze(1)
        expected_BW = standardised(self.fallback.score(new)[:, : self.known])
        if self.new_users is not None:
            shift_BN = self.new_users.score_shift(self.warm, new.history)
            expected_BW = standardised(expected_BW + shift_BN[:, : self.known])
        return warm_BW.index_copy(0, row, expected_BW.lerp(warm_BW[row], share_B1))

    def _of_known(self, queries: Queries) -> Queries:
        """The queries without history items that the warm model does not know."""
        inside = queries.history.values < self.known
        return queries if bool(inside.all()) else queries.keep(inside)

    def _predict(self, queries: Queries, row_P: Tensor, item_P: Tensor) -> Tensor:
        warm = self._of_known(queries)
        known_P = (item_P < self.known) & self.warm.answerable(warm)[row_P]
        out_P = torch.empty(len(item_P), device=item_P.device)
        for model, asked, mask_P in ((self.warm, warm, known_P), (self.content, queries, ~known_P)):
            if bool(mask_P.any()):
                out_P[mask_P] = model.predict(asked, item_P[mask_P], row_P[mask_P])
        return out_P

    def item_vectors(self) -> Tensor | None:
        """Those of the content model, which has vectors of all items."""
        return self.content.item_vectors()
