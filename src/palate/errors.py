"""Every fault a user can cause is one of these; nothing else is shown to a user.

A message says what was given, what was expected and what to do. Several faults of one table or one
config are reported together: pass them all to `faults`.
"""

from __future__ import annotations

from collections.abc import Iterable


class PalateError(Exception):
    """The root of all errors palate raises on purpose."""

    @classmethod
    def faults(cls, heading: str, faults: Iterable[str]) -> PalateError:
        """One error for many faults.

        Args:
            heading: What was looked at, for example a file's name.
            faults: One line for each fault, in the order found.
        """
        lines = list(faults)
        if len(lines) == 1:
            return cls(f"{heading}: {lines[0]}")
        return cls(f"{heading}: {len(lines)} faults\n" + "\n".join(f"  - {line}" for line in lines))


class DataError(PalateError):
    """A table cannot be read, or what it holds cannot be used."""


class ConfigError(PalateError):
    """A setting is unknown, of the wrong type or out of range."""


class UnknownId(PalateError):
    """A user or an item was asked for that palate has never seen."""


class CannotAnswer(PalateError):
    """A model was asked a kind of question it has no answer to."""


class TrainingError(PalateError):
    """Training cannot go on, for example because the loss is no longer a number."""


class ArtifactError(PalateError):
    """A saved folder is incomplete, edited, of a newer format, or cannot be written."""


class SourceError(PalateError):
    """A data set cannot be fetched, or what came is not what was expected."""


class MissingExtra(PalateError):
    """An optional dependency is needed and not installed; the message names the extra."""
