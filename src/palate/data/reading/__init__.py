"""Tables of any kind -> checked frames; `read_dataset` makes a `Dataset` of them. Nothing here loads torch."""

from __future__ import annotations

from palate.data.reading.checks import Duplicates
from palate.data.reading.inspection import Inspection, SideInspection, inspect, inspect_side
from palate.data.reading.interactions import CheckedInteractions, Tables, read_interactions
from palate.data.reading.side_tables import read_columns, read_side

__all__ = [
    "CheckedInteractions",
    "Duplicates",
    "Inspection",
    "SideInspection",
    "Tables",
    "inspect",
    "inspect_side",
    "read_columns",
    "read_interactions",
    "read_side",
]
