"""Optimizers: torch's own for dense parameters, row-sparse rules for embedding tables.

A dense optimizer pays for every row of a table at every step; the row-sparse form touches the rows of the batch only,
so a step costs about the same for a thousand users and for a million. On rows that are in the batch both follow one
rule:

    adam     m = 0.9 m + 0.1 g;  v = 0.999 v + 0.001 g^2;  w -= lr m' / (sqrt(v') + 1e-8), m' and v' corrected for
             their start at zero (Kingma and Ba 2015)
    adagrad  s += mean(g^2) over the row;  w -= lr g / (sqrt(s) + 1e-10): one accumulator for a row of a table (the
             rule of FBGEMM's row-wise Adagrad), one for an entry elsewhere (Duchi et al. 2011)
    sgd      w -= lr g

with decoupled weight decay, w -= lr * weight_decay * w (Loshchilov and Hutter 2019), for all three. The row-sparse
form is lazy: rows that are not in a batch neither decay nor follow their momentum, and a row's correction counts all
steps.

Legend: R touched rows, D width of a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adagrad import adagrad
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from palate.config import Recipe
from palate.training.fbgemm import FusedAdagrad

DENSE_ROWS, DENSE_LEAST = 10, 8192
"""`auto` steps tables of up to so many times the batch, and of so few rows, densely: below, touching all rows is
cheaper than sorting the batch's (benchmarks/results/optimizer_crossover.md)."""

ADAM_EPS, ADAGRAD_EPS = 1e-8, 1e-10

Gradient = tuple[Tensor | None, Tensor]
"""Rows and their gradients `[R, D]`; None for all rows. Rows may repeat where FBGEMM adds them up itself."""


class Optimizer:
    """All parameters of a model under one rule.

    While it lives, tables that step by rows give sparse gradients; `release` puts them back.

    Args:
        model: Its `nn.Embedding` tables may step by rows; everything else is dense.
        config: `optimizer`, `lr`, `weight_decay`, `embeddings`, `batch_size`, `grad_clip`.

    Raises:
        MissingExtra: `embeddings` is fbgemm and FBGEMM is not installed.
        ConfigError: FBGEMM lacks the rule asked for.
    """

    def __init__(self, model: nn.Module, config: Recipe) -> None:
        self.config = config
        tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m.weight.requires_grad]
        self._sparse = [(m, m.sparse) for m in tables if _by_rows(m, config)]
        # With Adagrad a table follows the row-wise rule under dense gradients too: one rule whatever `embeddings` says.
        own = tables if config.optimizer == "adagrad" else [m for m, _ in self._sparse]
        fused = {id(m.weight) for m, _ in self._sparse} if config.embeddings == "fbgemm" else set()
        weights: dict[int, Tensor] = {id(m.weight): m.weight for m in own}  # two tables may share a weight
        self._tables = [Table(weight, config, key in fused) for key, weight in weights.items()]
        self.dense = [p for p in model.parameters() if p.requires_grad and id(p) not in weights]
        self._rule = Dense(self.dense, config)
        for table, _ in self._sparse:
            table.sparse = True

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.dense:
            parameter.grad = None
        for table in self._tables:
            table.weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        config, places = self.config, Places()
        gradients = [(table, table.gradient(places)) for table in self._tables if table.weight.grad is not None]
        if config.grad_clip:
            dense = [p.grad for p in self.dense if p.grad is not None]
            _clip([*dense, *(values for _, (_, values) in gradients)], config.grad_clip)
        self._rule.step()
        for table, gradient in gradients:
            table.step(*gradient)

    def release(self) -> None:
        """Forget the gradients and let the tables give dense ones again, as they did before."""
        self.zero_grad()
        for table, sparse in self._sparse:
            table.sparse = sparse

    def state(self) -> dict[str, Tensor]:
        """All state as named tensors, for a checkpoint; they are the live ones."""
        found: dict[str, Tensor] = {}
        for name, values in self._rule.state.items():
            found |= {f"dense.{index}.{name}": value for index, value in enumerate(values)}
        for index, table in enumerate(self._tables):
            found |= {f"rows.{index}.{name}": value for name, value in table.state.items()}
        return found

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        for name, value in self.state().items():
            value.copy_(state[name])


