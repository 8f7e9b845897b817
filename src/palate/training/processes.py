"""Processes: one training run in several processes, on one machine or several, by torch.distributed.

torchrun starts w processes, the world. Each holds the data and all weights. Every process draws the same whole batches
from the one seed, and process r trains their rows r, r + w, r + 2 w, ... The loss of a batch is a mean, so that losses
and gradients of the shares add up to those of the batch, where c_r is what the loss of a share is the mean over:

    loss = sum_r c_r loss_r / sum_r c_r

Dense gradients are added up by one all-reduce (2 (w - 1) / w * 4 P bytes from each process, for P parameters). Of a
table that is updated by rows, each process sends the rows that its share touches, and the values of their gradients, to
every other: 4 R (D + 1) bytes for R rows of D columns. Every process then makes the same step. Dropout and other noise
is drawn anew for each process and step, so that a resumed run draws what an undisturbed one would.

Process 0 validates, prints and writes. The others wait for as long as all processes are alive: each takes part in a
small all-reduce every second. A process that ended or hangs, or a network that is cut, is an error on all others.

Legend: R rows, D columns, N rows of a batch.
"""

from __future__ import annotations

import functools
import json
import math
import os
import secrets
import threading
import time
from _thread import interrupt_main
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from palate.config import to_dict
from palate.errors import ConfigError, TrainingError
from palate.training import train_run
from palate.training.division import Division
from palate.training.optimizers import Optimizer, RowDeduplicator
from palate.training.train_run import NUMBERS, Epoch, Loss, Seeds, State, TrainRun, identity

JOIN_TIMEOUT = timedelta(minutes=30)
"""How long the processes wait for each other at the very start, when some may still read data."""
TIMEOUT = 40.0
"""Default of the environment variable PALATE_TIMEOUT: seconds until a process that does not answer is given up."""
SECONDS_PER_BEAT, SECONDS_PER_ANSWER = 1.0, 0.02
NO_GRADIENT, BY_ROWS, DENSE = range(3)


