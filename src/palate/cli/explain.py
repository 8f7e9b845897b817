"""`palate explain`: why an item is recommended, for one person or over many."""

from __future__ import annotations

import json as text
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from palate.cli.options import Switch
from palate.cli.show import short, table
from palate.errors import ConfigError
from palate.explanation import plots
from palate.explanation.counterfactual import counterfactual as find_counterfactual
from palate.explanation.explanation import Explanation
from palate.explanation.pictures import summary_picture
from palate.explanation.players import game
from palate.explanation.shapley import SAMPLES
from palate.explanation.sides import word
from palate.explanation.summary import Summary, summarise
from palate.recommender import Recommender
from palate.routes import asked, require_items

Method = Literal["exact", "shap", "lime", "occlusion", "gradient", "grad-cam"]
Known = Literal["history", "feature", "word", "region"]


def explain(
    run: Path,
    *,
    user: str | None = None,
    history: str | None = None,
    item: str | None = None,
    method: Method | None = None,
    by: list[Known] | None = None,
    samples: int = SAMPLES,
    top: int = 5,
    plot: Path | None = None,
    counterfactual: Annotated[bool, Switch] = False,
    everybody: Annotated[bool, Parameter(name="--global", negative="")] = False,
    users: int = 200,
    k: Annotated[int, Parameter(name="-k")] = 10,
    json: Annotated[bool, Switch] = False,
    seed: int = 0,
) -> None:
    """Why an item is recommended to somebody: which items of their history, which features, which words.

    Args:
        run: Folder that `palate train` or `Recommender.save` wrote.
        user: A user's id.
        history: In place of --user: item ids with commas between them, oldest first.
        item: The item's id.
        method: How; default: exact where the score is a sum over the history, else shap.
        by: What is switched off to see what it does: history, feature, word, region; may be given several times.
            Default: all but regions of images.
        samples: Masks that shap and lime score.
        top: Contributions that are shown.
        plot: File for a picture: .png (bars; with --by region a heat map over the image) or .html (the text, shaded);
            with --global .png (what weighs most, partial dependence).
        counterfactual: The smallest set of history items without which the item leaves the top k, in place of reasons.
        everybody: What the lists of many people rest on, in place of one person's.
        users: How many people for --global.
        k: List length for --counterfactual.
        json: Print JSON.
        seed: Of what is sampled.
    """
    recommender = Recommender.load(run)
    data, model = recommender.data, recommender.model
    if everybody:
        if plot is not None and plot.suffix != ".png":
            raise ConfigError(f"--plot {plot} must end in .png with --global")
        summary = summarise(model, data, users, method, seed=seed)
        if plot is not None:
            plot.write_bytes(summary_picture(summary))
        _global(summary, top, json)
        return
    if item is None or (user is None) == (history is None):
        raise ConfigError("give --item ID and either --user ID or --history ID,ID; or --global")
    person = None if user is None else data.users.parse(user)
    given = None if history is None else [data.items.parse(one) for one in history.split(",") if one]
    thing = data.items.parse(item)
    if counterfactual:
        _, queries = asked(data, model.spec, person, given, None)
        found = find_counterfactual(game(model, data, queries, int(require_items(data, thing)[0]), ["history"]), k)
        print(text.dumps(vars(found), ensure_ascii=False, indent=1) if json else found)
        return
    told = recommender.explain(
        item=thing, user=person, history=given, method=method, samples=samples, seed=seed, kinds=by
    )
    if plot is not None:
        _draw(recommender, told, plot, top)
    who = f"user {user}" if user is not None else f"history {history}"
    print(_json(told) if json else _shown(told, who, top))


def _shown(told: Explanation, who: str, top: int) -> str:
    """Reasons, and a table whose values add up to the score."""
    rows = [_row(c.kind, c.key, c.label, c.value, c.error) for c in told.of()[:top]]
    rest = told.of()[top:]
    if rest:
        rows.append(
            _row("others", None, str(len(rest)), sum(c.value for c in rest), sum(c.error**2 for c in rest) ** 0.5)
        )
    rows.append(_row("base", None, "nothing known", told.base, 0.0))
    rows.append(_row("residual", None, "", told.residual, 0.0))
    fit = "" if told.fit is None else f", fit {told.fit:.3f}"
    head = f"{told.label} ({told.item}) for {who}: score {told.score:.4f}, explained by {told.method}{fit}"
    return "\n".join([head, *told.reasons(top), "", table(["kind", "key", "label", "value", "error"], rows)])


def _row(kind: str, key: object, label: str, value: float, error: float) -> tuple[str, str, str, float, float]:
    return kind, "" if key is None else str(key), short(label), value, error


def _json(told: Explanation) -> str:
    fields = vars(told) | {"contributions": [vars(c) for c in told.contributions], "reasons": told.reasons()}
    return text.dumps(fields, ensure_ascii=False, indent=1)


def _global(summary: Summary, top: int, as_json: bool) -> None:
    frames = {name: getattr(summary, name) for name in ("history", "features", "dependence")}
    if as_json:
        fields = vars(summary) | {name: frame.to_dicts() for name, frame in frames.items()}
        print(text.dumps(fields, ensure_ascii=False, indent=1))
        return
    print(summary)
    for name, frame in frames.items():
        if frame.height:
            shown = frame if name == "dependence" else frame.head(2 * top)
            rows = [[short(v) if isinstance(v, str) else v for v in row] for row in shown.rows()]
            print(f"\n{name}\n{table(frame.columns, rows)}")


def _draw(recommender: Recommender, told: Explanation, path: Path, top: int) -> None:
    """Write the picture that the file's ending and the explanation's members ask for."""
    if path.suffix not in (".png", ".html"):
        raise ConfigError(f"--plot {path} must end in .png or .html")
    features = recommender.model.spec.item_features
    words, regions = told.of("word"), told.of("region")
    if (path.suffix == ".html" or words or regions) and features is not None:
        index = require_items(recommender.data, told.item)
        row = recommender.data.encoded_items(features).take(index)
        columns = {column.name: column for column in features.columns}
        if regions:
            images = row.images[regions[0].key[0]]
            image = images.pixels[int(images.row[0])]
            path.write_bytes(plots.heat_map(told, image, regions[0].key[0]))
            return
        if words:
            name = words[0].key[0]
            tokens = [word(columns[name], token) for token in row.text[name].values.tolist()]
            if path.suffix == ".html":
                path.write_text(plots.shaded_html(told, tokens, name), encoding="utf-8")
                return
            if not told.of("history", "feature"):
                path.write_bytes(plots.shaded(told, tokens, name))
                return
    if path.suffix == ".html":
        raise ConfigError(
            "a text is shaded where its words are explained: the model must read one; use --plot FILE.png"
        )
    path.write_bytes(plots.bars(told, top=max(top, 1)))
