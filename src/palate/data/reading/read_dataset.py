"""read_dataset: interactions and side tables as a `Dataset`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palate.data.dataset import Dataset
from palate.data.features.infer import TITLE
from palate.data.reading.formats import is_store
from palate.data.reading.interactions import read_interactions
from palate.data.reading.sessions import refuse_user_table
from palate.data.reading.side_tables import read_side
from palate.data.store import open_dataset
from palate.errors import ConfigError


def read_dataset(
    source: Any,
    *,
    items: Any = None,
    users: Any = None,
    items_id: str | None = None,
    users_id: str | None = None,
    title: str | None = None,
    item_kinds: Mapping[str, str] | None = None,
    user_kinds: Mapping[str, str] | None = None,
    **options: Any,
) -> Dataset:
    """Read interactions and side tables from files, queries or frames.

    Args:
        source: The interactions: a path, a query (with `connection`) or a frame; or the folder of a data set on disk,
            which takes no other options.
        items, users: Side tables: a path, a query or a frame. Default to none.
        items_id, users_id: Name of the column of ids in each side table. Default to the column that `columns` names for
            the interactions, if the side table has it, else to the usual names.
        title: Name of the column of `items` that holds titles. Defaults to `title` or `name`, in any case.
        item_kinds, user_kinds: Kinds of side-table columns, as in `Dataset.from_frame`.
        options: Those of `palate.data.reading.read_interactions`.

    Raises:
        DataError: Lists all faults of a table.
        ConfigError: An option is out of range.
    """
    if is_store(source):
        given = {"items": items, "users": users, "items_id": items_id, "users_id": users_id, "title": title}
        given |= {"item_kinds": item_kinds, "user_kinds": user_kinds, **options}
        names = [f"{name}=" for name, value in given.items() if value is not None]
        if names:
            raise ConfigError(f"{source} is a data set on disk, which was read already; leave out {', '.join(names)}")
        return open_dataset(source)
    if options.get("session_gap") is not None:
        refuse_user_table(users)
    checked = read_interactions(source, **options)
    shared = {name: options[name] for name in ("connection", "max_gb") if name in options}

    def read(table: Any, key: str, id_column: str | None) -> Any:
        if table is None:
            return None
        dtype = checked.frame[key].dtype
        return read_side(table, key, dtype, id_column=id_column, mapping=options.get("columns"), **shared)

    return Dataset.from_frame(
        checked.frame,
        items=read(items, "item_id", items_id),
        users=read(users, "user_id", users_id),
        rating_scale=options.get("rating_scale"),
        notes=checked.notes,
        item_kinds=dict(item_kinds or {}) | ({} if title is None else {title: TITLE}),
        user_kinds=user_kinds,
        events=checked.events,
    )
