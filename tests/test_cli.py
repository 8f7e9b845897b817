"""The command line: every help, every flag, the way from a table to lists, and what happens when something is wrong.

Run as a program, this file writes the list of flags anew.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from cyclopts import App

from palate.cli import COMMANDS as NAMES
from palate.cli import app, main, suggested, with_flags
from palate.cli.show import short, table
from palate.config import to_dict
from palate.data.dataset import Dataset
from palate.data.sources.synthetic import synthetic
from palate.evaluation.protocols import PROTOCOLS, prepare
from palate.models import MODELS
from palate.models.mf.mf import MF
from palate.recommender.artifact import uses_training
from palate.recommender.recommender import Recommender
from test_artifact import files_no_larger_than

FLAGS = Path(__file__).with_name("cli_flags.txt")
QUICK = ["--training.epochs", "2", "--training.batch-size", "256", "--training.lr", "0.01"]


@dataclass(frozen=True)
class Done:
    """What a command gave."""

    code: int
    out: str
    err: str


def palate(*words: str | Path) -> Done:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert isinstance(ended.value.code, int)
    return Done(ended.value.code, out.getvalue(), err.getvalue())


def commands(group: App = app, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command, as the words after `palate`."""
    inner = [name for name in group if not name.startswith("-")]
    if not inner or group.default_command is not None:
        yield words
    for name in inner:
        yield from commands(group[name], (*words, name))


