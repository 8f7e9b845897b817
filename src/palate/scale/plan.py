"""plan(): memory, bytes on the wire, disk and hours that a size of data and a model take, by formulas.

    memory of a process    BASE + columns + what training looks up + weights (1 + optimizer + best copy)
    sent in a step         dense: 2 (w - 1) / w 4 P;  by rows: (w - 1) 4 R (D + 1)
    disk                   rows (columns) + ids + checkpoint;  lists: users k LIST_BYTES

w processes, P dense parameters, R distinct rows of a table that a share of the batch touches, D its columns. A model is
built without memory (PyTorch's device meta), so that its sizes are those of its own code and not another list of them.

The formulas are compared with measured runs in benchmarks/results/plan.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from palate.config import CompleteTraining, Training
from palate.data.features.schema import Column, FeatureSchema
from palate.data.queries import Spec
from palate.errors import ConfigError
from palate.models import MODELS, GradientModel, Model
from palate.training.batches import MAX_TABLE_BITS
from palate.training.optimizers import steps_by_rows

BASE = 0.4e9
"""Bytes of a process that trains a small model: Python, PyTorch, SciPy and palate."""
INDEX, NUMBER, LONG = 4, 4, 8
"""Bytes of an index of a user or item, of a float32, and of a time, an order or an offset."""
WIDTHS = {"rating": NUMBER, "timestamp": LONG, "weight": NUMBER}
"""Bytes of a row in each column beside user and item."""
LIST_BYTES = 8
"""Bytes of one listed item in a Parquet file: compressed ids, score, rank and route."""
BY_PAIRS = frozenset({"mf", "gmf", "mlp", "neumf", "svdpp", "deepfm", "convmf", "vbpr", "lightgcn", "xsimgcl"})
"""Models whose batches count interactions; those of the other gradient models count users or items."""
BY_CANDIDATES = frozenset({"two-tower", "text-cnn", "image-cnn"})
"""Models whose steps share candidates, drawn in proportion to chances that are counted at the start."""
LINEAR = frozenset({"ease", "edlae"})
"""Models whose solution takes their weights' memory once more."""
COPIES = {"adam": 2.0, "adagrad": 1.0, "sgd": 0.0}
"""Numbers of optimizer state for each weight; Adagrad by rows keeps one for each row."""
INGEST_ROWS = 170_000.0
"""Rows a second that `palate data ingest` reads from CSV with ids of text (benchmarks/results/large.md)."""
MANY_ITEMS = 1_000_000
"""Items from which lists by an index are advised."""
PRODUCT_RATE = 37e9
"""Multiplications and additions a second of one core that multiplies users with all items and chooses the k best. In
benchmarks/results/full_ranking.md, 20,000 users, 26,744 items and 64 columns take 1.86 s."""
USED = {"epochs", "batch_size", "optimizer", "embeddings"}
"""Settings of training that the figures depend on."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """The size of the data.

    Attributes:
        users, items, rows: Counts; rows are interactions.
        columns: Other columns than user and item: rating, timestamp, weight.
    """

    users: int
    items: int
    rows: int
    columns: tuple[str, ...] = ("timestamp",)

    def __post_init__(self) -> None:
        faults = [f"{name} = {value:,}, expected 1 or more" for name, value in
                  (("users", self.users), ("items", self.items), ("rows", self.rows)) if value < 1]  # fmt: skip
        if self.rows > self.users * self.items > 0:
            faults.append(f"rows = {self.rows:,} are more than users x items = {self.users * self.items:,}")
        if self.items >= 2**31 or self.users >= 2**31:
            faults.append("users and items are numbered by 32 bits: at most 2,147,483,647 of each in one data set")
        if faults:
            raise ConfigError.faults("the size of the plan", faults)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the run has.

    Attributes:
        hosts: Number of machines.
        processes: Number of processes on each.
        memory: Bytes of memory of a host.
        rows_per_second: Interactions that one process trains on in a second. It depends on model, width and machine:
            `palate train` shows it. The default is only an order of magnitude.
        list_length: k of lists for everybody.
    """

    hosts: int = 1
    processes: int = 1
    memory: float = 16e9
    rows_per_second: float = 50_000.0
    list_length: int = 10

    def __post_init__(self) -> None:
        wrong = [name for name in ("hosts", "processes", "memory", "rows_per_second", "list_length")
                 if not 0 < getattr(self, name) < math.inf]  # fmt: skip
        if wrong:
            raise ConfigError.faults("the machines of the plan", [f"{name} must be above 0" for name in wrong])

    @property
    def world(self) -> int:
        """Number of processes in all."""
        return self.hosts * self.processes