class World:
    """The processes of a run.

    Attributes:
        rank: This process, from 0.
        size: w, the number of processes.

    Raises:
        ConfigError: The environment is not what torchrun sets.
        TrainingError: Another process did not come.
    """

    def __init__(self) -> None:
        timeout = _timeout()
        try:
            if not dist.is_initialized():
                backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
                shared, rank, size = next(rendezvous("env://", timeout=JOIN_TIMEOUT))
                store = _own_part(shared, rank, size)
                dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
            self.rank, self.size = dist.get_rank(), dist.get_world_size()
            self._steps: Any = dist.new_group(timeout=timeout)
            self._beats: Any = dist.new_group(timeout=timeout, backend="gloo")
        except ValueError as error:
            raise ConfigError(
                f"WORLD_SIZE = {os.environ.get('WORLD_SIZE')!r} asks for several processes, but they cannot meet "
                f"({error}): start them by torchrun, or unset WORLD_SIZE"
            ) from error
        except RuntimeError as error:
            raise TrainingError(f"the processes of the run could not meet ({_first_line(error)})") from error
        self._asks = self._agreed = False

    @property
    def first(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0

    # ---- what is sent

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, in the memory of `value`."""
        with self._answers():
            dist.all_reduce(value, group=self._steps)
        return value

    def gather(self, value: Tensor) -> Tensor:
        """The tensors of all processes, of one shape, `[w, ...]`."""
        found = value.new_empty(self.size, *value.shape)
        with self._answers():
            dist.all_gather_single(found, value.unsqueeze(0), group=self._steps)
        return found

    def from_first(self, value: Any) -> Any:
        """What process 0 holds, as JSON carries it; the argument of the others does not count."""
        text = json.dumps(value).encode() if self.first else b""
        size = torch.tensor(len(text))
        self._broadcast(size)
        buffer = torch.zeros(int(size), dtype=torch.uint8)
        if self.first:
            buffer = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self._broadcast(buffer)
        return json.loads(buffer.numpy().tobytes())

    def from_all(self, value: Any) -> list[Any]:
        """What each process holds, as JSON carries it."""
        text = json.dumps(value).encode()
        sizes = self.gather(torch.tensor(len(text)))
        buffer = torch.zeros(int(sizes.max()), dtype=torch.uint8)
        buffer[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        rows = self.gather(buffer)
        return [json.loads(row[:size].numpy().tobytes()) for row, size in zip(rows, sizes.tolist(), strict=True)]

    def _broadcast(self, value: Tensor) -> None:
        """Overwrite a tensor by that of process 0."""
        with self._answers():
            whole = value.contiguous()
            dist.broadcast(whole.view(torch.uint8) if whole.dtype == torch.bool else whole, 0, group=self._steps)
            if whole is not value:
                value.copy_(whole)

    @contextmanager
    def _answers(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch's errors of communication are its children
            raise self._lost(error) from error

    def _lost(self, error: BaseException) -> TrainingError:
        return TrainingError(
            f"process {self.rank} of {self.size} no longer reaches the others ({_first_line(error)}): a process has "
            "ended or hangs, or the network is cut; see what the other processes wrote, and start the run again to go "
            "on from its checkpoint"
        )

    # ---- work of unequal length

    @contextmanager
    def busy(self) -> Iterator[None]:
        """A block of code that takes some processes longer than others: all leave it when the last one is done.

        Raises:
            TrainingError: A process ended, hangs or failed, or the network is cut.
        """
        mine, over, lock = threading.current_thread() is threading.main_thread(), threading.Event(), threading.Lock()
        faults: list[BaseException] = []
        failed = False

        def beat() -> None:
            try:
                while True:
                    flags = torch.tensor([not over.is_set(), failed], dtype=torch.int64)
                    dist.all_reduce(flags, group=self._beats)
                    if flags[1] and not failed:
                        raise RuntimeError("another process has failed")
                    if flags[1] or not flags[0]:
                        return
                    over.wait(SECONDS_PER_BEAT)
            except RuntimeError as error:
                with lock:
                    faults.append(error)
                    if mine and not over.is_set():
                        interrupt_main()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
            with lock:
                over.set()
        except BaseException as error:
            failed = True
            over.set()
            if isinstance(error, KeyboardInterrupt) and faults:
                raise self._lost(faults[0]) from faults[0]
            thread.join(2 * SECONDS_PER_BEAT)
            raise
        thread.join()
        if faults:
            raise self._lost(faults[0]) from faults[0]

    # ---- what all must agree on

    def agreed(self, wish: bool) -> bool:
        """Whether process 0 wished so one step ago; all processes ask after each step."""
        self._asks, agreed = wish and self.first, self._agreed
        return agreed

    def compare(self, facts: dict[str, Any]) -> None:
        """Make sure that all processes are about to train the same.

        Raises:
            ConfigError: They are not; what differs is named.
        """
        first, *others = self.from_all(facts)
        faults = []
        for rank, other in enumerate(others, 1):
            differ = sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name))
            faults += [f"{name}: {_short(other.get(name))} in process {rank}, {_short(first.get(name))} in process 0"
                       for name in differ]  # fmt: skip
        if faults:
            raise ConfigError.faults(
                "all processes of a run need the same data, settings and versions; these differ", faults
            )

    @torch.no_grad()
    def take_over(self, model: nn.Module, optimizer: Optimizer, state: State, job: TrainRun) -> None:
        """Set model, optimizer and state of every process to those of process 0, which may have resumed."""
        numbers = {name: getattr(state, name) for name in NUMBERS}
        records = [to_dict(record) for record in state.records]
        found = self.from_first([numbers, records, sorted(state.best)])
        numbers, records, names = found
        weights = model.state_dict()
        state.records = [Epoch(**record) for record in records]
        if not self.first:
            state.best = {name: torch.empty_like(weights[name]) for name in names}
        for name, value in numbers.items():
            setattr(state, name, value)
        best = [state.best[name] for name in names]
        for tensor in (*weights.values(), *optimizer.state().values(), *best, state.order):
            self._broadcast(tensor)
        job.rng.set_state(state.order)

    @torch.no_grad()
    def check_equal(self, model: nn.Module) -> None:
        """Make sure that all processes have the same weights.

        Raises:
            TrainingError: They have not.
        """
        weights = model.state_dict()
        sums = self.gather(torch.stack([_checksum(tensor) for tensor in weights.values()]))
        if bool((sums == sums[0]).all()):
            return
        rank, place = (sums != sums[0]).nonzero()[0].tolist()
        raise TrainingError(
            f"the weights of processes 0 and {rank} are no longer equal ({list(weights)[place]}): their processors "
            "compute differently; set ATEN_CPU_CAPABILITY=default and the same OMP_NUM_THREADS for all processes"
        )

    # ---- steps

    def divided(self, model: Any, job: TrainRun, epoch: int) -> Division:
        """The model's batches and loss, of which this process computes a share."""
        return Division(self, model, Seeds.of(job.training.seed).noise, epoch)

    def mean_loss(self, loss: Loss, rows: int) -> Loss:
        """The loss of all shares; its gradient is that of this process' part of it.

        Args:
            loss: Of this process' share.
            rows: What its parts are the mean over where they do not say.
        """
        over, shown_over = (float(rows if each is None else each) for each in (loss.over, loss.shown_over))
        parts = [loss.objective.item() * over, over, loss.shown.item() * shown_over, shown_over, self._asks]
        objective, total, shown, shown_total, asked = self.sum(torch.tensor(parts, dtype=torch.float64)).tolist()
        self._agreed, self._asks = asked > 0, False
        own = loss.objective * (over / max(total, _TINY))
        whole = own + (objective / max(total, _TINY) - own.detach())
        return Loss(whole, torch.tensor(shown / max(shown_total, _TINY), dtype=torch.float64))

    @torch.no_grad()
    def add_gradients(self, dense: Sequence[nn.Parameter], tables: Sequence[Tensor]) -> None:
        """Replace each gradient by the sum of those of all processes.

        Args:
            dense: Parameters with dense gradients, or none.
            tables: Tables whose gradients may be by rows; a weight that is also used as a matrix has a dense one.
        """
        weights, places = [*dense, *tables], RowDeduplicator()
        found = {index: _distinct(weight.grad, places) for index, weight in enumerate(weights) if _by_rows(weight)}
        kind = [NO_GRADIENT if w.grad is None else BY_ROWS if i in found else DENSE for i, w in enumerate(weights)]
        rows = [len(found[index][0]) if index in found else 0 for index in range(len(weights))]
        heads = self.gather(torch.tensor([kind, rows]))
        kind = heads[:, 0].amax(0).tolist()
        whole = [weight for weight, each in zip(weights, kind, strict=True) if each == DENSE]
        if whole:
            flat = self.sum(torch.cat([_dense(weight) for weight in whole]))
            for weight, part in zip(whole, torch.split(flat, [w.numel() for w in whole]), strict=True):
                weight.grad = part.view_as(weight)
        by_rows = [index for index, each in enumerate(kind) if each == BY_ROWS]
        if by_rows:
            self._add_rows([weights[i] for i in by_rows], [found.get(i) for i in by_rows], heads[:, 1, by_rows])

    def _add_rows(
        self, tables: Sequence[Tensor], found: Sequence[tuple[Tensor, Tensor] | None], counts: Tensor
    ) -> None:
        """The sparse gradients of some tables: the rows of all processes one after another.

        Args:
            tables: The weights.
            found: Rows of this process and their gradients.
            counts: Number of rows of each process and table.
        """
        parts = [part.reshape(-1) for pair in found if pair is not None
                 for part in (pair[0].int().view(torch.float32), pair[1])]  # fmt: skip
        widths = torch.tensor([1 + table.shape[1] for table in tables])
        sent = tables[0].new_zeros(int((counts * widths).sum(1).max()))
        if parts:
            torch.cat(parts, out=sent[: sum(map(len, parts))])
        received = self.gather(sent)
        pieces: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in tables]
        for row, numbers in zip(received, counts.tolist(), strict=True):
            start = 0
            for table, number, (rows, values) in zip(tables, numbers, pieces, strict=True):
                middle, stop = start + number, start + number * (1 + table.shape[1])
                rows.append(row[start:middle].view(torch.int32))
                values.append(row[middle:stop].view(number, -1))
                start = stop
        for table, (rows, values) in zip(tables, pieces, strict=True):
            index = torch.cat(rows).long().unsqueeze(0)
            table.grad = torch.sparse_coo_tensor(index, torch.cat(values), table.shape, check_invariants=False)