def flags(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """(names, help) of each option of a command."""
    command = app
    for word in words:
        command = command[word]
    arguments = command.assemble_argument_collection(parse_docstring=True)
    return [(" ".join(a.names), str(a.parameter.help or "")) for a in arguments if a.show]


COMMANDS = list(commands())


def listed() -> str:
    """All flags, one a line; those of all models under `train *`, those of gradient steps under `train GRADIENT`."""
    found = {" ".join(words): [names for names, _ in flags(words)] for words in COMMANDS}
    trains = [names for words, names in found.items() if words.startswith("train ")]
    common = [name for name in trains[0] if all(name in names for names in trains)]
    steps = [name for name in found["train mf"] if name.startswith("--training.")]
    for words, names in found.items():
        if words.startswith("train "):
            trained = uses_training(MODELS[words.split()[1]])
            assert [name for name in names if name in steps] == (steps if trained else [])
            found[words] = [name for name in names if name not in common + steps]
    found |= {"train *": common, "train GRADIENT": steps}
    return "".join(f"{words}: {name}\n" for words, names in found.items() for name in names)


def test_the_commands() -> None:
    assert list(dict.fromkeys(words[0] for words in COMMANDS)) == list(NAMES)
    assert [words[1] for words in COMMANDS if words[0] == "train"] == list(MODELS)


@pytest.mark.parametrize("words", [(), ("data",), ("train",), *COMMANDS], ids=" ".join)
def test_every_help_runs(words: tuple[str, ...]) -> None:
    done = palate(*words, "--help")
    assert (done.code, done.err) == (0, "")
    assert f"Usage: palate {' '.join(words)}".strip() in done.out


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_has_a_help_text(words: tuple[str, ...]) -> None:
    found = flags(words)
    assert found or words in (("data", "sources"), ("data", "protocols"))
    assert not [names for names, text in found if len(text) < 8]


def test_no_flag_comes_or_goes_by_accident() -> None:
    accept = f"if this is meant: {sys.executable} {FLAGS.with_name('test_cli.py')}"
    assert listed() == FLAGS.read_text(), accept


def test_every_shared_flag_is_on_the_page() -> None:
    page = (FLAGS.parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")
    ours = ("demo", "data", "train *", "train GRADIENT", "evaluate", "recommend", "similar")
    shared = {
        flag for line in listed().splitlines() if line.startswith(ours) for flag in re.findall(r" (--?[\w.-]+)", line)
    }
    positional = {"--data", "--file", "--name", "--run"}
    assert not [flag for flag in shared - positional if f"`{flag}" not in page and not flag.startswith("--empty-")]


def test_version() -> None:
    assert palate("--version").out.strip() == sys.modules["palate"].__version__


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with somebody's own tables, in German, with semicolons and text ids."""
    folder = tmp_path_factory.mktemp("shop")
    tables = synthetic(1500)
    ratings = tables.interactions.with_columns(pl.col("user_id", "item_id").cast(pl.String).str.zfill(4))
    names = {"user_id": "kunde", "item_id": "film", "rating": "sterne", "timestamp": "zeit"}
    ratings.rename(names).write_csv(folder / "noten.csv", separator=";")
    assert tables.items is not None
    films = tables.items.select(item_id=pl.col("item_id").cast(pl.String).str.zfill(4), title="title")
    films.write_csv(folder / "filme.csv")
    return folder


COLUMNS = ["--user-id", "kunde", "--item-id", "film", "--rating", "sterne", "--timestamp", "zeit"]


@pytest.fixture(scope="module")
def run(shop: Path) -> Path:
    """A trained NeuMF on these tables."""
    words = ["train", "neumf", shop / "noten.csv", "--items", shop / "filme.csv", *COLUMNS, "--out", shop / "run"]
    words += ["--split", "temporal", "--loss", "joint"]
    done = palate(*words, "--dim", "4", "--mlp-dim", "4", "--layers", "8", "4", "--seed", "3", *QUICK)
    assert done.code == 0, done.err
    assert "noten.csv: 1,500 interactions" in done.out
    assert "temporal: test begins at" in done.out
    assert re.search(r"saved neumf in .*run: epoch \d of 2 was best on valid \(ndcg@10 0\.\d+, loss", done.out)
    assert not (shop / "run.checkpoint").exists()
    return shop / "run"


def test_what_was_trained(run: Path) -> None:
    recommender = Recommender.load(run)
    assert recommender.data.users.is_text
    assert recommender.model.config.layers == (8, 4)
    assert (recommender.training.seed, recommender.training.lr, recommender.training.epochs) == (3, 0.01, 2)
    assert recommender.data.item_table is not None


def test_evaluate_on_the_part_that_was_held_out(run: Path, shop: Path) -> None:
    done = palate("evaluate", run)
    assert done.code == 0, done.err
    assert re.search(r"^ndcg@10 +0\.\d+ +0\.\d+ to 0\.\d+", done.out, re.MULTILINE)
    assert re.search(r"^rmse ", done.out, re.MULTILINE)
    valid = palate("evaluate", run, "--part", "valid", "--metric", "recall@5", "--metric", "mae")
    assert re.findall(r"^(recall@\d+|mae|rmse|ndcg@\d+) ", valid.out, re.MULTILINE) == ["recall@5", "mae"]
    other = palate("evaluate", run, shop / "noten.csv", *COLUMNS)
    assert other.code == 0, other.err
    assert "150 rows" not in other.out


def test_recommend_shows_titles_and_routes(run: Path) -> None:
    data = Recommender.load(run).data
    user, other = data.users.ids[0], data.users.ids[1]
    done = palate("recommend", run, "--user", user, "--user", other, "-k", "3")
    assert done.code == 0, done.err
    assert re.findall(r"^user (\w+): route known_user$", done.out, re.MULTILINE) == [user, other]
    rows = re.findall(r"^ +(\d)  +(\d{4}) +(\w.*?) +-?\d+\.\d{4}$", done.out, re.MULTILINE)
    assert [place for place, _, _ in rows] == ["1", "2", "3"] * 2
    assert rows[0][2] == data.titles(data.items.index([rows[0][1]]))[0]


def test_recommend_for_a_history_as_json_and_csv(run: Path) -> None:
    data = Recommender.load(run).data
    items = ",".join(data.items.ids[:3])
    ask = ["recommend", run, "--history", items, "--history", data.items.ids[4]]
    words = [*ask, "-k", "2"]
    assert f"history {items}: route history" in palate(*words).out
    rows = json.loads(palate(*words, "--json").out)
    assert [row["query"] for row in rows] == [0, 0, 1, 1]
    assert set(rows[0]) == {"query", "item_id", "title", "score", "rank", "route"}
    table = pl.read_csv(io.StringIO(palate(*words, "--csv").out), schema_overrides={"item_id": pl.String})
    assert table["item_id"].to_list() == [row["item_id"] for row in rows]
    assert not {row["item_id"] for row in rows[:2]} & set(data.items.ids[:3])
    seen = json.loads(palate(*ask, "--json", "--include-seen", "-k", "999").out)
    assert len(seen) == 2 * data.n_items


def test_similar(run: Path) -> None:
    item = Recommender.load(run).data.items.ids[0]
    done = palate("similar", run, "--item", item, "-k", "2")
    assert re.match(rf"similar to {item} \(\w.*\): route item_vectors\nrank", done.out)
    rows = json.loads(palate("similar", run, "--item", item, "--json").out)
    assert [row["rank"] for row in rows] == list(range(1, 11))
    assert {row["of"] for row in rows} == {item}


def test_settings_that_are_written_can_be_read_back(run: Path, shop: Path) -> None:
    done = palate("train", "neumf", "--config", run / "train.json", "--out", shop / "again")
    assert done.code == 0, done.err
    weights = [(folder / "weights.safetensors").read_bytes() for folder in (run, shop / "again")]
    assert weights[0] == weights[1]


def test_a_flag_goes_before_the_file_and_the_file_before_the_default(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("dim: 3\nseed: 9\nsplit: none\ntraining: {epochs: 1, lr: 0.5}\n")
    words = ["train", "mf", "synthetic-1000", "--config", tmp_path / "mine.yaml", "--out", tmp_path / "run"]
    done = palate(*words, "--dim", "2", "--training.lr", "0.25")
    assert done.code == 0, done.err
    found = Recommender.load(tmp_path / "run")
    assert (found.model.config.dim, found.training.lr, found.training.epochs, found.training.seed) == (2, 0.25, 1, 9)
    assert found.training.batch_size == MF.default_training.batch_size
    kept = json.loads((tmp_path / "run" / "train.json").read_text())
    assert kept["training"] == to_dict(found.training)
    assert len(found.data) == 1000
    done = palate("evaluate", tmp_path / "run")
    assert (done.code, done.out) == (2, "")
    assert "holds no test part; name data to evaluate on" in done.err


def test_a_run_under_a_protocol_is_judged_by_it(tmp_path: Path) -> None:
    words = ["train", "popularity", "synthetic-3000", "--out", tmp_path / "run"]
    done = palate(*words, "--protocol", "strong-generalisation")
    assert done.code == 0, done.err
    assert "min_rating 4:" in done.out
    judged = palate("evaluate", tmp_path / "run").out
    assert re.search("^ndcg@100 .*^capped_recall@20 ", judged, re.MULTILINE | re.DOTALL)
    assert re.findall("protocol (\\w{12})", judged) == [
        prepare("strong-generalisation", Dataset.load("synthetic-3000")).protocol.hash
    ]
    again = palate("train", "popularity", "--config", tmp_path / "run" / "train.json", "--out", tmp_path / "again")
    assert again.code == 0, again.err
    assert palate("evaluate", tmp_path / "again").out.split("\n\n")[:2] == judged.split("\n\n")[:2]
    asked = palate("evaluate", tmp_path / "run", "--metric", "hit@3").out
    assert "ndcg@100" not in asked


def test_a_split_in_words_is_in_the_protocol(tmp_path: Path) -> None:
    for name, words in {"a": [], "b": ["--valid", "0.1"], "c": ["--test", "0.2"], "d": ["--min-user", "2"]}.items():
        done = palate("train", "popularity", "synthetic-1000", "--split", "random", *words, "--out", tmp_path / name)
        assert done.code == 0, done.err
    found = {name: json.loads((tmp_path / name / "protocol.json").read_text()) for name in "abcd"}
    assert found["a"] == found["b"]
    assert found["a"]["split_options"] == [["seed", 0], ["test", 0.1], ["valid", 0.1]]
    assert found["c"]["split_options"] == [["seed", 0], ["test", 0.2], ["valid", 0.1]]
    assert found["d"]["filters"] == ["min_user 2"]


def test_a_run_under_given_candidates_needs_their_file_once_more(tmp_path: Path) -> None:
    rows = synthetic(1000).interactions
    rows.write_csv(tmp_path / "rows.csv")
    file = rows.sort("timestamp").group_by("user_id").agg(pl.last("item_id")).sort("user_id")
    file.with_columns(negatives=pl.lit(rows["item_id"].unique().to_list())).write_parquet(tmp_path / "lists.parquet")
    words = ["train", "popularity", tmp_path / "rows.csv", "--protocol", "ncf", "--out", tmp_path / "run"]
    assert "the file of held-out rows and candidates is missing; pass --given" in palate(*words).err
    done = palate(*words, "--given", tmp_path / "lists.parquet")
    assert done.code == 0, done.err
    assert "uses given candidates; name their file: --given FILE" in palate("evaluate", tmp_path / "run").err
    test = palate("evaluate", tmp_path / "run", "--given", tmp_path / "lists.parquet")
    valid = palate("evaluate", tmp_path / "run", "--part", "valid")
    for judged in (test, valid):
        assert judged.code == 0, judged.err
        assert "hit@10" in judged.out


def test_data_protocols() -> None:
    told = palate("data", "protocols").out
    assert re.findall("^([\\w-]+)  ", told, re.MULTILINE) == ["name", *PROTOCOLS]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "mine.json",
            '{"dmi": 3, "training": {"epoch": 1}, "user_di": "x"}',
            "3 faults\n  - unknown setting 'dmi'; did you mean 'dim'?\n  - unknown setting 'training.epoch'; did you "
            "mean 'training.epochs'?\n  - unknown setting 'user_di'; did you mean 'user_id'?",
        ),
        ("mine.json", '{"dim": 0}', "--dim 0 is out of range"),
        ("mine.json", '{"dim": 2.9}', "--dim 2.9 is not a whole number"),
        ("mine.json", '{"dim": "many"}', 'unable to convert "many" into int'),
        ("mine.json", "{", "mine.json cannot be read"),
        ("mine.json", "[1]", "must hold settings by name, not list"),
        ("mine.yaml", "dim: [", "mine.yaml cannot be read"),
        ("mine.txt", "dim: 3", "must end in .json, .yaml or .yml"),
    ],
)
def test_settings_that_are_wrong(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    words = ["train", "neumf", "synthetic-1000", "--config", tmp_path / name, "--out", tmp_path / "run"]
    done = palate(*words)
    assert done.code == 2
    assert says in re.sub(r"\n?│\s*", " " if "│" in done.err else "", done.err) or says in done.err
    assert not (tmp_path / "run").exists()


WRONG = [
    ("train neumff x --out run", "neumf"),
    ("train neumf synthetic-1000 --out run --dmi 3", "--dim"),
    ("train neumf synthetic-1000", "--out"),
    ("train neumf synthetic-1000 --out run --dim 0", "--dim 0 is out of range"),
    ("train neumf synthetic-1000 --out run --training.lr -1", "--training.lr -1.0 is out of range"),
    ("train neumf synthetic-1000 --out run --split tempral", "there is no split 'tempral'"),
    (
        "train neumf synthetic-1000 --out run --split leave-last-out --valid 0.5",
        "--valid 0.5: the split 'leave-last-out' expects a whole number of rows",
    ),
    (
        "train neumf synthetic-1000 --out run --test 0.9 --valid 0.2",
        "--valid 0.2 and --test 0.9 leave nothing for train",
    ),
    ("train neumf synthetic-1000 --out run --user-id x", "leave out --user-id"),
    ("train neumf synthetic-1000 --out run --dim 2.9", "--dim 2.9 is not a whole number"),
    (
        "train neumf synthetic-1000 --out run --split none --valid 0.2",
        "--split none holds nothing out; leave out --valid",
    ),
    ("train ease synthetic-1000 --out run --training.epochs 3", "--training.epochs"),
    ("train neumf synthetic-1000 --out run --items-id x", "leave out --items-id"),
    ("train neumf header.csv --out run --title x", "--title describes a table that is not given"),
    ("train neumf movielens100k --out run", "did you mean 'movielens-100k'"),
    ("train neumf no.csv --out run", "no.csv"),
    ("train neumf synthetic-1000 --out full", "is not an artifact; nothing was written"),
    ("train neumf synthetic-1000 --out full/letter.txt", "is not an artifact; nothing was written"),
    ("train neumf full --out run", "folder"),
    ("train neumf header.csv --out run", "no rows"),
    ("recommend gone --user 1", "there is no such folder"),
    ("recommend full --user 1", "not an artifact"),
    ("recommend RUN", "say whom to recommend to: --user ID, --history ID,ID, --features FILE or --all --out FILE"),
    ("recommend RUN --user 0000 --user 0001 --history 0001", "1 histories do not match 2 users"),
    ("recommend RUN --user 0001 --user 0001", "--user 0001 is given twice"),
    ("recommend RUN --user 0001 --json --csv", "--json and --csv exclude each other"),
    ("recommend RUN --user 0001 --raw", "--raw goes with --csv"),
    ("recommend RUN --history 0001 --unknown popularity", "--unknown popularity goes with --user"),
    ("explain RUN --global --item 0001", "--item: not used for --global"),
    ("explain RUN --user 0001 --item 0002 --users 5", "--users: not used for one user"),
    ("explain RUN --user 0001 --item 0002 --counterfactual --method lime", "--method: not used for --counterfactual"),
    ("fidelity RUN --rating sterne", "--rating describe DATA; name it: palate fidelity"),
    ("recommend RUN --user 0001 -k 2.5", "-k 2.5 is not a whole number"),
    ("recommend RUN --user nobody", "unknown user 'nobody': not among the"),
    ("recommend RUN --history 0001,nothing", "unknown item 'nothing'"),
    ("recommend RUN --user 0001 -k 0", "-k 0 is out of range"),
    ("similar RUN --item nothing", "unknown item 'nothing'"),
    ("evaluate RUN --metric ndgc@10", "did you mean 'ndcg'"),
    (
        "evaluate RUN synthetic-1000 --candidates new",
        "leave out --candidates, or DATA: it applies to the held-out part only",
    ),
    ("evaluate RUN --rating sterne", "--rating describe DATA; name it: palate evaluate"),
    ("evaluate RUN --given lists.csv", "--given goes with the test part of a run under the protocol ncf"),
    ("data fetch movielens-100", "did you mean 'movielens-100k'"),
    ("data inspect no.csv", "no.csv"),
]


@pytest.mark.parametrize(("words", "says"), WRONG, ids=[words for words, _ in WRONG])
def test_what_is_wrong_is_said_in_a_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    (tmp_path / "header.csv").write_text("user_id,item_id\n")
    done = palate(*words.replace("RUN", str(run)).split())
    assert done.code == 2
    assert says in done.err
    assert "Traceback" not in done.err + done.out
    assert not (tmp_path / "run").exists()
    assert (tmp_path / "full" / "letter.txt").read_text() == "dear"


def test_a_damaged_artifact(run: Path, tmp_path: Path) -> None:
    Recommender.load(run).save(tmp_path / "run")
    (tmp_path / "run" / "users.parquet").unlink()
    for command in ("recommend", "evaluate", "similar"):
        words = {"recommend": ["--user", "1"], "evaluate": [], "similar": ["--item", "1"]}[command]
        done = palate(command, tmp_path / "run", *words)
        assert done.code == 2
        assert done.err.endswith("users.parquet is missing\n")


def test_a_full_disk_leaves_the_old_run(tmp_path: Path) -> None:
    words = ["train", "popularity", "synthetic-1000", "--out", tmp_path / "run"]
    assert palate(*words).code == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").glob("*.*")}
    with files_no_larger_than(500):
        done = palate(*words, "--split", "none")
    assert done.code == 2
    assert "is unchanged. Free space there" in done.err
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").glob("*.*")} == before
    assert palate("evaluate", tmp_path / "run").code == 0


def test_who_has_everything_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "likes.csv").write_text("user_id,item_id\n1,a\n1,b\n2,a\n3,b\n")
    words = ["train", "popularity", tmp_path / "likes.csv", "--split", "none", "--out", tmp_path / "run"]
    assert palate(*words).code == 0
    done = palate("recommend", tmp_path / "run", "--user", "1", "--user", "2", "-k", "1000000")
    assert done.code == 0
    assert "user 1: nothing to recommend: all 2 items are in the history (--include-seen lists them too)" in done.out
    assert re.search(r"user 2: route known_user\nrank  item_id   score\n   1  b        2\.0000\n", done.out)
    assert json.loads(palate("recommend", tmp_path / "run", "--user", "1", "--json").out) == []
    every = palate("recommend", tmp_path / "run", "--user", "1", "--include-seen", "--exclude", "a", "--exclude", "b")
    assert "user 1: nothing to recommend: all 2 items are excluded by --exclude" in every.out
    alone = palate("similar", tmp_path / "run", "--item", "a")
    assert "route co_occurrence" in alone.out