class Line(NamedTuple):
    """One figure of a plan.

    Attributes:
        what: Its name.
        value: In that unit.
        unit: bytes or hours.
        how: The formula, with its numbers.
    """

    what: str
    value: float
    unit: str
    how: str


@dataclass(frozen=True)
class Plan:
    """Figures of a run, and what they mean.

    Attributes:
        lines: The figures; `plan["memory of a training process"]` is one's value.
        advice: What to do at this size, in sentences.
    """

    lines: tuple[Line, ...]
    advice: tuple[str, ...]

    def __getitem__(self, what: str) -> float:
        return next(line.value for line in self.lines if line.what == what)


def plan(
    size: Size, model: str, config: Any = None, training: Training | None = None, machine: Machine | None = None
) -> Plan:
    """What training a model on data of a size takes, and the lists of all users after it.

    Args:
        size: The data.
        model: Name of a model.
        config: Its settings, by name. Defaults to its own.
        training: Settings of training. Defaults to the model's own.
        machine: The machines. Defaults to one process.

    Raises:
        ConfigError: There is no such model or setting, or a setting that the figures do not depend on is given.
        DataError: The model cannot be built for so many items, or needs texts or images.
    """
    machine = machine or Machine()
    built = sized(size, model, config)
    training = training or Training()
    _check_used(training, built, model)
    # A blend leaves open what its members have.
    settings = training.filled(built.default_training).filled(CompleteTraining()).complete()
    weights = _weight_lines(built, settings)
    data = _data_lines(size, built, model)
    memory = BASE + sum(line.value for line in (*weights, *data))
    wire = _wire(size, built, model in BY_PAIRS, settings, machine.world)
    lines = [
        *weights,
        *data,
        Line(
            "memory of a training process", memory, "bytes", f"{BASE / 1e9:g} GB for PyTorch and palate, and the above"
        ),
        *([] if wire is None else [wire]),
        *_disk(size, built, machine),
        *_hours(size, built, settings, machine, wire),
    ]
    return Plan(tuple(lines), tuple(_advice(size, built, model, machine, memory, sum(line.value for line in weights))))


def sized(size: Size, model: str, config: Any = None) -> Model:
    """A model of the size of the data that takes no memory: its tensors are on PyTorch's device meta."""
    if model not in MODELS:
        raise ConfigError(f"there is no model {model!r}; there are {', '.join(MODELS)}")
    kind = MODELS[model]
    features = FeatureSchema(columns=(Column(name="kind", kind="category", values=tuple(map(str, range(20)))),))
    spec = Spec(n_users=size.users, n_items=size.items, rating_scale=(1.0, 5.0), item_features=features)
    try:
        settings = kind.Config(**(config or {}))
    except TypeError as error:
        raise ConfigError(f"{model}: {str(error).partition(') ')[2] or error}") from error
    with torch.device("meta"):
        return kind(settings, spec)


def _check_used(training: Training, model: Model, name: str) -> None:
    """Refuse settings of training that change no figure.

    Raises:
        ConfigError: Lists them.
    """
    given = {field.name for field in fields(training) if getattr(training, field.name) != field.default}
    if unused := sorted(given - (USED if isinstance(model, GradientModel) else set())):
        raise ConfigError(f"the plan of {name} does not depend on training.{', training.'.join(unused)}; leave it out")


