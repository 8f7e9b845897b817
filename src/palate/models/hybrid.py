"""Hybrid: a router between a warm model, for what training knows, and a content model, for what it does not.

known item, person the warm model answers:  score(u, i) = z(s_w(u, i))
new item:                                   score(u, i) = slope z(s_c(u, i)) + offset
person folded in from n items, known item:  score(u, i) = w z(s_w(u, i)) + (1 - w) z(expected),  w = n / (n + prior)
person only the content model answers:      score(u, i) = z(s_c(u, i))

z(s) = (s - m) / d with mean and standard deviation of the person's scores over the known items, by either model: so
both speak of "so many deviations above this person's mean". slope and offset are chosen on a part of train. A share of
its items is held out entirely and a tenth of the other rows besides; both models are fitted to the rest; and of all
settings of a grid that leave the held-out rows of known items at least `keep` of the ndcg@10 that they have where no
new item competes, the one is taken that finds most of the rows of held-out items among the first 20. So new items are
let in as far as the warm model's quality can bear.

One like says less of a person than what everybody likes, or everybody of their age: the warm model's word counts as
much as what is expected of people with few likes only once they have `prior` likes. Expected is popularity, within what
they said of themselves, and if the warm model has vectors, moved by the likes (`palate.models.new_users`). Ratings need
no such scale: each model predicts in rating units.

Legend: B queries, N items (W known ones first), P pairs, K list length, T targets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from palate.config import Training, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.encoded import Encoded
from palate.errors import ConfigError
from palate.models.base import Model
from palate.models.blend import MEMBERS, BlendConfig, Member
from palate.models.hybrid_scale import held_out, joined, scale
from palate.models.layers import standardised
from palate.models.new_users import NewUsers
from palate.training.loop import Epoch, Job


@dataclass(frozen=True, kw_only=True)
class HybridConfig:
    """Settings of `hybrid`."""

    warm: str | Member = "ials"
    """The model for known users and items: a name, or a table (as a flag: JSON) of model, config and training."""
    content: str | Member = "content-knn"
    """The model for new items, and for people the warm model cannot answer, likewise."""
    held_out: float = 0.2
    """Share of train's items held out to choose the scale of new items; 0: they are scored as if they were known."""
    keep: float = 0.99
    """Share of the warm model's ndcg@10 on known items that is kept where new items compete."""
    prior: float = 20.0
    """Likes of a new person from which on the warm model counts more than what is expected of all; 0: it alone does."""

    def __post_init__(self) -> None:
        check(self, held_out=0 <= self.held_out < 1, keep=0 <= self.keep <= 1, prior=self.prior >= 0)
        self.members()  # a member that is wrong is told now

    def members(self) -> tuple[Member, Member]:
        """Warm and content model, names written out."""
        warm, content = BlendConfig(members=(self.warm, self.content)).each()
        if "new_item" not in MEMBERS[content.model].answers:
            able = ", ".join(name for name, kind in MEMBERS.items() if "new_item" in kind.answers)
            raise ConfigError(f"content = {content.model!r} cannot answer for new items; choose one of {able}")
        return warm, content


