"""Item ids as typed on the command line."""

from __future__ import annotations

import csv

from palate.data.ids import IdMap


def item_ids(line: str, items: IdMap) -> list[str | int]:
    """The item ids of a `--history`: one id, or several separated by commas.

    Args:
        line: An id that holds a comma may be quoted, as in CSV: `"a,b",c`.
        items: The known items, which decide on the type of the ids.
    """
    if items.is_text and items.index([line])[0] >= 0:
        return [line]
    return [items.parse(one) for one in next(csv.reader([line]), []) if one]
