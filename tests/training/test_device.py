"""Training on another device: each gradient model trains there as on the CPU; mixtures of devices are caught.

There need be no such device: `pretend_device` behaves like one. A GPU remains the judge of speed and of kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from palate.config import Training
from palate.data.ragged import Ragged
from palate.device import module_device, to_device
from palate.errors import ConfigError
from palate.evaluation.validate import Validator
from palate.models import MODELS
from palate.models.base import GradientModel
from palate.recommender.recommender import Recommender
from palate.testing.case import planted
from pictures import pictured
from pretend_device import PRETEND, Pretended, Pretending

NAMES = [name for name, kind in MODELS.items() if issubclass(kind, GradientModel)]


def trained(name: str, device: str) -> tuple[GradientModel, list[dict[str, float]]]:
    """A model after an epoch with validation, and what validation gave."""
    parts = pictured() if name == "image-cnn" else planted()
    kind: Any = MODELS[name]
    model = kind(kind.Config(), kind.spec_of(parts.train))
    training = Training(epochs=1, batch_size=512, embeddings="dense", device=device)
    records = model.fit(parts.train, training, Validator(parts.test, model, max_users=20))
    return model, [{"train": record.loss, **record.valid} for record in records]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_trains_there_as_on_the_cpu(name: str) -> None:
    here, wanted = trained(name, "cpu")
    with Pretending():
        there, found = trained(name, str(PRETEND))
    assert module_device(there) == torch.device("cpu")
    assert found[0] == pytest.approx(wanted[0], rel=1e-4, abs=1e-5)
    weights = here.state_dict()
    for key, value in there.state_dict().items():
        assert not isinstance(value, Pretended), key
        torch.testing.assert_close(value, weights[key], rtol=1e-3, atol=1e-4, msg=key)


def test_a_run_goes_on_on_another_device(tmp_path: Path) -> None:
    data = planted().train

    def fit(device: str, epochs: int, checkpoint: Path | None) -> dict[str, Tensor]:
        model = MODELS["multvae"](MODELS["multvae"].Config(), data.spec)
        training = Training(epochs=epochs, embeddings="dense", device=device)
        model.fit(data, training, checkpoint=checkpoint)
        return model.state_dict()

    wanted = fit("cpu", 2, None)
    with Pretending():
        fit(str(PRETEND), 1, tmp_path)
    for key, value in fit("cpu", 2, tmp_path).items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-3, atol=1e-4, msg=key)


def test_a_device_that_is_not_there_is_refused() -> None:
    data = planted().train
    for name in ("cuda:99", "gpu"):
        with pytest.raises(ConfigError, match=rf"device = '{name}' is no device of this machine; it has cpu"):
            MODELS["mf"](MODELS["mf"].Config(), data.spec).fit(data, Training(device=name))


def test_the_device_of_a_run_reaches_the_members_of_a_blend() -> None:
    data = planted().train
    members = [{"model": "mf", "training": {"epochs": 1}}, "popularity"]
    with pytest.raises(ConfigError, match="device = 'cuda:99'"):
        Recommender.train(data, "blend", {"members": members}, Training(device="cuda:99"), planted().test)


def test_a_validator_follows_its_model_to_another_device() -> None:
    data, kind = planted().train, MODELS["multvae"]
    model = kind(kind.Config(), data.spec)
    validator = Validator(planted().test, model, max_users=20)
    for device in (str(PRETEND), "cpu"):
        with Pretending():
            [record] = model.fit(data, Training(epochs=1, embeddings="dense", device=device), validator)
        assert record.valid["loss"] > 0


def test_fbgemm_stays_on_the_cpu() -> None:
    data = planted().train
    training = Training(device=str(PRETEND), embeddings="fbgemm", optimizer="adagrad")
    with Pretending(), pytest.raises(ConfigError, match="embeddings = 'fbgemm' runs on the CPU only"):
        MODELS["mf"](MODELS["mf"].Config(), data.spec).fit(data, training)


def test_only_what_must_move_is_copied() -> None:
    class Pair(NamedTuple):
        one: Tensor
        other: Any

    here = Pair(torch.ones(2), [Ragged.of([[1], [2, 3]]), {"three": torch.zeros(1)}, "text", None])
    assert to_device(here, torch.device("cpu")) is here
    with Pretending():
        there = to_device(here, PRETEND)
        assert isinstance(there.one, Pretended)
        assert isinstance(there.other[0].values, Pretended)
        assert isinstance(there.other[1]["three"], Pretended)
        assert there.other[2:] == ["text", None]
        back = to_device(there, torch.device("cpu"))
    assert torch.equal(back.other[0].values, here.other[0].values)


# Mixtures that a GPU would refuse, each beside what is right


PLAIN = torch.ones(6)
MIXTURES: dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Any]]] = {
    "a tensor that is no buffer": (lambda x: x * PLAIN, lambda x: x * PLAIN.to(x.device)),
    "a factory without a device": (lambda x: x + torch.arange(6), lambda x: x + torch.arange(6, device=x.device)),
    "a mask of the CPU": (lambda x: x * (torch.rand(6) < 0.5), lambda x: x * (torch.rand(6) < 0.5).to(x.device)),
    "values of NumPy": (lambda x: x.detach().numpy(), lambda x: x.detach().cpu().numpy()),
    "a generator of the CPU": (
        lambda x: torch.randn(6, device=x.device, generator=torch.Generator()),
        lambda x: torch.randn(6, generator=torch.Generator()).to(x.device),
    ),
    "an output of the CPU": (lambda x: torch.add(x, x, out=torch.empty(6)), lambda x: torch.add(x, x)),
    "rows of the CPU": (
        lambda x: x.index_add(0, torch.zeros(6, dtype=torch.int64), x),
        lambda x: x.index_add(0, torch.zeros(6, dtype=torch.int64, device=x.device), x),
    ),
}


@pytest.mark.parametrize("kind", MIXTURES)
def test_mixtures_are_caught(kind: str) -> None:
    wrong, right = MIXTURES[kind]
    with Pretending():
        x = torch.ones(6).to(PRETEND)
        right(x)
        with pytest.raises((RuntimeError, TypeError)):
            wrong(x)
