"""From a model's name and settings to a model built for the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from palate.config import Training, from_dict
from palate.data.dataset import Dataset
from palate.data.queries import FEATURES
from palate.errors import ConfigError
from palate.models import MODELS
from palate.models.base import GradientModel, Model


def fresh_model(model: str | Model, config: Any, data: Dataset) -> tuple[str, Model]:
    """A model's name, and the untrained model built for the data.

    Args:
        model: A name in `MODELS`, or a model object, which is checked against the data.
        config: Settings of a model given by name: its `Config` or a dict of its fields; None for the defaults.
        data: The training data.

    Raises:
        ConfigError: There is no such model or setting, or the model object was built for other data.
        DataError: The data lacks features that the model needs.
    """
    if isinstance(model, Model):
        if config is not None:
            raise ConfigError("config= goes with a model's name; a model object has its own settings")
        _check_spec(model, data)
        return next((name for name, known in MODELS.items() if known is type(model)), type(model).__name__), model
    if model not in MODELS:
        near = get_close_matches(str(model), MODELS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no model {model!r}; choose one of {', '.join(MODELS)}{hint}")
    kind = MODELS[model]
    if not isinstance(config, (kind.Config, Mapping, type(None))):
        raise ConfigError(
            f"config for {model!r} must be a {kind.Config.__name__} or a dict, not {type(config).__name__}"
        )
    settings = config if isinstance(config, kind.Config) else from_dict(kind.Config, dict(config or {}))
    data.require(kind.needs & FEATURES, kind.__name__)
    return model, kind(settings, kind.spec_of(data))


def uses_training(model: type[Model]) -> bool:
    """Whether a model takes gradient steps, itself or through its members, and so uses more of `Training` than `seed`.

    Models with members leave settings of their `default_training` open.
    """
    return issubclass(model, GradientModel) or model.default_training == Training()


def _check_spec(model: Model, data: Dataset) -> None:
    wanted = model.spec_of(data)
    if model.spec == wanted or (model.spec == data.spec and not model.needs & FEATURES):
        return
    name = type(model).__name__
    if replace(model.spec, item_features=wanted.item_features, user_features=wanted.user_features) == wanted:
        raise ConfigError(
            f"{name} was built for other features than this data's; build it with {name}(config, {name}.spec_of(data))"
        )
    built, given = (
        f"{spec.n_users} users, {spec.n_items} items and rating scale {spec.rating_scale}"
        for spec in (model.spec, wanted)
    )
    raise ConfigError(f"{name} was built for {built}, but the data has {given}; build it on data.spec")