def _weight_lines(model: Model, settings: CompleteTraining) -> list[Line]:
    """Weights, optimizer state, and the copy of the best weights."""
    weights = _weights(model)
    found = [Line("weights", weights, "bytes", _largest(model))]
    if isinstance(model, GradientModel):
        by_rows = [table.weight for table in _tables(model) if steps_by_rows(table, settings)]
        dense = sum(_bytes(p) for p in model.parameters() if p.requires_grad) - sum(map(_bytes, by_rows))
        copies = COPIES[settings.optimizer]
        of_rows = (NUMBER * len(w) if settings.optimizer == "adagrad" else copies * _bytes(w) for w in by_rows)
        state = copies * dense + sum(of_rows)
        found.append(Line("optimizer", state, "bytes", f"{settings.optimizer}: {copies:g} numbers for each weight"))
        found.append(Line("gradients", dense, "bytes", "dense parameters; those by rows are of the batch"))
        found.append(Line("best weights so far", weights, "bytes", "a copy, kept for the end"))
    return found


def _data_lines(size: Size, model: Model, name: str) -> list[Line]:
    """Columns of the data, and what training looks up beside them."""
    uses = {"rating": "rating" in model.needs, "timestamp": "time" in model.needs, "weight": model.uses_weights}
    width = 2 * INDEX + sum(WIDTHS[name] for name in size.columns if uses[name])
    lines = [
        Line("columns", size.rows * width + LONG * size.users, "bytes", f"{width} bytes a row that the model reads")
    ]
    if getattr(model.config, "negatives", 0):
        table = min(size.users * size.items, 2 ** min((32 * size.rows).bit_length(), MAX_TABLE_BITS)) / 8
        value = size.rows * 2 * INDEX + 2 * LONG * size.users + table
        lines.append(Line("negatives", value, "bytes", f"8 bytes a row, 16 a user, and {table / 1e6:,.0f} MB of bits"))
    if name in BY_PAIRS:
        lines.append(Line("order of an epoch", size.rows * LONG, "bytes", "8 bytes a row"))
    elif name in BY_CANDIDATES:
        lines.append(Line("candidates", size.rows * 3 * LONG, "bytes", "24 bytes a row: items, chances, their order"))
    elif isinstance(model, GradientModel):
        lines.append(Line("histories", size.rows * LONG, "bytes", "8 bytes a row"))
    if name in LINEAR:
        lines.append(Line("solution", size.items**2 * NUMBER, "bytes", "4 items^2, beside the weights"))
    elif name == "ials":
        how = "28 bytes a row: order by item, both patterns, histories; and the vectors twice"
        lines.append(Line("solution", size.rows * 28 + 2 * _weights(model), "bytes", how))
    return lines


def _wire(size: Size, model: Model, by_pairs: bool, settings: CompleteTraining, world: int) -> Line | None:
    """Bytes that one process sends in a step; `by_pairs`: whether a batch counts interactions, else users."""
    if world == 1 or not isinstance(model, GradientModel) or bool(getattr(model, "undivided", "")):
        return None
    by_rows = [table for table in _tables(model) if steps_by_rows(table, settings)]
    held = {id(table.weight) for table in by_rows}
    dense = sum(_bytes(p) for p in model.parameters() if p.requires_grad and id(p) not in held)
    share = settings.batch_size / world
    lookups = share if by_pairs else share * size.rows / size.users
    total, words = 2 * (world - 1) / world * dense, [f"{dense / 1e6:,.1f} MB of dense gradients"]
    for table in by_rows:
        of_users = table.num_embeddings == size.users
        draws = share if of_users else lookups * (1 + getattr(model.config, "negatives", 0))
        rows = -table.num_embeddings * math.expm1(-draws / table.num_embeddings)  # distinct ones of so many draws
        total += (world - 1) * rows * NUMBER * (table.embedding_dim + 1)
        words.append(f"{rows:,.0f} rows of {table.embedding_dim} columns")
    return Line("sent by a process in a step", total, "bytes", f"{world} processes: {', '.join(words)}")


