"""`palate explain`: why an item is recommended, to one user or to many."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from palate.cli import Id, Length, Switch, visible
from palate.cli.ids import item_ids
from palate.cli.show import as_json as to_json
from palate.cli.show import short, table
from palate.errors import ConfigError
from palate.explanation import plots
from palate.explanation.counterfactual import counterfactual as find_counterfactual
from palate.explanation.explanation import Explanation
from palate.explanation.maskable_features import word
from palate.explanation.pictures import summary_picture
from palate.explanation.players import game
from palate.explanation.shapley import SAMPLES
from palate.explanation.summary import Summary, summarise
from palate.extras import require
from palate.recommender.id_translation import one_query, require_item, require_items
from palate.recommender.recommender import Recommender

Method = Literal["exact", "shap", "lime", "occlusion", "gradient", "grad-cam"]
Players = Literal["history", "feature", "word", "region"]

USERS, LENGTH, TOP = 200, 10, 5
"""Users for --global, list length for --counterfactual, and contributions shown, unless given."""


def explain(
    run: Path,
    *,
    user: Annotated[str | None, Id] = None,
    history: Annotated[str | None, Id] = None,
    item: Annotated[str | None, Id] = None,
    method: Method | None = None,
    by: list[Players] | None = None,
    samples: int | None = None,
    top: int | None = None,
    plot: Path | None = None,
    counterfactual: Annotated[bool, Switch] = False,
    everybody: Annotated[bool, Parameter(name="--global", negative="")] = False,
    users: int | None = None,
    k: Annotated[int | None, Length] = None,
    json: Annotated[bool, Switch] = False,
    seed: int = 0,
) -> None:
    """Explain why an item is recommended to a user: which history items, features and words contribute to its score.

    Args:
        run: Folder that palate train or Recommender.save wrote.
        user: A user id.
        history: Item ids separated by commas, oldest first: the history of a new user or, with --user, items chosen
            after training.
        item: The item's id.
        method: The explainer. Defaults to exact if the score is a sum over the history, else to occlusion.
        by: What is switched off to measure its effect: history, feature, word, region; may be given several times.
            Defaults to all but regions of images.
        samples: Masks that shap and lime score.
        top: Contributions that are shown. Defaults to 5.
        plot: File for a picture: .png (bars; with --by region a heat map over the image) or .html (the text, shaded);
            with --global .png (largest effects, partial dependence).
        counterfactual: Instead, find the smallest set of history items without which the item leaves the top k.
        everybody: Instead, explain the top items of many users and sum up.
        users: Number of users for --global. Defaults to 200.
        k: List length for --counterfactual. Defaults to 10.
        json: Print JSON.
        seed: Seed of what is sampled.
    """
    if plot is not None and plot.suffix == ".png":
        require("matplotlib", f"--plot {plot} needs matplotlib, which is not installed", "plots")
    one = {"--user": user, "--history": history, "--item": item, "--by": by}
    if everybody:
        _refuse("--global", {**one, "--counterfactual": counterfactual or None, "-k": k})
        _explain_many(Recommender.load(run), users or USERS, method, samples, seed, plot, top or TOP, json)
        return
    _refuse("one user", {"--users": users})
    if item is None or (user is None and history is None):
        raise ConfigError("give --item ID and either --user ID or --history ID,ID, or both; or --global")
    recommender = Recommender.load(run)
    data = recommender.data
    asked = {
        "user": None if user is None else data.users.parse(user),
        "history": None if history is None else item_ids(history, data.items),
    }
    if counterfactual:
        unused = {"--method": method, "--by": by, "--samples": samples, "--top": top, "--plot": plot}
        _refuse("--counterfactual", unused)
        _counterfactual(recommender, asked, data.items.parse(item), LENGTH if k is None else k, json)
        return
    _refuse("reasons", {"-k": k})
    samples = SAMPLES if samples is None else samples
    found = recommender.explain(
        item=data.items.parse(item), method=method, samples=samples, seed=seed, kinds=by, **asked
    )
    if plot is not None:
        _draw(recommender, found, plot, top or TOP)
    who = " with ".join(
        f"{name} {given}" for name, given in (("user", user), ("history", history)) if given is not None
    )
    print(_as_json(found) if json else _as_text(found, visible(who), top or TOP))


def _refuse(purpose: str, options: Mapping[str, object]) -> None:
    """Refuse options that would be ignored."""
    given = [flag for flag, value in options.items() if value is not None]
    if given:
        raise ConfigError(f"{', '.join(given)}: not used for {purpose}; leave it out")


def _counterfactual(recommender: Recommender, asked: dict[str, Any], item: Any, k: int, as_json: bool) -> None:
    model, data = recommender.model, recommender.data
    query = one_query(data, model.spec, **asked, known=recommender.known)
    players = game(model, data, query, require_item(data, item), ["history"])
    found = find_counterfactual(players, k, on_step=lambda line: print(visible(line), file=sys.stderr))
    print(to_json(vars(found)) if as_json else visible(str(found)))


def _explain_many(
    recommender: Recommender,
    users: int,
    method: Method | None,
    samples: int | None,
    seed: int,
    plot: Path | None,
    top: int,
    as_json: bool,
) -> None:
    if plot is not None and plot.suffix != ".png":
        raise ConfigError(f"--plot {plot} must end in .png with --global")
    samples = SAMPLES if samples is None else samples
    summary = summarise(recommender.model, recommender.data, users, method, samples=samples, seed=seed)
    if plot is not None:
        plot.write_bytes(summary_picture(summary))
    _print_summary(summary, top, as_json)


def _as_text(explanation: Explanation, who: str, top: int) -> str:
    """Reasons, and a table whose values add up to the score."""
    rows = [_row(c.kind, c.key, c.label, c.value, c.error) for c in explanation.of()[:top]]
    rest = explanation.of()[top:]
    if rest:
        error = sum(c.error**2 for c in rest) ** 0.5
        rows.append(_row("others", None, str(len(rest)), sum(c.value for c in rest), error))
    rows.append(_row("base", None, " + ".join(c.label for c in explanation.of("base")), explanation.base, 0.0))
    rows.append(_row("residual", None, "", explanation.residual, 0.0))
    fit = "" if explanation.fit is None else f", fit {explanation.fit:.3f}"
    item = visible(f"{explanation.label} ({explanation.item})")
    head = f"{item} for {who}: score {explanation.score:.4f}, explained by {explanation.method}{fit}"
    reasons = map(visible, explanation.reasons(top))
    return "\n".join([head, *reasons, "", table(["kind", "key", "label", "value", "error"], rows)])


def _row(kind: str, key: object, label: str, value: float, error: float) -> tuple[str, str, str, float, float]:
    return kind, "" if key is None else str(key), short(label), value, error


def _as_json(explanation: Explanation) -> str:
    contributions = [vars(c) for c in explanation.contributions]
    fields = vars(explanation) | {"contributions": contributions, "reasons": explanation.reasons()}
    return to_json(fields)


def _print_summary(summary: Summary, top: int, as_json: bool) -> None:
    frames = {name: getattr(summary, name) for name in ("history", "features", "dependence")}
    if as_json:
        fields = vars(summary) | {name: frame.to_dicts() for name, frame in frames.items()}
        print(to_json(fields))
        return
    print(visible(str(summary)))
    for name, frame in frames.items():
        if frame.height:
            shown = frame if name == "dependence" else frame.head(2 * top)
            rows = [[short(v) if isinstance(v, str) else v for v in row] for row in shown.rows()]
            print(f"\n{name}\n{table(frame.columns, rows)}")


def _draw(recommender: Recommender, explanation: Explanation, path: Path, top: int) -> None:
    """Write the picture that suits the file's ending and the kinds of contributions."""
    if path.suffix not in (".png", ".html"):
        raise ConfigError(f"--plot {path} must end in .png or .html")
    features = recommender.model.spec.item_features
    words, regions = explanation.of("word"), explanation.of("region")
    if (path.suffix == ".html" or words or regions) and features is not None:
        index = require_items(recommender.data, explanation.item, "item=")
        row = recommender.data.encoded_items(features).take(index)
        columns = {column.name: column for column in features.columns}
        if regions:
            images = row.images[regions[0].key[0]]
            image = images.pixels[int(images.row[0])]
            path.write_bytes(plots.heat_map(explanation, image, regions[0].key[0]))
            return
        if words:
            name = words[0].key[0]
            tokens = [word(columns[name], token) for token in row.text[name].values.tolist()]
            if path.suffix == ".html":
                path.write_text(plots.shaded_html(explanation, tokens, name), encoding="utf-8")
                return
            if not explanation.of("history", "feature"):
                path.write_bytes(plots.shaded(explanation, tokens, name))
                return
    if path.suffix == ".html":
        raise ConfigError("--plot FILE.html shades the words of a text, so the model must read one; use a .png file")
    path.write_bytes(plots.bars(explanation, top=max(top, 1)))