class Hybrid(Model):
    """Router: a warm model for known users and items, a content model for new ones, on one scale."""

    Config = HybridConfig
    recipe = Training()  # its members' own
    needs = frozenset({"interactions", "item_features"})
    answers = frozenset({"known_user", "history", "new_item", "new_user", "similar_items", "rating"})
    slope: Tensor
    offset: Tensor

    def __init__(self, config: HybridConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: HybridConfig = config
        self.known = spec.n_items - spec.new_items
        warm, content = config.members()
        before = replace(spec, n_items=self.known, new_items=0)
        self.warm = MEMBERS[warm.model](warm.config, before)
        if spec.new_items and "new_item" in self.warm.answers:  # it has grown along
            self.warm = MEMBERS[warm.model](warm.config, spec)
        self.content = MEMBERS[content.model](content.config, spec)
        if "new_item" not in self.content.answers:
            raise ConfigError(f"content = {content.model!r} cannot answer for new items from these features")
        self.needs = self.needs | self.warm.needs | self.content.needs
        self.remedy = f"it joins {warm.model} and {content.model}"
        both = self.warm.answers & self.content.answers & {"rating"}
        of_items = self.content.answers & {"similar_items"}
        people = (self.warm.answers | self.content.answers) & {"known_user", "history", "new_user"}
        self.answers = people | both | of_items | {"new_item"}
        # Popularity is that within what a new person says of themselves.
        self.reads_user = config.prior > 0 and not both
        vectors = self.warm.item_factors()
        self.new_users = NewUsers(vectors.shape[1]) if self.reads_user and vectors is not None else None
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    def _fit(self, data: Dataset, job: Job) -> list[Epoch]:
        used = [self._learn(at, getattr(self, at), data, job) for at in ("warm", "content")]
        if self.new_users is not None:
            self.new_users.learn(self.warm, data)
        self.slope.fill_(1.0)
        self.offset.fill_(0.0)
        parts = held_out(data, self.config.held_out, job.training.seed) if "rating" not in self.answers else None
        if parts is not None:
            models = []
            for member, training in zip(self.config.members(), used, strict=True):
                kind = MEMBERS[member.model]
                model = kind(member.config, kind.spec_of(parts.train))
                model.fit(parts.train, training)
                models.append(model)
            slope, offset = scale(models[0], models[1], parts, self.config.keep, job.training.seed)
            self.slope.fill_(slope)
            self.offset.fill_(offset)
        return []

    def _learn(self, at: str, model: Model, data: Dataset, job: Job) -> Training:
        """Fit a member; how it was trained, with as many epochs as turned out best."""
        member = dict(zip(("warm", "content"), self.config.members(), strict=True))[at]
        training = replace(member.training or job.training, seed=job.training.seed)
        folder = None if job.checkpoint is None else job.checkpoint / f"{at}-{member.model}"
        records = model.fit(data, training, job.validate, checkpoint=folder, every=job.every, on_step=job.on_step)
        best = [record.epoch for record in records if record.best]
        return replace(training, epochs=best[-1]) if best else training

    def _new_items(self, features: Encoded) -> dict[str, Tensor]:
        return {}  # the content model takes them

    def _score(self, queries: Queries) -> Tensor:
        content_BN = self.content.score(queries)
        warm = self._of_known(queries)
        # Who neither can answer is asked for in explanations only: what the warm model says without evidence.
        rows = (self.warm.answerable(warm) | ~self.content.answerable(queries)).nonzero().squeeze(1)
        if "rating" not in self.answers:
            content_BN = standardised(content_BN, content_BN[:, : self.known])
        if not len(rows):
            return content_BN
        warm_BW = self._warm(warm.take(rows))
        if self.spec.new_items:
            told_B1 = self.content.answerable(queries)[rows].unsqueeze(1)
            new_BX = joined(warm_BW, content_BN[rows], float(self.slope), float(self.offset), told_B1)
            warm_BW = torch.cat([warm_BW, new_BX], 1)
        if len(rows) == len(queries):
            return warm_BW
        return content_BN.index_copy(0, rows, warm_BW)

    def _warm(self, people: Queries) -> Tensor:
        """Scores of known items; of new people mixed with what is expected of them, the more the fewer their likes."""
        warm_BW = self.warm._score(people)[:, : self.known]
        if "rating" in self.answers:
            return warm_BW
        warm_BW, row = standardised(warm_BW), (people.user < 0).nonzero().squeeze(1)
        if not (self.config.prior and len(row)):
            return warm_BW
        new = people.take(row)
        share_B1 = (new.history.lengths / (new.history.lengths + self.config.prior)).unsqueeze(1)
        expected_BW = standardised(self.fallback.score(new)[:, : self.known])
        if self.new_users is not None:
            expected_BW = standardised(expected_BW + self.new_users.moved(self.warm, new.history)[:, : self.known])
        return warm_BW.index_copy(0, row, expected_BW.lerp(warm_BW[row], share_B1))

    def _of_known(self, queries: Queries) -> Queries:
        """The queries as the warm model can be asked them: items that came later leave the histories."""
        inside = queries.history.values < self.known
        return queries if bool(inside.all()) else queries.keep(inside)

    def _predict_at(self, queries: Queries, row_P: Tensor, item_P: Tensor, time_P: Tensor | None) -> Tensor:
        warm = self._of_known(queries)
        known_P = (item_P < self.known) & self.warm.answerable(warm)[row_P]
        out_P = torch.empty(len(item_P))
        for model, asked, mask_P in ((self.warm, warm, known_P), (self.content, queries, ~known_P)):
            if bool(mask_P.any()):
                time = None if time_P is None else time_P[mask_P]
                out_P[mask_P] = model.predict(asked, item_P[mask_P], row_P[mask_P], time)
        return out_P

    def item_vectors(self) -> Tensor | None:
        """Those of the content model, the only ones of all items."""
        return self.content.item_vectors()