class Dense:
    """All dense parameters under torch's rule.

    Its functions are called without its `Optimizer` classes: those import torch's compiler, which nothing here needs.

    Attributes:
        parameters: Those that move.
        state: Name -> one tensor for each parameter.
    """

    def __init__(self, parameters: list[nn.Parameter], config: Recipe) -> None:
        self.parameters, self.config = parameters, config
        of_entries = {"adam": ("exp_avg", "exp_avg_sq"), "adagrad": ("sum",), "sgd": ()}[config.optimizer]
        self.state = {name: [_zeros(*p.shape) for p in parameters] for name in of_entries}
        if config.optimizer != "sgd":
            self.state["step"] = [torch.zeros(()) for _ in parameters]

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        config = self.config
        moving = [index for index, p in enumerate(self.parameters) if p.grad is not None]
        weights: list[Tensor] = [self.parameters[index] for index in moving]
        gradients = [p.grad for p in weights if p.grad is not None]
        state = {name: [values[index] for index in moving] for name, values in self.state.items()}
        if config.optimizer == "adam":
            adamw(
                weights, gradients, state["exp_avg"], state["exp_avg_sq"], [], state["step"], fused=True, amsgrad=False,
                beta1=0.9, beta2=0.999, lr=config.lr, weight_decay=config.weight_decay, eps=ADAM_EPS, maximize=False,
            )  # fmt: skip
            return
        if config.weight_decay and moving:  # the other two know only the coupled one
            torch._foreach_mul_(weights, 1 - config.lr * config.weight_decay)
        if config.optimizer == "adagrad":
            adagrad(
                weights, gradients, state["sum"], state["step"],
                lr=config.lr, weight_decay=0.0, lr_decay=0.0, eps=ADAGRAD_EPS, maximize=False,
            )  # fmt: skip
        else:
            sgd(
                weights, gradients, [None] * len(weights),
                weight_decay=0.0, momentum=0.0, lr=config.lr, dampening=0.0, nesterov=False, maximize=False,
            )  # fmt: skip


class Table:
    """One embedding table under palate's own rule, on the rows that have a gradient.

    Attributes:
        weight: `[rows, D]`.
        state: adam: `moments`, `[rows, 2 D]`, m beside v so that a row's state is read at one place, and `steps`;
            adagrad: `square`, `[rows]`; sgd: nothing.
    """

    def __init__(self, weight: Tensor, config: Recipe, fused: bool) -> None:
        self.weight = weight
        self.config = config
        rows, width = weight.shape
        self.state: dict[str, Tensor] = {}
        if config.optimizer == "adam":
            self.state = {"moments": _zeros(rows, 2 * width), "steps": torch.zeros((), dtype=torch.int64)}
        elif config.optimizer == "adagrad":
            self.state = {"square": _zeros(rows)}
        self._fused = FusedAdagrad(weight, self.state.get("square"), config, ADAGRAD_EPS) if fused else None

    def gradient(self, places: Places) -> Gradient:
        """Which rows have a gradient, and it."""
        found = self.weight.grad
        assert found is not None
        if not found.is_sparse:  # the weight was used outside its table, for example against all items
            return None, found
        rows, values = found._indices()[0], found._values()
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
        mean_RD.lerp_(gradient_RD, 0.1)
        square_RD.mul_(0.999).addcmul_(gradient_RD, gradient_RD, value=0.001)
        if rows is not None:
            all_moments.index_copy_(0, rows, moments)
        size_RD = square_RD.sqrt().div_(math.sqrt(1 - 0.999**steps)).add_(ADAM_EPS)
        return torch.div(mean_RD, size_RD).mul_(-self.config.lr / (1 - 0.9**steps))

    def _adagrad(self, rows: Tensor | None, gradient_RD: Tensor) -> Tensor:
        all_squares = self.state["square"]
        square_R = all_squares if rows is None else all_squares.index_select(0, rows)
        square_R.add_(gradient_RD.square().mean(1))
        if rows is not None:
            all_squares.index_copy_(0, rows, square_R)
        return gradient_RD * (-self.config.lr / (square_R.sqrt() + ADAGRAD_EPS)).unsqueeze(1)


class Places:
    """Distinct rows of a step's indices; tables that were asked for the same indices share the work."""

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
    """`torch.unique` with its inverse, at a third of the time for ten thousand indices.

    Index and position share one 64-bit key, so that a plain sort, which NumPy vectorises, gives both.
    """
    count = len(index)
    bits = count.bit_length()
    key = np.sort((index.numpy() << bits) | np.arange(count))
    rows, position = key >> bits, key & ((1 << bits) - 1)
    first = np.ones(count, dtype=bool)
    np.not_equal(rows[1:], rows[:-1], out=first[1:])
    place = np.empty(count, dtype=np.int64)
    place[position] = np.cumsum(first) - 1
    return torch.from_numpy(rows[first]), torch.from_numpy(place)


def _by_rows(table: nn.Embedding, config: Recipe) -> bool:
    if table.scale_grad_by_freq:  # torch has no sparse gradient for it
        return False
    if config.embeddings == "auto":
        return table.num_embeddings > max(DENSE_ROWS * config.batch_size, DENSE_LEAST)
    return config.embeddings != "dense"


def _clip(gradients: Sequence[Tensor], most: float) -> None:
    """Scale all gradients, in place, so that their norm together is at most `most`."""
    norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
    scale = (most / (torch.linalg.vector_norm(norms) + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(list(gradients), scale)


def _zeros(*shape: int) -> Tensor:
    """Zeros whose memory is taken when a row is first touched; `torch.zeros` writes all of it at once."""
    return torch.from_numpy(np.zeros(shape, dtype=np.float32))
