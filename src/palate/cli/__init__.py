"""The command line: the app, the flags that commands share, `--config`, and messages.

This file imports nothing heavy: `palate --help` must not load torch.

Each group of commands is one file of this folder and is loaded when one of its commands is used.
"""

from __future__ import annotations

import gc
import io
import json
import os
import re
import shlex
import sys
import typing
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter

from palate import __version__
from palate.errors import ConfigError, PalateError

_COLUMNS = re.compile(r"""columns=\{['"](\w+)['"]: (?:(['"])(.*?)\2|(\d+)|None|\.\.\.)\}""")
_POSITIONS = re.compile(r"columns=\[((?:'\w+'(?:, )?)+)\]")
_ARGUMENT = re.compile(
    r"""(?<![\w.`(-])([a-z_]+)=(?:(['"])([^'"]+)\2|True\b|\[\.\.\.\]|\.\.\.|(\d+(?:\.\d+)?\b))?(?![\w'"\[{(])"""
)
_SETTING = re.compile(r"(?<![\w.`])([a-z_]+) = (?=\S)")
_PHRASES = {
    "train on `data.without_weights()`": "pass --weight none",
    " (recommend them with add_items(data.unused_items) after training)": "",
}
_OTHER_NAMES = {"users": "user", "has_header": "header", "exclude_seen": "include-seen"}
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

Flat = Parameter(name="*")
"""The fields of a dataclass as flags without a prefix."""
Switch = Parameter(negative="")
"""A flag without a `--no-` form."""
Id = Parameter(allow_leading_hyphen=True)
"""A flag that takes ids, which may begin with a dash."""
Length = Parameter(name="-k")
"""The length of a list."""

_WHOLE_NUMBER = re.compile(r"[+-]?(\d+|0x[\da-f]+|0o[0-7]+|0b[01]+)", re.IGNORECASE)


