"""Questions to a saved run: `palate evaluate | recommend | add-items | similar`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl

from palate.cli import Flat, Id, Length, Switch, suggested, visible
from palate.cli.everybody import Everybody, users_of, write_with_bar
from palate.cli.ids import item_ids
from palate.cli.inputs import PROTOCOL, Reading, SideTables, dataset
from palate.cli.show import as_csv, as_json, short, table
from palate.data.dataset import Dataset
from palate.data.splits.build import align, training_rows_note
from palate.data.splits.predefined import read_candidates
from palate.errors import ConfigError
from palate.evaluation.evaluate import evaluate as evaluate_model
from palate.evaluation.protocol import Protocol, given_candidates
from palate.ranking.filters import where
from palate.ranking.rules import Rules
from palate.recommender import artifact
from palate.recommender.cold_start import earlier_notes, encode_new_users
from palate.recommender.evaluation_file import EVALUATION_TEXT, write_summary
from palate.recommender.recommender import Recommender


def evaluate(
    run: Path,
    data: str | None = None,
    *,
    part: Literal["test", "valid"] | None = None,
    metric: list[str] | None = None,
    candidates: Literal["full", "warm", "new"] | None = None,
    given: str | None = None,
    save: Annotated[bool, Switch] = False,
    device: str = "cpu",
    reading: Annotated[Reading, Flat] = Reading(),  # noqa: B008
) -> None:
    """Evaluate a trained recommender on the part it was not trained on, or on other data.

    Args:
        run: Folder that palate train or Recommender.save wrote.
        data: Other interactions with the same ids: a file, a data set's name or a query. Defaults to the held-out part.
        part: The held-out part. Defaults to test.
        metric: A metric, for example ndcg@10; may be given several times. Defaults to those of the protocol.
        candidates: The items that compete with the held-out ones: all of them (full), items with training interactions
            (warm) or items without any (new); other held-out items are then not counted. Defaults to the protocol's.
        given: File of held-out rows and candidates, for a run under the protocol ncf.
        save: Keep the results on the test part in RUN, for the model card of palate serve.
        device: Where the model scores: cpu, cuda, cuda:1, mps, or auto for the accelerator if there is one.
        reading: How DATA is read.
    """
    if save and (data is not None or part == "valid"):
        raise ConfigError("--save keeps the results on the test part of RUN; leave out DATA and --part, or --save")
    recommender = Recommender.load(run).to(device)
    if data is not None:
        _refuse(", or DATA: it applies to the held-out part only", part=part, candidates=candidates, given=given)
        other = align(dataset(data, reading, SideTables()), recommender.data)
        for note in training_rows_note(other, recommender.data):
            print(visible(note))
        print(visible(str(recommender.evaluate(other, metric))))
        return
    if flags := reading.given():
        raise ConfigError(f"{', '.join(flags)} describe DATA; name it: {suggested('evaluate', run)} DATA")
    part = part or "test"
    if part == "test" and (run / EVALUATION_TEXT).is_file():
        why = ": the test part was measured before the run was trained anew on all rows"
        _refuse(why, metric=metric, candidates=candidates, given=given, save=save or None)
        print("measured before the run was trained anew on all rows\n")
        print((run / EVALUATION_TEXT).read_text(encoding="utf-8"), end="")
        return
    if part not in recommender.parts or not len(recommender.parts[part]):
        raise ConfigError(f"{run} holds no {part} part; name data to evaluate on: {suggested('evaluate', run)} DATA")
    held_out = align(recommender.parts[part], recommender.data)  # items may have been added since
    protocol, lists = _conditions(run, part, held_out, candidates, given)
    found = evaluate_model(
        recommender.model, held_out, metric, candidates=lists, protocol=protocol, name=recommender.name
    )
    print(found)
    if save:
        write_summary(run, recommender.name, {recommender.name: found})


def recommend(
    run: Path,
    *,
    user: Annotated[list[str] | None, Id] = None,
    history: Annotated[list[str] | None, Id] = None,
    features: Path | None = None,
    items: str | None = None,
    k: Annotated[int, Length] = 10,
    unknown: Literal["error", "popularity"] = "error",
    include_seen: Annotated[bool, Switch] = False,
    rules: Annotated[Rules, Flat] = Rules(),  # noqa: B008
    approximate: Annotated[bool, Switch] = False,
    explain: Annotated[bool, Switch] = False,
    json: Annotated[bool, Switch] = False,
    csv: Annotated[bool, Switch] = False,
    raw: Annotated[bool, Switch] = False,
    everybody: Annotated[Everybody, Flat] = Everybody(),  # noqa: B008
    users: Path | None = None,
    device: str = "cpu",
) -> None:
    """Recommend items to known users, or to new users known by a history or by attributes; or to all, into a file.

    Args:
        run: Folder that palate train or Recommender.save wrote.
        user: A user id; may be given several times.
        history: Item ids separated by commas, oldest first; may be given several times. Alone: the history of a new
            user. With --user, one for each: items chosen after training. Quote an id that holds a comma: '"a,b",c'.
        features: Table of new users, with the columns of the user table; a --history for each row may go with it.
        items: Table of items that came after training and are recommended too; RUN stays as it is.
        k: List length.
        unknown: What becomes of a --user who is not in the training data: an error, or a list by popularity.
        include_seen: Recommend items of the history too.
        rules: Filters and re-ranking.
        approximate: Search only the most likely part of a large catalogue.
        explain: Add a sentence for each item that says why.
        json: Print JSON instead of tables.
        csv: Print CSV instead of tables. A text that a spreadsheet would run as a formula gets an apostrophe in
            front, and control characters are shown as escapes.
        raw: With --csv, or a CSV file: texts as they are.
        everybody: Lists of all users in a file.
        users: Of --all: a file with the ids of the users to write lists for. Defaults to all known users.
        device: Where the model scores: cpu, cuda, cuda:1, mps, or auto for the accelerator if there is one.
    """
    file = everybody.options(user=user, history=history, features=features, explain=explain, json=json, csv=csv)
    if file is None:
        _check_asked(user, history, features, unknown, users)
        _check_output(json, csv, raw)
    recommender = _with_items(Recommender.load(run), items, run).to(device)
    data = recommender.data
    rules = replace(rules, exclude=tuple(data.items.parse(str(one)) for one in rules.exclude))
    shared: dict[str, Any] = {
        "k": k, "exclude_seen": not include_seen, "rules": rules, "approximate": approximate, "unknown": unknown,
    }  # fmt: skip
    if file is not None:
        chosen = None if users is None else users_of(users, recommender.known.users)
        file |= shared | {"users": chosen, "escape_formulas": not raw}
        write_with_bar(recommender.recommend_all, "users", file)
        return
    asked = _distinct(user, data)
    batch = None if features is None else encode_new_users(features, recommender.model.spec, data.user_table)
    _say(() if batch is None else batch.notes)
    lines = None if history is None else [item_ids(line, data.items) for line in history]
    found = recommender.recommend(asked, history=lines, features=batch, explain=explain, **shared)
    found = _with_titles(found, data)
    if json or csv:
        print(as_json(found.to_dicts()) if json else as_csv(found, raw))
        return
    names = _names(asked, history, None if batch is None else len(batch))
    for one, name in names.items():
        own = found.filter(pl.first() == one)
        print(f"{visible(name)}: {_list(own) if own.height else _why_empty(data, rules, include_seen)}")


def add_items(run: Path, items: str, *, out: Path | None = None) -> None:
    """Add items that came after training to a trained recommender, which recommends them by their features.

    Args:
        run: Folder that palate train or Recommender.save wrote.
        items: Table of the new items, with the columns of the item table. It may hold known items too; they stay as
            they are, and palate update RUN --items ITEMS changes them.
        out: Folder for the larger recommender. Defaults to RUN.
    """
    target = out or run
    artifact.check_place(target)
    before = Recommender.load(run)
    after = _with_items(before, items, run)
    more = after.data.n_items - before.data.n_items
    if not more and target == run:
        print(f"{run} is unchanged: the table holds no new items")
        return
    after.save(target)
    if target != run and (run / PROTOCOL).exists():
        shutil.copyfile(run / PROTOCOL, target / PROTOCOL)
    print(f"saved {after.name} in {target}: {more:,} new items, {after.data.n_items:,} in all")


def similar(
    run: Path,
    *,
    item: Annotated[list[str] | None, Id] = None,
    items: str | None = None,
    k: Annotated[int, Length] = 10,
    json: Annotated[bool, Switch] = False,
    csv: Annotated[bool, Switch] = False,
    raw: Annotated[bool, Switch] = False,
    everybody: Annotated[Everybody, Flat] = Everybody(),  # noqa: B008
) -> None:
    """List the items most similar to an item; or to each item, into a file.

    Args:
        run: Folder that palate train or Recommender.save wrote.
        item: An item id; may be given several times.
        items: Table of items that came after training, which can be asked about and listed; RUN stays as it is.
        k: List length.
        json: Print JSON instead of tables.
        csv: Print CSV instead of tables. A text that a spreadsheet would run as a formula gets an apostrophe in
            front, and control characters are shown as escapes.
        raw: With --csv, or a CSV file: texts as they are.
        everybody: Lists of all items in a file.
    """
    file = everybody.options(item=item, json=json, csv=csv)
    if file is None:
        _check_output(json, csv, raw)
        if item is None:
            raise ConfigError("say which item: --item ID; or write the lists of all items: --all --out FILE")
    recommender = _with_items(Recommender.load(run), items, run)
    data = recommender.data
    if file is not None:
        write_with_bar(recommender.similar_all, "items", file | {"k": k, "escape_formulas": not raw})
        return
    frames = []
    for one in map(data.items.parse, item or ()):
        found = _with_titles(recommender.similar(one, k), data)
        frames.append(found.select(pl.lit(one).alias("of"), pl.all()))
        if not (json or csv):
            [title] = data.titles(data.items.index([one]))
            listed = _list(found) if found.height else "no similar items: no user has it together with another item"
            print(f"similar to {visible(str(one))} ({short(title)}): {listed}")
    if json or csv:
        print(as_json(pl.concat(frames).to_dicts()) if json else as_csv(pl.concat(frames), raw))


def _refuse(why: str, **options: object) -> None:
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(f"leave out {', '.join(given)}{why}")


def _conditions(run: Path, part: str, held_out: Dataset, candidates: Any, given: str | None) -> tuple[Protocol, Any]:
    """The protocol of a run's held-out part, and the candidate lists if it has any."""
    path = run / PROTOCOL
    protocol = Protocol.from_dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Protocol()
    lists = protocol.candidates == "given" and part == "test" and candidates is None
    if given is not None and not lists:
        raise ConfigError("--given goes with the test part of a run under the protocol ncf; leave it out")
    if candidates is not None:
        return replace(protocol, candidates=candidates), None
    if lists and given is None:
        raise ConfigError(f"the protocol of {run} uses given candidates; name their file: --given FILE")
    if lists:
        return protocol, given_candidates(held_out, read_candidates(given, held_out))
    return (replace(protocol, candidates="full") if protocol.candidates == "given" else protocol), None


