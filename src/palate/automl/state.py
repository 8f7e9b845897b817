"""The state of a search on disk: its conditions, the time spent, decisions, and each candidate with its weights.

    search.json            conditions, and what was decided on the way
    clock.json             seconds spent
    ID.json                a candidate: how far it is, and its result
    ID.checkpoint/         its training, to go on from
    ID.safetensors         its weights, if it may still be needed

The folder lies beside the result (`runs/best.search`) and is removed once the result is complete.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from safetensors.torch import save_model

from palate.automl.candidates import Candidate
from palate.errors import ArtifactError, ConfigError
from palate.evaluation.result import Evaluation
from palate.models import MODELS
from palate.models.base import Model
from palate.recommender.artifact_weights import load_model
from palate.tune.locks import write_whole

RESULT = "auto.json"
"""File in the folder of the result: everything that was tried and found."""
SAVING = "saving"
"""The decision after which the folder of the result is written."""
T = TypeVar("T")

BEAT = 1.0
"""Seconds between two notes of the time spent; as much may be lost when the process is killed."""


@dataclass(kw_only=True)
class Run:
    """A candidate of a search and how far it is.

    Attributes:
        candidate: The candidate.
        status: waiting, paused, finished, dropped (in a halving), stopped (time ran out) or failed.
        epochs: Epochs done.
        value: The metric on valid: the best so far, or of the kept weights.
        seconds: Time it took.
        starts: How often it was started without coming to an end or a pause.
        ended: Seconds spent on the whole search when it last ended or paused.
        fault: Why it failed.
        config: All settings of the fitted model, those it chose itself included.
        training: All training settings, likewise.
        chosen: What the model says of the settings that it chose.
        records: Records of its epochs.
        evaluation: On valid, as JSON-able values; empty until its weights are final.
    """

    candidate: Candidate
    status: str = "waiting"
    epochs: int = 0
    value: float | None = None
    seconds: float = 0.0
    starts: int = 0
    ended: float = 0.0
    fault: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    chosen: str = ""
    records: list[dict[str, Any]] = field(default_factory=list)
    evaluation: dict[str, Any] = field(default_factory=dict)

    @property
    def measured(self) -> Evaluation:
        """Its evaluation on valid."""
        return Evaluation.from_dict(self.evaluation)


class Clock:
    """The time spent on a search, over all its processes; a thread notes it down while one works.

    Args:
        path: Where it is kept.
        budget: Seconds.
    """

    def __init__(self, path: Path, budget: float) -> None:
        self.budget = budget
        self._path = path
        self._before = _read(path, float) if path.exists() else 0.0
        self._start = time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    @property
    def spent(self) -> float:
        """Seconds spent."""
        return self._before + time.monotonic() - self._start

    @property
    def left(self) -> float:
        """Seconds left; below 0 once the budget is spent."""
        return self.budget - self.spent

    def __enter__(self) -> Clock:
        self._start = time.monotonic()
        self._note()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        self._note()

    def _beat(self) -> None:
        while not self._end.wait(BEAT):
            self._note()

    def _note(self) -> None:
        if self._path.parent.exists():  # the search is over once its folder is gone
            write_whole(self._path, json.dumps(self.spent))


class State:
    """The folder of a search.

    Args:
        folder: The folder, made for this search or left by one that was stopped.
        build: Gives the model of a run, not fitted.
    """

    def __init__(self, folder: Path, build: Callable[[Run], Model]) -> None:
        self.folder = folder
        self._build = build
        self._conditions = _conditions_in(folder / "search.json")
        self.decisions: dict[str, Any] = _read(folder / "search.json", lambda found: dict(found["decisions"]))

    def decide(self, what: str, decision: Callable[[], Any]) -> Any:
        """A decision that was made before, or else is made and kept now.

        Args:
            what: Its name.
            decision: Makes it; gives JSON-able values.
        """
        if what not in self.decisions:
            self.decisions[what] = decision()
            write_whole(
                self.folder / "search.json", json.dumps({"conditions": self._conditions, "decisions": self.decisions})
            )
        return self.decisions[what]

    def run(self, candidate: Candidate) -> Run:
        """How far a candidate is."""
        path = self._file(candidate, "json")
        if not path.exists():
            return Run(candidate=candidate)
        return _read(path, lambda found: Run(**{**found, "candidate": candidate}))

    def save(self, run: Run) -> None:
        """Keep how far a candidate is."""
        values = {name: value for name, value in vars(run).items() if name != "candidate"}
        write_whole(self._file(run.candidate, "json"), json.dumps({**values, "candidate": asdict(run.candidate)}))

    def checkpoint(self, candidate: Candidate) -> Path:
        """Where its training is kept."""
        return self._file(candidate, "checkpoint")

    def save_weights(self, run: Run, model: Model) -> None:
        """Keep the weights of a candidate whose training is over, and not its checkpoint any longer.

        Raises:
            ArtifactError: They cannot be written.
        """
        file = self._file(run.candidate, "safetensors")
        try:
            half = file.with_name(f"{file.name}.tmp")
            save_model(model, str(half))
            half.replace(file)
        except OSError as error:
            raise ArtifactError(f"cannot write {file} ({error.strerror or error}); free space there") from error
        shutil.rmtree(self.checkpoint(run.candidate), ignore_errors=True)

    def weights(self, run: Run) -> Model | None:
        """The fitted model of a candidate; None if its weights were not kept."""
        file = self._file(run.candidate, "safetensors")
        if not file.exists():
            return None
        built = self._build(run)
        return load_model(type(built), built.config, built.spec, file)

    def drop_weights(self, run: Run) -> None:
        """Make room: these weights are not needed."""
        self._file(run.candidate, "safetensors").unlink(missing_ok=True)

    def _file(self, candidate: Candidate, kind: str) -> Path:
        assert candidate.model in MODELS  # a name of a file, too
        return self.folder / f"{candidate.id}.{kind}"


def search_folder(out: Path) -> Path:
    """Where the state of the search for a result is kept."""
    return out.with_name(f"{out.name}.search")


def claim(out: Path, conditions: dict[str, Any]) -> bool:
    """Claim the place of a result: make the folder of its search, or find that of a search to go on with.

    Args:
        out: Folder of the result.
        conditions: JSON-able; what a search must share to go on with this one.

    Returns:
        Whether the result is there already.

    Raises:
        ConfigError: The place holds another search or its result.
        ArtifactError: It holds something else.
    """
    conditions = json.loads(json.dumps(conditions))
    folder, result = search_folder(out), out / RESULT
    if result.is_file():
        _compare(_conditions_in(result), conditions, f"{out} holds the result of a search")
        return True
    stopped = (folder / "search.json").is_file()
    saving = False
    if stopped:
        _compare(_conditions_in(folder / "search.json"), conditions, f"{folder} holds a search that was stopped,")
        saving = _read(folder / "search.json", lambda found: SAVING in found["decisions"])
    for place in (out,) * (not saving) + (folder,) * (not stopped):
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise ArtifactError(
                f"{place} exists and is not what palate auto writes; nothing was changed. Name another folder"
            )
    if stopped:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "search.json", json.dumps({"conditions": conditions, "decisions": {}}))
    return False


def _conditions_in(path: Path) -> dict[str, Any]:
    return _read(path, lambda found: dict(found["conditions"]))


def _read(path: Path, of: Callable[[Any], T]) -> T:
    """What a function makes of the JSON in a file of a search.

    Raises:
        ArtifactError: The file holds something else.
    """
    try:
        return of(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read as a search: {error!r}; name another folder") from error


def _compare(before: dict[str, Any], now: dict[str, Any], what: str) -> None:
    """Refuse to go on with a search under other conditions."""
    differ = [name for name in {**now, **before} if now.get(name) != before.get(name)]
    if differ:
        said = [_difference(name, before.get(name), now.get(name)) for name in differ]
        raise ConfigError(f"{what} with other conditions ({'; '.join(said)}); name another --out, or give the same")


def _difference(name: str, before: Any, now: Any) -> str:
    simple = all(isinstance(value, (int, float, str, type(None))) for value in (before, now))
    return f"{name} {before} there, {now} here" if simple and name != "table" else f"another {name}"