def _own_part(store: Any, rank: int, size: int) -> Any:
    """The part of torchrun's store that belongs to the processes that run now; waits for all of them.

    torchrun keeps the store when it starts the processes again, and with it the addresses of those that have ended.
    Process 0 therefore makes up a name, all others answer to it with names of their own, and process 0 lists these. A
    process that finds its own name in the list has met those of its own start.

    Args:
        store: Shared by all processes, also by those that have ended.
        rank: This process.
        size: w.
    """
    mine = secrets.token_hex(8)
    if rank == 0:
        answers = [f"palate/{mine}/{other}" for other in range(1, size)]
        store.set("palate/first", mine)
        store.wait(answers, JOIN_TIMEOUT)
        store.set(f"palate/{mine}", json.dumps([store.get(answer).decode() for answer in answers]))
        return PrefixStore(mine, store)
    start = time.monotonic()
    while time.monotonic() - start < JOIN_TIMEOUT.total_seconds():
        first = store.get("palate/first").decode()
        store.set(f"palate/{first}/{rank}", mine)
        if store.check([f"palate/{first}"]) and mine in json.loads(store.get(f"palate/{first}")):
            return PrefixStore(first, store)
        time.sleep(SECONDS_PER_ANSWER)
    raise RuntimeError(f"process 0 did not answer process {rank} within {JOIN_TIMEOUT}")


