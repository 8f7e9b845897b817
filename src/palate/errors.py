"""Errors that a user can cause; each is a child of `PalateError`.

A message says what was given, what was expected and what to do. All faults of a table or a config are reported
together, by `PalateError.faults`.
"""

from __future__ import annotations

from collections.abc import Iterable


class PalateError(Exception):
    """Base class of all errors that palate raises deliberately."""

    @classmethod
    def faults(cls, heading: str, faults: Iterable[str]) -> PalateError:
        """Build one error that lists many faults.

        Args:
            heading: What has the faults, for example the name of a file.
            faults: One line for each fault, in order.
        """
        lines = list(faults)
        if len(lines) == 1:
            return cls(f"{heading}: {lines[0]}")
        return cls(f"{heading}: {len(lines)} faults\n" + "\n".join(f"  - {line}" for line in lines))


class DataError(PalateError):
    """A table cannot be read, or its content cannot be used."""


class ConfigError(PalateError):
    """A setting is unknown, of the wrong type or out of range."""


class UnknownId(PalateError):
    """A user or an item is not in the data."""


class CannotAnswer(PalateError):
    """A model does not support this kind of query."""


class TrainingError(PalateError):
    """Training cannot continue, for example because the loss is not finite."""


class ArtifactError(PalateError):
    """A saved folder is incomplete, was edited, has a newer format, or cannot be written."""


class SourceError(PalateError):
    """A data set cannot be downloaded or cached, or its files are not the expected ones."""


class MissingExtra(PalateError):
    """An optional dependency is not installed; the message names the extra to install."""


def quoted(value: object, width: int = 60) -> str:
    """Format a value for a message: quoted, shortened if it is longer than `width` characters."""
    text = repr(value)
    return text if len(text) <= width else text[: width - 3] + "..."