def _check_asked(user: Any, history: Any, features: Any, unknown: str, users: Path | None) -> None:
    if users is not None:
        raise ConfigError("--users goes with --all --out FILE; add them, or name users by --user")
    if user is None and history is None and features is None:
        raise ConfigError("say whom to recommend to: --user ID, --history ID,ID, --features FILE or --all --out FILE")
    if user is None and unknown != "error":
        raise ConfigError(f"--unknown {unknown} goes with --user; give both, or leave out --unknown")


def _distinct(user: Sequence[str] | None, data: Dataset) -> list[str | int] | None:
    """The ids of --user, each given once."""
    if user is None:
        return None
    ids = [data.users.parse(one) for one in user]
    if twice := [one for one in ids if ids.count(one) > 1]:
        raise ConfigError(f"--user {twice[0]} is given twice; give each user once")
    return ids


def _check_output(as_json: bool, as_csv: bool, raw: bool) -> None:
    if as_json and as_csv:
        raise ConfigError("--json and --csv exclude each other; give one of them")
    if raw and not as_csv:
        raise ConfigError("--raw goes with --csv; give both, or leave out --raw")


def _names(users: Sequence[str | int] | None, history: list[str] | None, rows: int | None) -> dict[str | int, str]:
    """Whom each list is for: the value in the first column of the lists, and a name to print."""
    if users is not None:
        lines = [f" with history {line}" for line in history or []] or [""] * len(users)
        return {user: f"user {user}{line}" for user, line in zip(users, lines, strict=True)}
    if rows is not None:
        return {position: f"new user {position + 1}" for position in range(rows)}
    return {position: f"history {line}" for position, line in enumerate(history or [])}