def refuse_fractions(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse fractions where whole numbers are expected; the parser would round them.

    Raises:
        ConfigError: All such values at once.
    """
    faults = [
        f"{argument.names[0]} {token.value} is not a whole number"
        for argument in arguments
        for token in argument.tokens
        if _leaves(argument.hint) == {int} and isinstance(token.value, str) and _is_fraction(token.value)
    ]
    if faults:
        raise ConfigError.faults(f"palate {' '.join(commands)}", faults)


def _is_fraction(text: str) -> bool:
    try:
        float(text)
    except ValueError:  # no number at all: the parser says so
        return False
    return _WHOLE_NUMBER.fullmatch(text) is None


def _leaves(hint: Any) -> set[Any]:
    """The types of the single values that a hint allows."""
    inner = [one for one in typing.get_args(hint) if one is not Ellipsis]
    found = set().union(*map(_leaves, inner)) if inner else {hint}
    return found - {type(None)}


def from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Set what no flag sets from the file that `--config` names. A flag overrides the file, the file a default.

    Raises:
        ConfigError: The file cannot be read, or holds settings that the command does not have.
    """
    given = [token.value for argument in arguments if "--config" in argument.names for token in argument.tokens]
    if not given:
        return
    settings = _read(Path(given[0]))
    names = [n.removeprefix("--") for a in arguments for n in a.names if n.startswith("--") and n != "--config"]
    faults = [_unknown(key, names) for key in _keys(settings) if key.replace("_", "-") not in names]
    if faults:
        raise ConfigError.faults(f"{given[0]}, for palate {' '.join(commands)}", faults)
    from cyclopts.config import Dict

    # Nested under the command's name: at the top, a key such as "data" would be taken for the command `palate data`.
    for command in reversed(commands):
        settings = {command: settings}
    Dict(settings, source=given[0])(app, commands, arguments)


def _keys(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _unknown(key: str, names: list[str]) -> str:
    near = get_close_matches(key.replace("_", "-"), names, n=1)
    if key.startswith("training.") and not any(name.startswith("training.") for name in names):
        return f"unknown setting {key!r}; this model takes no gradient steps and so no training settings but seed"
    return f"unknown setting {key!r}" + (f"; did you mean {near[0].replace('-', '_')!r}?" if near else "")


def _read(path: Path) -> dict[str, Any]:
    import yaml

    if path.suffix not in (".json", ".yaml", ".yml"):
        raise ConfigError(f"--config {path}: the name of the file must end in .json, .yaml or .yml")
    try:
        text = path.read_text(encoding="utf-8")
        settings = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {path} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"--config {path} must hold settings by name, not {type(settings).__name__}")
    return settings


COMMANDS = {
    "demo": (
        "demo",
        "Run the practical example on MovieLens-100K: train, evaluate beside baselines, recommend, report.",
    ),
    "data": ("data", "Inspect a table, list known data sets and protocols, download a data set."),
    "train": ("train", "Train a model on a table; one subcommand for each model."),
    "tune": ("tune", "Search a model's settings on the validation part."),
    "compare": ("tune", "Compare several models under one protocol and one tuning budget, with a report."),
    "auto": ("auto", "Find the recommender to use for a table, within a budget of time, with a report."),
    "evaluate": ("query", "Evaluate a trained recommender on its held-out part, or on other data."),
    "recommend": ("query", "Recommend items to known users, or to new users known by a history or by attributes."),
    "update": ("update", "Teach a trained recommender new interactions, users, items and attributes."),
    "add-items": ("query", "Add items that came after training to a trained recommender."),
    "explain": ("explain", "Explain why an item is recommended to a user, or what the lists of many users rest on."),
    "fidelity": ("fidelity", "Measure which explainer is faithful to a trained recommender."),
    "similar": ("query", "List the items most similar to an item."),
    "export": ("export", "Export a trained recommender as an ONNX scorer, or its vectors as Parquet."),
    "scale": ("scale", "Plan memory, bytes on the wire, disk and hours of a size of data and a model."),
    "serve": ("serve", "Serve trained recommenders over HTTP, with a web page and feedback."),
    "feedback": ("serve", "The feedback that the service stored."),
    "keys": ("serve", "API keys of the service."),
}
"""Command -> the file it is in, and what it does."""
ALONE = ("auto", "compare", "demo", "tune", "update")
"""Commands that train many models or write what others read, and so run in one process."""

app = App(
    name="palate",
    help="Train, evaluate and use recommenders. Each command has its own --help.",
    version=__version__,
    exit_on_error=False,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
    help_format="plaintext",  # Markdown would cost a tenth of a second more
    default_parameter=Parameter(negative_iterable=""),
    config=refuse_fractions,
)
for _name, (_file, _help) in COMMANDS.items():
    app.command(f"palate.cli.{_file}:{_name.replace('-', '_')}", name=_name, help=_help)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit: with 0; with 2 for an error that the user can mend; with 130 when stopped by Ctrl-C.

    Args:
        argv: The words after `palate`. Defaults to those of this process.
    """
    # Threads that wait for each other by spinning make small steps thirty times slower once another process takes a
    # core; sleeping soon costs a fifth on an idle machine. Read when torch is loaded; a setting of the user's is kept.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    gc.set_threshold(50_000)  # Imports make objects and no garbage: looking for it took a tenth of a command's start.
    words = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # What the output cannot encode is shown as an escape.
            stream.reconfigure(errors="backslashreplace")
    try:
        words = [_decoded(word) for word in words]
        if os.environ.get("WORLD_SIZE", "1") != "1" and words[:1] in ([name] for name in ALONE):
            started = f"{os.environ['WORLD_SIZE']} were started; torchrun is for palate train"
            raise ConfigError(f"palate {words[0]} runs in one process, and {started}")
        with warnings.catch_warnings():
            warnings.showwarning = partial(_show_warning, words)
            app(words)
        sys.stdout.flush()
    except CycloptsError:  # It has printed itself.
        sys.exit(2)
    except PalateError as error:
        print(f"palate: {visible(with_flags(str(error), flags_of(words)))}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # The reader of our output has gone, as in `palate ... | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        print(f"palate: {visible(str(error))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("palate: stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def _show_warning(words: Sequence[str], message: Warning | str, *where: object) -> None:
    """Print a warning as the other notes of a command are printed, without the line of code that gave it."""
    print(f"  {visible(with_flags(str(message), flags_of(words)))}", file=sys.stderr)


def _decoded(word: str) -> str:
    """An argument as text: its bytes are UTF-8, whatever the locale says.

    Raises:
        ConfigError: They are not.
    """
    try:
        return os.fsencode(word).decode("utf-8")
    except UnicodeError:
        raise ConfigError(f"the argument {word!a} is not valid UTF-8; write ids and file names as UTF-8") from None


def flags_of(words: Sequence[str]) -> set[str]:
    """All flags of the command that the words name."""
    command = app.parse_commands(words)[1][-1]
    return {name for argument in command.assemble_argument_collection() for name in argument.names}


def with_flags(text: str, flags: Collection[str] = ()) -> str:
    """A message of the library as the command line says it: flags of the command in place of Python arguments.

    Args:
        text: For example `history= takes ids` or `k = 0 is out of range`.
        flags: Those of the command, for example `--history` and `-k`; other arguments stay as they are, except
            `columns=`.
    """
    for phrase, other in _PHRASES.items():
        text = text.replace(phrase, other)
    text = _COLUMNS.sub(_column_flag, text)
    text = _POSITIONS.sub(_position_flags, text)
    text = _ARGUMENT.sub(lambda found: _as_flag(found, flags, found[4] or (found[3] and shlex.quote(found[3]))), text)
    return _SETTING.sub(lambda found: _as_flag(found, flags, value=""), text)


def suggested(*words: object, **options: object) -> str:
    """A command to type, quoted for the shell.

    Args:
        words: What follows `palate`.
        options: Flag -> value; a value that begins with a dash is joined to its flag by =.
    """
    parts = [f"./{word}" if str(word).startswith("-") else str(word) for word in words]
    for name, value in options.items():
        flag, text = f"--{name.replace('_', '-')}", str(value)
        parts += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    return shlex.join(["palate", *parts])


def visible(text: str) -> str:
    """A text whose control characters, which a terminal would obey, are shown as escapes; line breaks stay."""
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def _column_flag(found: re.Match[str]) -> str:
    name, _, text, position = found.groups()
    value = "none" if found[0].endswith("None}") else "COLUMN" if found[0].endswith("...}") else text or position
    return f"--{name.replace('_', '-')} {shlex.quote(value)}"


def _position_flags(found: re.Match[str]) -> str:
    """Columns in the order of a file, as flags with their positions."""
    names = re.findall(r"\w+", found[1])
    return " ".join(f"--{name.replace('_', '-')} {position}" for position, name in enumerate(names))


def _as_flag(found: re.Match[str], flags: Collection[str], value: str | None) -> str:
    """The flag in place of `name=value` or `name = `; the text as it is if the command has no such flag."""
    name = found[1]
    dashed = name.replace("_", "-")
    known = [f"--{_OTHER_NAMES.get(name, dashed)}", f"--{dashed}", f"--training.{dashed}", f"-{dashed}"]
    flag = next((one for one in known if one in flags), None)
    if flag is None:
        return found[0]
    return flag if value is None else f"{flag} {value}"
