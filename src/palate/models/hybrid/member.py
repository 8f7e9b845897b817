"""Member: one of the models that a blend or a hybrid is made of."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import palate
from palate.config import Training, from_dict
from palate.data.dataset import Dataset, Spec
from palate.errors import ConfigError
from palate.models.base import Model
from palate.training.loop import Epoch, TrainRun


@dataclass(frozen=True, kw_only=True)
class Member:
    """A model by name, with its settings.

    The name is looked up in `palate.MODELS`, where a model of your own can be added.
    """

    model: str
    """Name of the model in `palate.MODELS`."""
    config: Any = None
    """Settings of the model: its `Config` or a dict of its fields. Defaults to its defaults."""
    training: Training | None = None
    """Training settings of this member, except the seed. Defaults to those of the whole model."""

    def __post_init__(self) -> None:
        if self.model not in palate.MODELS:
            near = get_close_matches(self.model, palate.MODELS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; choose one of {', '.join(palate.MODELS)}"
            raise ConfigError(f"Member: there is no model {self.model!r}{hint}")
        kind = self.kind.Config
        if not isinstance(self.config, kind):
            object.__setattr__(self, "config", from_dict(kind, {} if self.config is None else self.config))

    @classmethod
    def parse(cls, member: str | Member) -> Member:
        """A member from a name, or from a JSON table of model, config and training.

        Raises:
            ConfigError: The text starts like JSON and is not, or names no model.
        """
        if isinstance(member, Member):
            return member
        if not member.lstrip().startswith("{"):
            return cls(model=member)
        try:
            return from_dict(cls, json.loads(member))
        except ValueError as error:
            raise ConfigError(f"the member {member!r} is not valid JSON: {error}") from None

    @property
    def kind(self) -> type[Model]:
        """The model's class."""
        return palate.MODELS[self.model]

    def build(self, spec: Spec) -> Model:
        """The model, not yet fitted."""
        return self.kind(self.config, spec)

    def fit(self, model: Model, part: str, name: str, data: Dataset, job: TrainRun) -> list[Epoch]:
        """Fit the member's model as part of a larger run.

        Args:
            model: From `build`.
            part: The whole model's attribute that holds it.
            name: Tells the member from the others: marks its records and names its checkpoint folder.
            data: The training data.
            job: The run of the whole model. Its validation part is restricted to what the member can answer.

        Returns:
            The member's records, marked with `name`.
        """

        def mark(record: Epoch) -> Epoch:
            return replace(record, member=f"{name}/{record.member}" if record.member else name)

        on_epoch = job.on_epoch
        start = None if job.start is None else job.start.member(part, name)
        settings = self.settings(job)
        records = model.fit(
            data,
            settings if start is None else start.training(settings.filled(model.default_training)),
            None if job.validate is None else job.validate.for_member(model),
            checkpoint=None if job.checkpoint is None else job.checkpoint / name,
            every=job.every,
            on_epoch=None if on_epoch is None else lambda record: on_epoch(mark(record)),
            on_step=job.on_step,
            start=start,
        )
        return [mark(record) for record in records]

    def settings(self, job: TrainRun) -> Training:
        """The member's training settings in a run: its own, or those of the run; always the run's seed and device."""
        return replace(self.training or job.training, seed=job.training.seed, device=job.training.device)
