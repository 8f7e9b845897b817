"""Optimizers: dense rules for most parameters, row-sparse rules for embedding tables.

A dense optimizer updates every row of a table at every step. The row-sparse form touches the rows of the batch only, so
a step costs about the same for a thousand users and for a million. On rows in the batch both follow the same rule:

    adam     m = 0.9 m + 0.1 g;  v = 0.999 v + 0.001 g^2;  w -= lr m' / (sqrt(v') + 1e-8), m' and v' corrected for
             their start at zero (Kingma and Ba 2015)
    adagrad  s += mean(g^2) over the row;  w -= lr g / (sqrt(s) + 1e-10): one accumulator per row of a table (the rule
             of FBGEMM's row-wise Adagrad), one per entry of other parameters (Duchi et al. 2011)
    sgd      w -= lr g

with decoupled weight decay, w -= lr * weight_decay * w (Loshchilov and Hutter 2019), for all three. The row-sparse
form is lazy: rows outside the batch neither decay nor follow their momentum, and the bias correction of a row counts
all steps.

Legend: R touched rows, D width of a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from palate.config import CompleteTraining
from palate.training.fbgemm import FusedAdagrad

fused_adamw: Callable[..., None] | None
try:
    from torch.optim.adamw import adamw as fused_adamw
except ImportError:  # not part of torch's documented interface
    fused_adamw = None

DENSE_ROWS, DENSE_LEAST = 10, 8192
"""`auto` updates a table densely if it has at most this multiple of the batch size, or so few rows: touching all is
then cheaper than sorting those of the batch (benchmarks/results/optimizer_crossover.md)."""

BETA1, BETA2, ADAM_EPS, ADAGRAD_EPS = 0.9, 0.999, 1e-8, 1e-10

Gradient = tuple[Tensor | None, Tensor]
"""Rows and their gradients `[R, D]`; None for all rows. Rows may repeat if FBGEMM adds them up itself."""


class Optimizer:
    """All parameters of a model under one rule.

    Between construction and `release`, tables that are updated by rows give sparse gradients.

    Args:
        model: Its `nn.Embedding` tables may be updated by rows; all other parameters are dense.
        config: Reads `optimizer`, `lr`, `weight_decay`, `embeddings`, `batch_size`, `grad_clip`.
        world: The processes that train together, whose gradients are added up before each step. Defaults to one.

    Raises:
        MissingExtra: `embeddings` is fbgemm and FBGEMM is not installed.
        ConfigError: FBGEMM does not have the rule.
    """

    def __init__(self, model: nn.Module, config: CompleteTraining, world: Any = None) -> None:
        self.config, self._world = config, world
        tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m.weight.requires_grad]
        self._sparse = [(m, m.sparse) for m in tables if steps_by_rows(m, config)]
        # With Adagrad a table follows the row-wise rule under dense gradients too: `embeddings` does not change it.
        own = tables if config.optimizer == "adagrad" else [m for m, _ in self._sparse]
        fused = {id(m.weight) for m, _ in self._sparse} if config.embeddings == "fbgemm" else set()
        weights: dict[int, Tensor] = {id(m.weight): m.weight for m in own}  # two tables may share a weight
        self._tables = [Table(weight, config, key in fused) for key, weight in weights.items()]
        self.dense = [p for p in model.parameters() if p.requires_grad and id(p) not in weights]
        self._rule = Dense(self.dense, config)
        for table, _ in self._sparse:
            table.sparse = True

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for parameter in self.dense:
            parameter.grad = None
        for table in self._tables:
            table.weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        if self._world is not None:
            self._world.add_gradients(self.dense, [table.weight for table in self._tables])
        config, places = self.config, RowDeduplicator()
        gradients = [(table, table.gradient(places)) for table in self._tables if table.weight.grad is not None]
        if config.grad_clip:
            dense = [p.grad for p in self.dense if p.grad is not None]
            _clip([*dense, *(values for _, (_, values) in gradients)], config.grad_clip)
        self._rule.step()
        for table, gradient in gradients:
            table.step(*gradient)

    def release(self) -> None:
        """Clear the gradients and let the tables give dense ones again, as before."""
        self.zero_grad()
        for table, sparse in self._sparse:
            table.sparse = sparse

    def state(self) -> dict[str, Tensor]:
        """All state as named tensors, for a checkpoint; not copies."""
        found: dict[str, Tensor] = {}
        for name, values in self._rule.state.items():
            found |= {f"dense.{index}.{name}": value for index, value in enumerate(values)}
        for index, table in enumerate(self._tables):
            found |= {f"rows.{index}.{name}": value for name, value in table.state.items()}
        return found

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        for name, value in self.state().items():
            value.copy_(state[name])


class Dense:
    """All dense parameters under one rule.

    Adam is torch's fused function, without its `Optimizer` class: the class imports torch's compiler, which costs every
    training process more than a second (docs/decisions/18-private-torch.md). If the function is missing, the same rule
    is computed by public operations.

    Attributes:
        parameters: The parameters that move.
        state: Name -> one tensor for each parameter.
    """

    def __init__(self, parameters: list[nn.Parameter], config: CompleteTraining) -> None:
        self.parameters, self.config = parameters, config
        names = {"adam": ("exp_avg", "exp_avg_sq"), "adagrad": ("sum",), "sgd": ()}[config.optimizer]
        self.state = {name: [_zeros_like(p) for p in parameters] for name in names}
        if config.optimizer == "adam":
            self.state["step"] = [torch.zeros((), device=p.device) for p in parameters]

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        moving = [index for index, p in enumerate(self.parameters) if p.grad is not None]
        if self.config.optimizer == "adam" and fused_adamw is not None:
            self._fused_adam(moving, fused_adamw)
            return
        lr, decay = self.config.lr, self.config.weight_decay
        for index in moving:
            weight, gradient = self.parameters[index], self.parameters[index].grad
            assert gradient is not None  # `moving` has no others
            if decay:
                weight.mul_(1 - lr * decay)
            if self.config.optimizer == "adam":
                weight.add_(self._adam_change(index, gradient))
            elif self.config.optimizer == "adagrad":
                square = self.state["sum"][index].addcmul_(gradient, gradient)
                weight.addcdiv_(gradient, square.sqrt().add_(ADAGRAD_EPS), value=-lr)
            else:
                weight.add_(gradient, alpha=-lr)

    def _fused_adam(self, moving: list[int], adamw: Callable[..., None]) -> None:
        weights: list[Tensor] = [self.parameters[index] for index in moving]
        gradients = [p.grad for p in weights if p.grad is not None]
        state = {name: [values[index] for index in moving] for name, values in self.state.items()}
        adamw(
            weights, gradients, state["exp_avg"], state["exp_avg_sq"], [], state["step"], fused=True, amsgrad=False,
            beta1=BETA1, beta2=BETA2, lr=self.config.lr, weight_decay=self.config.weight_decay, eps=ADAM_EPS,
            maximize=False,
        )  # fmt: skip

    def _adam_change(self, index: int, gradient: Tensor) -> Tensor:
        steps = int(self.state["step"][index].add_(1))
        mean, square = self.state["exp_avg"][index], self.state["exp_avg_sq"][index]
        return adam_change(gradient, mean, square, steps, self.config.lr)


def adam_change(gradient: Tensor, mean: Tensor, square: Tensor, steps: int, lr: float) -> Tensor:
    """The change of the weights by Adam, without weight decay; updates both moments in place.

    Args:
        gradient: Gradient of the weights.
        mean, square: Running means of the gradient and of its square.
        steps: Number of steps, this one included.
        lr: Learning rate.
    """
    mean.lerp_(gradient, 1 - BETA1)
    square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    size = square.sqrt().div_(math.sqrt(1 - BETA2**steps)).add_(ADAM_EPS)
    return torch.div(mean, size).mul_(-lr / (1 - BETA1**steps))


class Table:
    """One embedding table under the row-sparse rule: only rows with a gradient are updated.

    Attributes:
        weight: `[rows, D]`.
        state: For adam `moments`, `[rows, 2 D]`, m beside v so that the state of a row is contiguous, and `steps`; for
            adagrad `square`, `[rows]`; for sgd nothing.
    """

    def __init__(self, weight: Tensor, config: CompleteTraining, fused: bool) -> None:
        self.weight = weight
        self.config = config
        rows, width = weight.shape
        self.state: dict[str, Tensor] = {}
        if config.optimizer == "adam":
            self.state = {
                "moments": _zeros(rows, 2 * width, device=weight.device),
                "steps": torch.zeros((), dtype=torch.int64),
            }
        elif config.optimizer == "adagrad":
            self.state = {"square": _zeros(rows, device=weight.device)}
        self._fused = FusedAdagrad(weight, self.state.get("square"), config, ADAGRAD_EPS) if fused else None

    def gradient(self, places: RowDeduplicator) -> Gradient:
        """The rows that have a gradient, and their gradients."""
        found = self.weight.grad
        assert found is not None
        if not found.is_sparse:  # the weight was also used as a matrix, for example against all items
            return None, found
        rows, values = found._indices()[0], found._values()  # `indices()` would add up repeated rows first
        if self._fused is not None and not (self.config.grad_clip or self.config.weight_decay):
            return rows, values
        unique, place = places.of(rows)
        return unique, values.new_zeros(len(unique), values.shape[1]).index_add_(0, place, values)

    def step(self, rows: Tensor | None, gradient_RD: Tensor) -> None:
        """Move the rows."""
        config = self.config
        if self._fused is not None and rows is not None:
            if config.weight_decay:
                decay_RD = self.weight.index_select(0, rows).mul_(-config.lr * config.weight_decay)
                self.weight.index_add_(0, rows, decay_RD)
            self._fused(rows, gradient_RD)
            return
        if config.optimizer == "adam":
            change_RD = self._adam(rows, gradient_RD)
        elif config.optimizer == "adagrad":
            change_RD = self._adagrad(rows, gradient_RD)
        else:
            change_RD = gradient_RD * -config.lr
        if config.weight_decay:
            weight_RD = self.weight if rows is None else self.weight.index_select(0, rows)
            change_RD.sub_(weight_RD, alpha=config.lr * config.weight_decay)
        if rows is None:
            self.weight.add_(change_RD)
        else:
            self.weight.index_add_(0, rows, change_RD)  # its alpha= is three times slower than scaling first

    def _adam(self, rows: Tensor | None, gradient_RD: Tensor) -> Tensor:
        width = gradient_RD.shape[1]
        steps = int(self.state["steps"].add_(1))
        all_moments = self.state["moments"]
        moments = all_moments if rows is None else all_moments.index_select(0, rows)
        mean_RD, square_RD = moments[:, :width], moments[:, width:]
        change_RD = adam_change(gradient_RD, mean_RD, square_RD, steps, self.config.lr)
        if rows is not None:
            all_moments.index_copy_(0, rows, moments)
        return change_RD

    def _adagrad(self, rows: Tensor | None, gradient_RD: Tensor) -> Tensor:
        all_squares = self.state["square"]
        square_R = all_squares if rows is None else all_squares.index_select(0, rows)
        square_R.add_(gradient_RD.square().mean(1))
        if rows is not None:
            all_squares.index_copy_(0, rows, square_R)
        return gradient_RD * (-self.config.lr / (square_R.sqrt() + ADAGRAD_EPS)).unsqueeze(1)


class RowDeduplicator:
    """Distinct rows of a step's indices; tables looked up by the same indices share the work."""

    def __init__(self) -> None:
        self._known: list[tuple[Tensor, tuple[Tensor, Tensor]]] = []

    def of(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Distinct rows, ascending, and each index's place among them."""
        for known, found in self._known:
            if torch.equal(known, index):
                return found
        found = _unique(index)
        self._known.append((index, found))
        return found


def _unique(index: Tensor) -> tuple[Tensor, Tensor]:
    """As `torch.unique` with its inverse, in a third of the time for ten thousand indices on a CPU.

    Index and position share one 64-bit key, so that a plain sort, which NumPy vectorises, gives both.
    """
    if index.device.type != "cpu":
        found, inverse = torch.unique(index, return_inverse=True)
        return found, inverse
    count = len(index)
    bits = count.bit_length()
    key = np.sort((index.numpy() << bits) | np.arange(count))
    rows, position = key >> bits, key & ((1 << bits) - 1)
    first = np.ones(count, dtype=bool)
    np.not_equal(rows[1:], rows[:-1], out=first[1:])
    place = np.empty(count, dtype=np.int64)
    place[position] = np.cumsum(first) - 1
    return torch.from_numpy(rows[first]), torch.from_numpy(place)


def steps_by_rows(table: nn.Embedding, config: CompleteTraining) -> bool:
    """Whether a table is updated by rows under these settings, and so needs sparse gradients."""
    if table.scale_grad_by_freq:  # torch has no sparse gradient for it
        return False
    if config.embeddings == "auto":
        return table.num_embeddings > max(DENSE_ROWS * config.batch_size, DENSE_LEAST)
    return config.embeddings != "dense"


def _clip(gradients: Sequence[Tensor], most: float) -> None:
    """Scale all gradients in place so that their common norm is at most `most`."""
    norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
    scale = (most / (torch.linalg.vector_norm(norms) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale)


def _zeros(*shape: int, device: torch.device) -> Tensor:
    """Zeros; on a CPU their memory is taken when a row is first touched, where `torch.zeros` writes all of it."""
    if device.type != "cpu":
        return torch.zeros(shape, device=device)
    return torch.from_numpy(np.zeros(shape, dtype=np.float32))


def _zeros_like(weight: Tensor) -> Tensor:
    return _zeros(*weight.shape, device=weight.device)