def _disk(size: Size, model: Model, machine: Machine) -> list[Line]:
    width = 2 * INDEX + sum(WIDTHS[name] for name in size.columns)
    lists = size.users * machine.list_length * LIST_BYTES
    return [
        Line("data set on disk", size.rows * width, "bytes", f"{width} bytes a row, and the ids"),
        Line("disk while it is ingested", 3 * size.rows * (width + LONG), "bytes", "each row up to three times"),
        Line("weights on disk", _weights(model), "bytes", "the interactions come on top, compressed"),
        Line("lists on disk", lists, "bytes", f"{machine.list_length} items each, {LIST_BYTES} bytes an item"),
    ]


def _hours(size: Size, model: Model, settings: CompleteTraining, machine: Machine, wire: Line | None) -> list[Line]:
    lines = [Line("ingest", size.rows / INGEST_ROWS / 3600, "hours", f"{INGEST_ROWS:,.0f} rows a second, one process")]
    if isinstance(model, GradientModel):
        seconds = size.rows * settings.epochs / (machine.rows_per_second * (1 if wire is None else machine.world))
        how = f"{settings.epochs} epochs at most, {machine.rows_per_second:,.0f} rows a second and process"
        lines.append(Line("training", seconds / 3600, "hours", how + ("" if wire is None else ", without the wire")))
    given = (getattr(model.config, name, None) for name in ("hidden", "dim"))
    width = next((value for value in given if isinstance(value, int)), round(size.rows / size.users))
    seconds = 2.0 * size.users * size.items * width / PRODUCT_RATE / machine.world
    how = f"2 x users x items x {width:,} at {PRODUCT_RATE / 1e9:g} GFLOP/s and process; shards by --shard i/n"
    return [*lines, Line("lists", seconds / 3600, "hours", how)]


def _advice(size: Size, model: Model, name: str, machine: Machine, memory: float, weights: float) -> list[str]:
    """What the figures mean."""
    found = []
    users = sum(_bytes(t) for t in model.state_dict().values() if t.ndim == 2 and len(t) == size.users)
    room = machine.memory / machine.processes
    if memory <= room:
        found.append(f"Each training process fits in its {room / 1e9:,.1f} GB.")
    else:
        found.append(f"A training process takes {memory / 1e9:,.1f} GB and has {room / 1e9:,.1f} GB: it does not fit.")
    if memory > room and users > _weights(model) / 2:
        found.append(
            f"{users / 1e9:,.1f} GB of the weights are a table of users. Models that know a user by the history need "
            "none, and answer new users too: sasrec, gru4rec, multvae, itemknn."
        )
    if weights > room:
        found.append(
            f"Weights and optimizer alone take {weights / 1e9:,.1f} GB, and each process holds all of them: palate "
            "does not spread tables over hosts. Take fewer columns (--dim), or --training.optimizer adagrad."
        )
    alone = getattr(model, "undivided", "") or (
        "" if isinstance(model, GradientModel) else "it takes no gradient steps"
    )
    if machine.world > 1 and alone and not getattr(model, "divided", False):
        found.append(f"One process trains {name}, because {alone}: more of them share only the lists.")
    if machine.world > 1 and getattr(model, "divided", False):
        found.append(f"What the processes of {name} send each other is not in the figures.")
    if name not in (*LINEAR, "ials") and not isinstance(model, GradientModel):
        found.append(f"What {name} computes on the way to its weights is not in the figures.")
    if size.items > MANY_ITEMS:
        found.append(
            f"Exact lists compare each user with {size.items:,} items; --approximate looks into an index instead."
        )
    return found


def _tables(model: Model) -> list[nn.Embedding]:
    return [m for m in model.modules() if isinstance(m, nn.Embedding) and m.weight.requires_grad]


def _weights(model: Model) -> int:
    return sum(map(_bytes, model.state_dict().values()))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _largest(model: Model) -> str:
    """The largest tensors, with their shapes."""
    tensors = sorted(model.state_dict().items(), key=lambda entry: -_bytes(entry[1]))[:3]
    return ", ".join(f"{name} {' x '.join(f'{n:,}' for n in tensor.shape)}" for name, tensor in tensors)
