"""What one process of two does in `test_processes.py`: it trains, resumes, is refused, and at last loses the other.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=... python world.py FOLDER

It writes what it found into `FOLDER/RANK.json`. The functions above `main` are those of a run by one process, too.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

import palate.training.processes  # noqa: F401  # the processes train together
from palate.config import Training
from palate.errors import PalateError
from palate.evaluation.validate import Validator
from palate.models import MODELS
from palate.testing.case import planted

SMALL: dict[str, dict[str, Any]] = {
    "mf": {"dim": 8},
    "neumf": {"dim": 4, "mlp_dim": 8, "layers": (8,)},
    "multvae": {"hidden": 16, "dim": 8},
    "two-tower": {"dim": 8, "text": "bag"},
    "sasrec": {"dim": 8},
}
"""Models that are compared with a run by one process, and their settings."""
COMMAND = ["train", "mf", "--dim", "8", "--training.epochs", "2", "--split", "random"]


@contextmanager
def without_noise() -> Iterator[None]:
    """Nothing is dropped and no noise added; what a generator decides stays."""
    rand, randn_like = torch.rand, torch.randn_like

    def ones(*shape: int, generator: Any = None, **options: Any) -> torch.Tensor:
        return torch.ones(*shape, **options) if generator is None else rand(*shape, generator=generator, **options)

    torch.rand, torch.randn_like = ones, torch.zeros_like  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.rand, torch.randn_like = rand, randn_like


def model_of(name: str, dropout: bool = False, **settings: Any) -> Any:
    kind, settings = MODELS[name], SMALL.get(name, {}) | settings
    if not dropout:
        settings |= {f.name: 0.0 for f in fields(kind.Config) if f.name in ("dropout", "id_dropout")}
    return kind(kind.Config(**settings), kind.spec_of(planted().train))


def fit(model: Any, steps: int = 0, checkpoint: Path | None = None, **training: Any) -> dict[str, Any]:
    """The losses of the steps, the metrics of the epochs and hashes of the weights; dies after `steps`, if given."""
    losses: list[float] = []
    settings = Training(**{"epochs": 2, "batch_size": 64, "optimizer": "adagrad", **training})
    if steps:
        whole, left = model.loss, [steps]

        def mortal(batch: Any, context: Any) -> Any:
            left[0] -= model.training
            if left[0] < 0:
                raise KeyboardInterrupt
            return whole(batch, context)

        model.loss = mortal
    records = model.fit(
        planted().train, settings, Validator(planted().test, model, max_users=20), checkpoint=checkpoint, every=0.0,
        on_step=lambda epoch, done, total, loss: losses.append(loss),
    )  # fmt: skip
    weights = {name: sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in model.state_dict().items()}
    return {"losses": losses, "valid": [record.valid for record in records], "weights": weights}


def ials() -> list[list[float]]:
    """Some vectors of iALS, whose settings are chosen on the validation part."""
    model = MODELS["ials"](MODELS["ials"].Config(dim=4, alpha=0.5, iterations=3), planted().train.spec)
    model.fit(planted().train, Training(), Validator(planted().test, model, max_users=20))
    return [row.tolist() for row in (model.user[7], model.user[-1], model.item[0], model.item[-1])]


def message(action: Callable[[], Any]) -> str:
    try:
        action()
    except (PalateError, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


def main(folder: Path) -> None:
    from palate.training.processes import join

    world, found = join(), dict[str, Any]()
    with without_noise():
        found["equal"] = {name: fit(model_of(name)) for name in SMALL}
        found["by rows"] = fit(model_of("mf"), embeddings="rowwise", optimizer="adam")
        found["of one, by two"] = fit(model_of("neumf"), checkpoint=folder / "one")
        found["began"] = message(lambda: fit(model_of("neumf"), steps=20, checkpoint=folder / "two"))
    found["ials"] = ials()
    noisy = {"optimizer": "adam", "epochs": 3}
    found["noise"] = fit(model_of("multvae", dropout=True), **noisy)
    message(lambda: fit(model_of("multvae", dropout=True), steps=4, checkpoint=folder / "killed", **noisy))
    found["noise, resumed"] = fit(model_of("multvae", dropout=True), checkpoint=folder / "killed", **noisy)
    data = planted().train
    other = data if world.first else replace(data, rating=data.rating[::-1].copy())  # type: ignore[index]
    found["refused"] = {
        "data": message(lambda: model_of("mf").fit(other)),
        "settings": message(lambda: model_of("mf").fit(data, Training(lr=0.1 if world.first else 0.2))),
        "rows": message(lambda: model_of("mf").fit(data, Training(batch_size=1))),
        "model": message(lambda: model_of("xsimgcl").fit(data)),
        "lost": message(lambda: damaged(folder / "one", world)),
    }
    found["command"] = commanded([*COMMAND, str(folder / "rows.csv"), "--out", str(folder / "run")])
    with world.busy():  # longer than the timeout
        time.sleep(4 if world.first else 0)
    found["rank"] = world.from_first(world.rank)
    (folder / f"{world.rank}.json").write_text(json.dumps(found))
    start = time.perf_counter()
    last = message(lambda: hanging(world))
    (folder / "last.json").write_text(json.dumps([last, time.perf_counter() - start]))


def commanded(words: list[str]) -> list[str]:
    """What `palate` writes to standard output and standard error."""
    from palate.cli import main as palate

    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as errors, suppress(SystemExit):
        palate(words)
    return [out.getvalue(), errors.getvalue()]


def damaged(checkpoint: Path, world: Any) -> None:
    """Only process 0 reads the checkpoint, and finds it damaged."""
    if world.first:
        (checkpoint / "latest").write_text("nothing")
    fit(model_of("neumf"), checkpoint=checkpoint)


def hanging(world: Any) -> None:
    """Process 1 stops in its third step."""
    model = model_of("mf")
    whole, left = model.loss, [3]

    def loss(batch: Any, context: Any) -> Any:
        left[0] -= 1
        if not left[0] and not world.first:
            os.kill(os.getpid(), signal.SIGSTOP)
        return whole(batch, context)

    model.loss = loss
    fit(model)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
