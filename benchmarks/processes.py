"""Several processes: equal to one, killed ten times, and over a network of two namespaces, with bytes and a cut link.

    python benchmarks/processes.py [--parts equal kills network]

`network` needs root: it makes two network namespaces joined by a virtual cable, which stand for two hosts, and removes
them. Bytes are those that the cable's counters count, headers included, beside the sizes of the tensors that are sent.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from common import ROOT, real_data, write_result

STEPS, KILLS, PATIENCE = 100, 10, 120
EQUAL: dict[str, dict[str, Any]] = {
    "mf": {"batch_size": 1024},
    "neumf": {"batch_size": 1024},
    "neumf, SGD": {"batch_size": 1024, "optimizer": "sgd", "lr": 0.1},
    "multvae": {"batch_size": 64},
    "two-tower": {"batch_size": 64},
    "two-tower, text as a bag of words, SGD": {"batch_size": 64, "text": "bag", "optimizer": "sgd", "lr": 0.01},
    "sasrec": {"batch_size": 64},
}
HOSTS = {"palate-a": ("pa0", "10.77.0.1"), "palate-b": ("pb0", "10.77.0.2")}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}


# ---- what a process of a run does


def model_and_data(name: str, noise: bool) -> tuple[Any, Any, dict[str, Any]]:
    from palate.data.dataset import Dataset
    from palate.models import MODELS

    folder = real_data("ml-100k")
    data = Dataset.read(
        folder / "ratings.parquet", items=folder / "items.parquet", users=folder / "users.parquet",
        columns={"timestamp": "timestamp"},
    )  # fmt: skip
    parts = data.split("random", valid=0.1, test=0.1)
    settings = dict(EQUAL.get(name, {"batch_size": 1024}))
    kind = MODELS[name.split(",")[0]]
    config = {key: settings.pop(key) for key in list(settings) if key in {f.name for f in fields(kind.Config)}}
    if not noise:
        config |= {f.name: 0.0 for f in fields(kind.Config) if f.name in ("dropout", "id_dropout")}
    return kind(kind.Config(**config), kind.spec_of(parts.train)), parts, settings


def equal_worker(name: str, out: Path) -> None:
    """Train without noise; write the losses of the first steps, and ndcg@10 with its interval."""
    import torch

    import palate.training.processes  # noqa: F401  # the processes train together
    from palate.config import Training
    from palate.evaluation.evaluate import evaluate

    rand = torch.rand

    def ones(*shape: int, generator: Any = None, **options: Any) -> Any:
        return torch.ones(*shape, **options) if generator is None else rand(*shape, generator=generator, **options)

    torch.rand, torch.randn_like = ones, torch.zeros_like
    model, parts, settings = model_and_data(name, noise=False)
    rows = len(parts.train) if settings["batch_size"] > 500 else len(parts.train.active_users)
    epochs = -(-STEPS // (-(-rows // settings["batch_size"])))
    losses: list[float] = []
    model.fit(
        parts.train, Training(epochs=epochs, **settings), on_step=lambda epoch, done, total, loss: losses.append(loss)
    )
    if int(os.environ.get("RANK", "0")) == 0:
        found = evaluate(model, parts.test, ["ndcg@10"]).estimates["ndcg@10"]
        out.write_text(json.dumps([losses[:STEPS], found.value, found.low, found.high]))


def network_worker(name: str, folder: Path, cut: bool) -> None:
    """Train by rows; count the bytes of some steps; or train until the link is cut."""
    from palate.config import Training
    from palate.training.processes import World, join

    world = join()
    interface = Path("/sys/class/net") / os.environ["GLOO_SOCKET_IFNAME"] / "statistics/tx_bytes"
    sent, marks = [0.0], list[tuple[float, int, float]]()
    add, gather, step = World.sum, World.gather, World.add_gradients

    def counted_sum(self: World, value: Any) -> Any:
        sent[0] += 2 * (self.size - 1) / self.size * value.nbytes
        return add(self, value)

    def counted_gather(self: World, value: Any) -> Any:
        sent[0] += (self.size - 1) * value.nbytes
        return gather(self, value)

    def counted_step(self: World, *gradients: Any) -> None:
        step(self, *gradients)
        marks.append((time.perf_counter(), int(interface.read_text()), sent[0]))
        if len(marks) == 20:
            (folder / f"going.{self.rank}").touch()

    World.sum, World.gather, World.add_gradients = counted_sum, counted_gather, counted_step  # type: ignore[assignment]
    model, parts, settings = model_and_data(name, noise=True)
    model.fit(parts.train, Training(epochs=1000 if cut else 2, embeddings="rowwise", **settings))
    (t0, b0, s0), (t1, b1, s1) = marks[10], marks[10 + STEPS]
    found = [(b1 - b0) / STEPS, (s1 - s0) / STEPS, STEPS / (t1 - t0)]
    (folder / f"{world.rank}.json").write_text(json.dumps(found))


def kill_worker(folder: Path, epochs: int) -> None:
    """Train, or go on; says its number, and that it has begun."""
    from safetensors.torch import save_file

    import palate.training.processes  # noqa: F401  # the processes train together
    from palate.config import Training
    from palate.evaluation.validate import Validator

    attempt, rank = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]
    model, parts, settings = model_and_data("neumf", noise=True)
    whole = model.loss

    def loss(*given: Any) -> Any:
        if not (mark := folder / f"{attempt}.{rank}").exists():
            mark.write_text(str(os.getpid()))
        return whole(*given)

    model.loss = loss
    model.fit(
        parts.train, Training(epochs=epochs, patience=0, **settings), Validator(parts.valid, model),
        checkpoint=folder / "checkpoint", every=0.5,
    )  # fmt: skip
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / f"{rank}.safetensors"
    )


# ---- what starts them


def torchrun(*words: object, inside: str = "", options: Sequence[str] = (), errors: Path | None = None) -> Any:
    """torchrun with this file as its script, in a network namespace or on this machine."""
    away = ["ip", "netns", "exec", inside] if inside else []
    command = [sys.executable, "-m", "torch.distributed.run", *options, __file__, *map(str, words)]
    extra = {"GLOO_SOCKET_IFNAME": HOSTS[inside][0]} if inside else {}
    if errors is None:
        return subprocess.Popen([*away, *command], env=ENVIRONMENT | extra)
    with errors.open("w") as file:
        return subprocess.Popen([*away, *command], env=ENVIRONMENT | extra, stderr=file)


def local(processes: int) -> list[str]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{found.getsockname()[1]}"
    return ["--nproc-per-node", str(processes), "--rdzv-backend", "c10d", "--rdzv-endpoint", place]


def equal(folder: Path) -> Iterator[list[str]]:
    """Two processes beside one and, for models whose losses depend on rounding, two threads beside one."""
    for name in EQUAL:
        others = ["two processes", *["one process with two threads"] * name.startswith("two-tower")]
        found = {}
        for what in ("one process", *others):
            out = folder / what.replace(" ", "-")
            if what == "two processes":
                assert not torchrun("--work", "equal", name, out, options=local(2)).wait()
            else:
                command = [sys.executable, __file__, "--work", "equal", name, str(out)]
                threads = "2" if what.endswith("threads") else "1"
                subprocess.run(command, env=ENVIRONMENT | {"OMP_NUM_THREADS": threads}, check=True)
            found[what] = json.loads(out.read_text())
        losses, value, low, high = found["one process"]
        for what in others:
            most = max(abs(a - b) for a, b in zip(losses, found[what][0], strict=True))
            yield [
                name, f"largest difference of {len(losses)} losses from one process: {what}", f"{most:.1e}",
                "1e-5" if what == "two processes" else "",
            ]  # fmt: skip
        yield [
            name, "ndcg@10 of one process, and its interval; of two",
            f"{value:.4f} ({low:.4f} to {high:.4f}); {found['two processes'][1]:.4f}", "within",
        ]  # fmt: skip


def kills(folder: Path) -> Iterator[list[str]]:
    epochs, rng = 40, random.Random(0)
    steady, killed = folder / "steady", folder / "killed"
    for place in (steady, killed):
        place.mkdir()
    assert not torchrun("--work", "kills", epochs, steady, options=local(2)).wait()
    running = torchrun("--work", "kills", epochs, killed, options=[*local(2), "--max-restarts", "20"])
    deaths, attempts, last = [], 0, time.perf_counter()
    while running.poll() is None:
        marks = {int(path.name.partition(".")[0]) for path in killed.glob("*.[01]")}
        ready = [attempt for attempt in marks if attempt >= attempts]
        if not ready or len(deaths) == KILLS:
            time.sleep(0.01)
            continue
        attempts = max(ready) + 1
        time.sleep(rng.uniform(0, 2))
        rank = rng.randrange(2)
        number = killed / f"{max(ready)}.{rank}"
        if number.exists() and running.poll() is None:
            os.kill(int(number.read_text()), signal.SIGKILL)
            deaths.append(rank)
    assert not running.returncode
    same = all(
        (steady / f"{a}.safetensors").read_bytes() == (killed / f"{b}.safetensors").read_bytes()
        for a in range(2) for b in range(2)
    )  # fmt: skip
    yield ["neumf", f"kill -9 of a worker, {len(deaths)} times (of process 0: {deaths.count(0)}); seconds in all",
           f"{time.perf_counter() - last:.0f}", ""]  # fmt: skip
    yield ["neumf", "weights of both processes bit-equal to the undisturbed run", "yes" if same else "NO", "yes"]


@contextmanager
def hosts() -> Iterator[None]:
    """Two network namespaces joined by a cable."""

    def ip(words: str) -> None:
        subprocess.run(["ip", *words.split()], check=True)

    (a, (one, left)), (b, (two, right)) = HOSTS.items()
    try:
        for name in HOSTS:
            ip(f"netns add {name}")
        ip(f"link add {one} type veth peer name {two}")
        for name, interface, address in ((a, one, left), (b, two, right)):
            ip(f"link set {interface} netns {name}")
            ip(f"-n {name} addr add {address}/24 dev {interface}")
            ip(f"-n {name} link set {interface} up")
            ip(f"-n {name} link set lo up")
        yield
    finally:
        for name in HOSTS:
            subprocess.run(["ip", "netns", "del", name], check=False)


def on_hosts(port: int, *words: object, errors: Path | None = None) -> list[Any]:
    first = next(iter(HOSTS.values()))[1]
    running = []
    for number, (name, (_, address)) in enumerate(HOSTS.items()):
        options = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint"]
        options += [f"{first}:{port}", "--rdzv-conf", f"is_host={1 - number}", "--local-addr", address]
        file = None if errors is None else errors / f"{number}.err"
        running.append(torchrun(*words, inside=name, options=options, errors=file))
    return running


def network(folder: Path) -> Iterator[list[str]]:
    with hosts():
        for place, name in enumerate(("mf", "neumf")):
            assert not [each.wait() for each in on_hosts(29400 + place, "--work", "network", name, folder)].count(1)
            counted, sent, speed = json.loads((folder / "0.json").read_text())
            yield [name, "bytes a step that a host sends: counted; formula",
                   f"{counted:,.0f}; {sent:,.0f} ({counted / sent - 1:+.1%})", ""]  # fmt: skip
            yield [name, "steps a second", f"{speed:.0f}", ""]
            for path in folder.glob("going.*"):
                path.unlink()
        running = on_hosts(29410, "--work", "cut", "neumf", folder, errors=folder)
        while len(list(folder.glob("going.*"))) < 2:
            time.sleep(0.05)
        time.sleep(1)
        host, (interface, _) = next(iter(HOSTS.items()))
        subprocess.run(["ip", "-n", host, "link", "set", interface, "down"], check=True)
        cut, said = time.perf_counter(), dict[int, float]()
        while len(said) < 2 and time.perf_counter() - cut < 300:
            time.sleep(0.1)
            for number in {0, 1} - said.keys():
                if "no longer reaches the others" in (folder / f"{number}.err").read_text():
                    said[number] = time.perf_counter() - cut
        ended = [waited(each, cut) for each in running]
        yield ["neumf", "cut link: seconds until the error of host a; of host b",
               "; ".join(f"{said.get(number, float('nan')):.0f}" for number in range(2)), "60"]  # fmt: skip
        yield ["neumf", "seconds until the torchrun of host a, which has the rendezvous, ends; of host b",
               "; ".join(ended), ""]  # fmt: skip


def waited(process: Any, since: float) -> str:
    """Seconds until a process ended; it is killed after `PATIENCE`."""
    try:
        process.wait(timeout=max(1, PATIENCE - (time.perf_counter() - since)))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"not within {PATIENCE}"
    return f"{time.perf_counter() - since:.0f}"


ABOUT = {
    "equal": "The models' own settings but batch_size (mf and neumf 1,024, others 64 users) and, where named, the rule "
    "(else Adam). Nothing dropped and no noise added. At most 100 steps are compared.",
    "kills": f"Two processes under torchrun --max-restarts 20; {KILLS} kills at random; a checkpoint each 0.5 s.",
    "network": "Two network namespaces joined by a virtual cable, one process each, tables by rows; bytes of 100 "
    "steps, headers included.",
}
HEADER = ["model", "what", "figure", "bar"]
PARTS = {"equal": equal, "kills": kills, "network": network}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work is not None:
        work(*given.work)
        return
    for part in given.parts:
        with tempfile.TemporaryDirectory() as name:
            rows = []
            for row in PARTS[part](Path(name)):
                rows.append(row)
                print(" | ".join(row), flush=True)
        data = "MovieLens-100K, random split, seed 0; one thread a process."
        write_result(f"processes_{part}", f"Several processes: {part}", [data, ABOUT[part]], HEADER, rows)


def work(part: str, what: str, where: str) -> None:
    """One process of a run."""
    if part == "equal":
        equal_worker(what, Path(where))
    elif part == "kills":
        kill_worker(Path(where), int(what))
    else:
        network_worker(what, Path(where), cut=part == "cut")


if __name__ == "__main__":
    main()