def _with_items(recommender: Recommender, items: str | None, run: Path) -> Recommender:
    """The recommender of a run with the items of a table, if there is one; says what was not used of the table."""
    if items is None:
        return recommender
    larger = recommender.add_items(items)
    command = suggested("update", run, items=items)
    notes = larger.data.notes[len(earlier_notes(recommender.data)) :]
    _say([note.replace("update(items=...)", command) for note in notes])
    return larger


def _say(notes: Sequence[str]) -> None:
    """Print what could not be used of a table; on standard error, because the answer may be for a program."""
    for note in notes:
        print(f"  {visible(note)}", file=sys.stderr)


def _with_titles(found: pl.DataFrame, data: Dataset) -> pl.DataFrame:
    """With a column of titles, if the items have any."""
    if not data.has_titles:
        return found
    titles = pl.Series("title", data.titles(data.items.index(found["item_id"])), pl.String)
    return found.insert_column(found.columns.index("item_id") + 1, titles)


def _why_empty(data: Dataset, rules: Rules, include_seen: bool) -> str:
    """Why a list is empty."""
    allowed = f"all {data.n_items:,} items"
    if rules.where is not None:
        matching = int(where(data.item_table, rules.where).sum())
        if not matching:
            return f"nothing to recommend: no item matches --where {rules.where!r}"
        allowed = f"all {matching:,} items that match --where"
    reasons = [] if include_seen else ["in the history (--include-seen lists them too)"]
    reasons += ["excluded by --exclude"] if rules.exclude else []
    return f"nothing to recommend: {allowed} are {' or '.join(reasons)}"


def _list(found: pl.DataFrame) -> str:
    if "title" in found.columns:
        found = found.with_columns(pl.Series("title", map(short, found["title"]), pl.String))
    columns: Sequence[str] = [c for c in ("rank", "item_id", "title", "score", "reasons") if c in found.columns]
    return f"route {found['route'][0]}\n{table(columns, found.select(columns).rows())}\n"
