"""Settings that a model chooses by itself: a small search, judged on the validation part and on nothing else.

A field of a model's config that is None is open. Without a validation part an open setting has the value of a rule that
reads the size of the data. With one, the search starts from that value and climbs: it tries the neighbours of one
setting after the other, walks on while the metric improves by a share of `MIN_GAIN`, and ends when no neighbour does.
Models fit each candidate from what all share (a Gram matrix, a decomposition), so that a search costs a few fits.

What was chosen replaces the None in `model.config`, which is what an artifact saves, and is said in `model.chosen`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from palate.data.dataset import Dataset
from palate.training.train_run import TrainRun

MAX_FITS = 16
"""Most candidates of one search."""
MIN_GAIN = 0.005
"""Share by which a step must improve the metric: less is often the noise of a small validation part."""
MAX_JUDGED_USERS = 2000
"""Users of the validation part that candidates are judged on, if it has more: a random sample, the same for all."""

Value = int | float | str
Ladders = Mapping[str, Sequence[Value]]


def choose(model: Any, job: TrainRun, rule: Mapping[str, Value], ladders: Ladders, fit: Callable[[], None]) -> bool:
    """Complete `model.config`: choose what `model.given`, the config the model was built with, leaves open.

    Args:
        model: The model.
        job: Its run. Without `validate` the rule decides; a warm start keeps the settings of the model it starts from.
        rule: A value for each setting that may be open.
        ladders: The values of each of these settings that may be tried, in order; the rule's is among them.
        fit: Fits the model under `model.config`. Every call finds the random numbers in the same state.

    Returns:
        Whether the model already holds the fit of the settings that were chosen.
    """
    given = model.given
    best = {name: value for name, value in rule.items() if getattr(given, name) is None}
    if job.start is not None:
        known = {name: getattr(job.start.model.config, name) for name in best}
        best |= {name: value for name, value in known.items() if value is not None}
    model.config, model.chosen = replace(given, **best), ""
    if job.validate is None or job.start is not None or not best:
        return False
    judge = job.validate.sampled(model, MAX_JUDGED_USERS)
    state, order, sign = torch.get_rng_state(), job.rng.get_state(), 1 if judge.higher_is_better else -1
    found: dict[tuple[Value, ...], float] = {}

    def reset(settings: Mapping[str, Value]) -> None:
        model.config = replace(given, **settings)
        torch.set_rng_state(state)
        job.rng.set_state(order)

    def value(settings: Mapping[str, Value]) -> float:
        key = tuple(settings.values())
        if key not in found:
            if len(found) >= MAX_FITS:
                return -np.inf
            reset(settings)
            fit()
            found[key] = sign * judge(model)[judge.metric]
        return found[key]

    climbed = climb(best, ladders, value)
    holds = tuple(climbed.values()) == list(found)[-1]
    reset(climbed)
    words = ", ".join(f"{name} {x:.4g}" if isinstance(x, float) else f"{name} {x}" for name, x in climbed.items())
    reached = sign * found[tuple(climbed.values())]
    model.chosen = f"{words} chosen on valid of {len(found)} settings ({judge.metric} {reached:.4f})"
    return holds


def climb(
    start: Mapping[str, Value], ladders: Ladders, value: Callable[[Mapping[str, Value]], float]
) -> dict[str, Value]:
    """The settings from which no step along one ladder is better.

    Args:
        start: A value of each setting, which is on its ladder.
        ladders: Values of each setting, in order.
        value: What is maximised; called again for the same settings.
    """
    best, before = dict(start), None
    value(best)
    while best != before:
        before = dict(best)
        for name in best:
            for step in (1, -1):
                while (place := ladders[name].index(best[name]) + step) in range(len(ladders[name])):
                    tried = best | {name: ladders[name][place]}
                    if value(tried) <= (bar := value(best)) + MIN_GAIN * abs(bar):
                        break
                    best = tried
    return best


def around(value: float, factor: float, steps: int) -> tuple[float, ...]:
    """A ladder: `value` times powers of `factor`, `steps` of them on either side."""
    return tuple(value * factor**power for power in range(-steps, steps + 1))


def noise_level(data: Dataset) -> float:
    """sqrt(m) + sqrt(n), where m is the mean weight of a user's interactions in all and n that of an item's.

    This is about the largest singular value of a random interaction matrix with as many entries (Bai, Yin 1993):
    directions with smaller singular values are noise. So it is the scale that the strength of a regularisation is
    measured in, on dense and on sparse, on small and on large data alike.
    """
    total = float(len(data)) if data.weight is None else float(data.weight.sum(dtype=np.float64))
    total = max(total, 1.0)
    return float((total / max(data.n_users, 1)) ** 0.5 + (total / max(data.n_items, 1)) ** 0.5)