@pytest.fixture(scope="module")
def odd_ids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, in a folder with a space, whose ids begin with a dash, hold commas and terminal escapes."""
    folder = tmp_path_factory.mktemp("odd ids")
    items = ["-1", "a,b", "=SUM(A1)", "\x1b[31mred", "e", "f"]
    rows = [(f"--u{u}", items[(u + n) % 6]) for u in range(6) for n in range(3)]
    pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").write_csv(folder / "rows.csv")
    done = palate("train", "popularity", folder / "rows.csv", "--split", "none", "--out", folder / "my run")
    assert done.code == 0, done.err
    (folder / "suggested").write_text(done.out.splitlines()[-1])
    return folder / "my run"


def test_a_command_that_is_suggested_runs_as_printed(odd_ids: Path) -> None:
    words = shlex.split((odd_ids.parent / "suggested").read_text())
    assert words[:2] == ["palate", "recommend"]
    done = palate(*words[1:])
    assert done.code == 0, done.err
    assert "user --u0: route known_user" in done.out


def test_ids_may_begin_with_a_dash_and_hold_commas(odd_ids: Path) -> None:
    for words in (["--user", "--u1"], ["--user=--u1"]):
        assert "user --u1: route known_user" in palate("recommend", odd_ids, *words).out
    for line in ("-1,e", "a,b", '"a,b",-1'):
        assert f"history {line}: route history" in palate("recommend", odd_ids, "--history", line).out
    assert "-1 (-1): route co_occurrence" in palate("similar", odd_ids, "--item", "-1").out
    listed = json.loads(palate("recommend", odd_ids, "--history", '"a,b",-1', "--json").out)
    assert {row["item_id"] for row in listed} == {"=SUM(A1)", "\x1b[31mred", "e", "f"}
    left = palate("recommend", odd_ids, "--history", "e", "--exclude", "-1", "--exclude", "f", "--json")
    assert {row["item_id"] for row in json.loads(left.out)} == {"a,b", "=SUM(A1)", "\x1b[31mred"}


def test_terminals_and_spreadsheets_get_no_commands(odd_ids: Path) -> None:
    ask = ["recommend", odd_ids, "--history", "e"]
    assert "\x1b" not in (shown := palate(*ask).out)
    assert "\\x1b[31mred" in shown
    assert "\x1b" not in palate("recommend", odd_ids, "--user", "\x1b[31m").err
    cells = palate(*ask, "--csv").out
    assert "'=SUM(A1)" in cells
    assert "'-1" in cells
    raw = palate(*ask, "--csv", "--raw").out
    assert "'" not in raw
    assert "=SUM(A1)" in raw


def test_a_known_user_brings_newer_items(run: Path) -> None:
    data = Recommender.load(run).data
    user, items = data.users.ids[0], data.items.ids[:2].to_list()
    done = palate("recommend", run, "--user", user, "--history", ",".join(items), "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)
    assert {row["route"] for row in rows} == {"history"}
    assert not {row["item_id"] for row in rows} & set(items)
    shown = palate("recommend", run, "--user", user, "--history", ",".join(items))
    assert f"user {user} with history {','.join(items)}: route history" in shown.out


def test_unknown_users_are_counted_or_get_popularity(run: Path) -> None:
    ask = ["recommend", run, *(word for n in range(7) for word in ("--user", f"nobody{n}"))]
    refused = palate(*ask)
    assert refused.code == 2
    assert "7 unknown users: 'nobody0', 'nobody1', 'nobody2', 'nobody3', 'nobody4', ...: not among" in refused.err
    assert "give their items instead, --history; or pass --unknown popularity" in refused.err
    done = palate(*ask, "--unknown", "popularity", "-k", "1")
    assert done.code == 0, done.err
    assert done.out.count("route popularity") == 7


def test_evaluating_on_training_rows_is_said_first(run: Path, shop: Path) -> None:
    first = palate("evaluate", run, shop / "noten.csv", *COLUMNS).out.splitlines()[0]
    assert re.match(r"1,\d+ of 1,500 rows are in the training data: the model has seen them", first)


def test_weights_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("user_id,item_id,qty\n1,a,5\n1,b,1\n2,b,1\n")
    words = ["train", "popularity", tmp_path / "rows.csv", "--split", "none", "--out", tmp_path / "run"]
    assert "use it as weight: --weight qty" in palate(*words).out
    for flags, first in ((["--weight", "qty"], "a"), (["--weight", "none"], "b")):
        assert palate(*words, *flags).code == 0
        [row] = json.loads(palate("recommend", tmp_path / "run", "--history", "", "-k", "1", "--json").out)
        assert row["item_id"] == first
    refused = palate("train", "content-knn", *words[2:], "--weight", "qty")
    assert refused.code == 2
    assert "columns=" not in refused.err


def test_a_learning_rate_far_too_high_saves_nothing(tmp_path: Path) -> None:
    words = ["train", "mf", "synthetic-1000", "--training.lr", "1000", "--training.epochs", "2"]
    done = palate(*words, "--out", tmp_path / "run")
    assert done.code == 2
    assert "training diverged: the loss rose from" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("say which: columns={'user_id': 'CustomerNo'}", "say which: --user-id CustomerNo"),
        ("give columns={'weight': None}", "give --weight none"),
        ("name it with columns={'item_id': ...}", "name it with --item-id COLUMN"),
        ("columns={'rating': 'my stars'}", "--rating 'my stars'"),
        ("give users=, or history=[...] of others", "give --user, or --history of others"),
        ("needs a table (items=...)", "needs a table (items=...)"),
        ("k = 0 is out of range", "-k 0 is out of range"),
        ("lr = -1.0 is out of range", "--training.lr -1.0 is out of range"),
        ('other = 3 and loss="mse" stay', 'other = 3 and loss="mse" stay'),
        ("pass unknown='popularity'", "pass --unknown popularity"),
        ("train on `data.without_weights()`, or", "pass --weight none, or"),
        ("pass timestamp_format='%m/%d/%Y'", "pass --timestamp-format %m/%d/%Y"),
        ("for example max_gb=16", "for example --max-gb 16"),
        ("raise the limit: max_gb=0.5. Or", "raise the limit: --max-gb 0.5. Or"),
        ("separator=, for example separator=' '", "--separator, for example --separator ' '"),
        ("columns=['user_id', 'item_id'], or has_header=True", "--user-id 0 --item-id 1, or --header"),
    ],
)
def test_messages_name_flags(text: str, said: str) -> None:
    flags = {"--user", "--history", "-k", "--training.lr", "--unknown", "--timestamp-format", "--separator", "--header"}
    flags |= {"--max-gb"}
    assert with_flags(text, flags) == said


def test_commands_to_type_are_quoted() -> None:
    assert suggested("evaluate", Path("my run")) == "palate evaluate 'my run'"
    assert suggested("recommend", "-run", user="-3", k=2) == "palate recommend ./-run --user=-3 --k 2"


def test_data_inspect(shop: Path, tmp_path: Path) -> None:
    done = palate("data", "inspect", shop / "noten.csv", *COLUMNS)
    assert done.code == 0
    assert re.search(r"^interactions +1,500$", done.out, re.MULTILINE)
    (tmp_path / "bad.csv").write_text("user_id,item_id,rating\n1,2,x\n1,,3\n")
    done = palate("data", "inspect", tmp_path / "bad.csv")
    assert done.code == 2
    assert "faults" in done.out
    for words in (["--kind", "a=number"], ["--kind", "b=text"]):
        ignored = palate("data", "inspect", shop / "noten.csv", *COLUMNS, *words)
        assert "--kind declares columns of items or users" in ignored.err
    unused = palate("data", "inspect", shop / "filme.csv", "--duplicates", "last")
    assert "filme.csv holds items, not interactions; leave out --duplicates" in unused.err


def test_data_sources_and_fetch() -> None:
    assert re.search(r"^movielens-100k +100,000 ratings", palate("data", "sources").out, re.MULTILINE)
    assert palate("data", "fetch", "synthetic-1000").out.startswith("synthetic-1000: 1,000 interactions")


def test_ctrl_c_names_the_checkpoint_and_resume_goes_on(tmp_path: Path) -> None:
    words = ["train", "mf", "synthetic-1000", "--out", str(tmp_path / "run"), "--training.patience", "0"]
    command = [sys.executable, "-m", "palate", *words, "--training.epochs", "100000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if line.startswith("epoch   2"):
                child.send_signal(signal.SIGINT)
                break
        rest = child.stderr.read()
    assert child.returncode == 130, rest
    assert f"the run so far is in {tmp_path / 'run.checkpoint'}; add --resume to the same command to continue" in rest
    assert rest.endswith("palate: stopped\n")
    assert "Traceback" not in rest
    done = palate(*words, "--training.epochs", "3", "--resume")
    assert done.code == 0, done.err
    assert re.search(r"epoch \d+ of ([3-9]|\d\d+) was best", done.out)
    assert not (tmp_path / "run.checkpoint").exists()


def test_without_resume_a_run_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.checkpoint").mkdir()
    (tmp_path / "run.checkpoint" / "latest").write_text("nothing")
    words = ["train", "mf", "synthetic-1000", "--out", tmp_path / "run", *QUICK]
    assert palate(*words, "--resume").code == 2
    assert palate(*words).code == 0


def test_a_reader_that_goes_away(run: Path) -> None:
    user = Recommender.load(run).data.users.ids[0]
    command = [sys.executable, "-m", "palate", "recommend", str(run), "--user", user]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == ""


def test_tables_line_up_in_any_script() -> None:
    text = table(["title", "score", "n"], [["千と千尋の神隠し", 0.5, 1], ["Amélie", None, 20]])
    assert text == ("title              score   n\n千と千尋の神隠し  0.5000   1\nAmélie                 -  20")
    assert short("千と千尋の神隠し", 9) == "千と千尋…"
    assert short("Amélie", 6) == "Amélie"


if __name__ == "__main__":
    FLAGS.write_text(listed())


@pytest.mark.parametrize(
    ("given", "found"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_waiting_threads_sleep_unless_told_otherwise(given: dict[str, str], found: str) -> None:
    told = "import os, atexit; atexit.register(lambda: print(os.environ.get('GOMP_SPINCOUNT')))"
    code = f"{told}; from palate.cli import main; main(['--version'])"
    kept = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment = kept | given | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.split()[-1] == found