_TINY = math.ulp(0.0)


@functools.cache
def join() -> World:
    """The world of this process; the first call waits for all its processes.

    Raises:
        ConfigError: The environment is not what torchrun sets.
        TrainingError: Another process did not come.
    """
    return World()


def prepared(model: Any, context: Any, job: TrainRun) -> TrainRun:
    """The run as one of several processes makes it.

    Raises:
        ConfigError: The processes differ in data, settings or versions, or the model cannot be trained by several.
    """
    world = join()
    reason = getattr(model, "undivided", "")
    if reason:
        raise ConfigError(f"{type(model).__name__} cannot be trained by {world.size} processes, because {reason}; "
                          "start it without torchrun")  # fmt: skip
    from palate import __version__

    facts = {"palate": __version__, "torch": torch.__version__, "settings": to_dict(job.training)}
    world.compare(facts | identity(model, context.data, job))
    quiet = {} if world.first else {"on_epoch": None, "on_step": None}
    validate = None if job.validate is None else _ByFirst(world, job.validate)
    return replace(job, world=world, validate=validate, **quiet)  # type: ignore[arg-type]


class _ByFirst:
    """A `palate.training.train_run.Validate` that process 0 calls while the others wait."""

    def __init__(self, world: World, validate: Any) -> None:
        self._world, self._validate = world, validate
        self.metric, self.higher_is_better = validate.metric, validate.higher_is_better

    def __call__(self, model: Any) -> dict[str, float]:
        found = None
        self._world.check_equal(model)
        with self._world.busy():
            if self._world.first:
                found = self._validate(model)
        return self._world.from_first(found)  # type: ignore[no-any-return]

    def for_member(self, model: Any) -> Any:
        """Of a model inside, whose own run lets process 0 validate."""
        return self._validate.for_member(model)

    def sampled(self, model: Any, max_users: int) -> Any:
        """As the validator that is called."""
        return _ByFirst(self._world, self._validate.sampled(model, max_users))


def _by_rows(weight: Tensor) -> bool:
    return weight.grad is not None and weight.grad.is_sparse


def _distinct(gradient: Tensor | None, places: RowDeduplicator) -> tuple[Tensor, Tensor]:
    """The distinct rows of a sparse gradient, and their sums."""
    assert gradient is not None  # `_by_rows` has looked
    unique, place = places.of(gradient._indices()[0])
    values = gradient._values()
    return unique, values.new_zeros(len(unique), values.shape[1]).index_add_(0, place, values)


def _dense(weight: Tensor) -> Tensor:
    """A weight's gradient, flat; zeros if there is none."""
    if weight.grad is None:
        return torch.zeros_like(weight).reshape(-1)
    return (weight.grad.to_dense() if weight.grad.is_sparse else weight.grad).reshape(-1)


def _checksum(tensor: Tensor) -> Tensor:
    """A sum over the bits of a tensor, int64, a scalar."""
    tensor = tensor.detach().contiguous().view(-1)
    words = tensor.view(torch.int32) if tensor.element_size() % 4 == 0 else tensor
    return words.sum(dtype=torch.int64).cpu()


def _timeout() -> timedelta:
    """Seconds until a process that does not answer is given up, from the environment variable PALATE_TIMEOUT.

    Raises:
        ConfigError: It is no number above 0.
    """
    text = os.environ.get("PALATE_TIMEOUT", str(TIMEOUT))
    seconds = math.nan
    with suppress(ValueError):
        seconds = float(text)
    if not 0 < seconds < 1e6:
        raise ConfigError(f"PALATE_TIMEOUT = {text!r} is no number of seconds above 0, for example 60")
    return timedelta(seconds=seconds)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


train_run.divide = prepared
