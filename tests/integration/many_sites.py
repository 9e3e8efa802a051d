"""A load test: a federation of many sites on this machine, without training.

python -m tests.integration.many_sites --sites 50 --rounds 20 --adapter vit_b

Real are `flower-server` and all that it starts, keys, TLS, a SuperNode for each site as
`client/join.py` starts it, and the messages, which `client/app.py` answers. Otherwise than at
hospitals the workers are threads of this process, which add a small change to the state in place of
training, and look for messages less often, so that they do not take the processors from what is
measured; and site N dials from 127.0.1.N, since the door counts the connections of an address.

For each round: its seconds, lost answers, and of each process of the coordinator the largest
resident memory and the processor time. Ends with 1 when an answer was lost, when memory grew by
more than 10 % after round 5, when the final state is not the mean that it should be, or too late.
"""

import argparse
import logging
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import cast
from unittest.mock import patch

import torch
import yaml
from flwr.supercore.task_identity import TaskIdentity
from safetensors.torch import load_file

from client import app, join, worker
from client.config import SiteConfig, load_site
from client.flower_fleet import confine
from client.hospital import Site
from client.reached import SUPERNODE, SuperNode
from medsa_model.build import Built, build
from medsa_model.child import start, stop
from medsa_model.config import RunConfig, load_run
from medsa_model.data.sample import Case, Sample
from medsa_model.evaluate import Evaluation, StructureScore
from medsa_model.logs import read_metrics
from medsa_model.loopback import free_port
from medsa_model.state import AdapterState
from medsa_model.train import FitResult

LOOK = 0.25  # seconds between looks at the processes
VALIDATED = 5  # rounds between two validations, which are messages as large as those of training
SETTLED = 5  # rounds after which the peaks of memory must not grow
MOST_GROWTH = 10.0  # per cent
CHANGE = 1e-4  # what a site adds to every value of the state in a round, times 1 to 2
CASES = 20  # of each part at each site
CPU = torch.device("cpu")
ADAPTERS: dict[str, dict[str, object]] = {
    "vit_b": {  # 7.6 MB
        "model": {"backbone": "vit_b", "image_size": 64, "weights": "random"},
        "adapter": {"kind": "msa", "ratio": 1 / 16},
    },
    "vit_tiny": {"model": {"image_size": 32}},
}
DIAL = """
import socket
dial = socket.create_connection
socket.create_connection = lambda address, timeout=None, **_: dial(address, timeout, ({own!r}, 0))
from client.supernode import main
main()
"""
NAMES = {"server.flower_superlink": "SuperLink", "server.worker": "ServerApp"}


def main() -> int:
    """The command line; 0 when nothing was lost and memory did not grow."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.many_sites")
    parser.add_argument("--sites", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--adapter", choices=[*ADAPTERS], default="vit_b")
    parser.add_argument("--minutes", type=float, default=120, help="it is given up after so long")
    parser.add_argument("--place", type=Path, help="empty folder to keep; default: a temporary one")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)  # also where a shell had it ignored
    deadline = time.monotonic() + 60 * options.minutes
    with ExitStack() as stack:
        place = options.place or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        names = [f"site_{number:03d}" for number in range(1, options.sites + 1)]
        provision(place, names, options.rounds, ADAPTERS[options.adapter])
        try:
            return measure(place, names, options.rounds, deadline)
        except KeyboardInterrupt:
            print("interrupted")
            return 130


def provision(place: Path, names: list[str], rounds: int, more: dict[str, object]) -> None:
    """Run, federation and unpacked kits in `place`."""
    place.mkdir(parents=True, exist_ok=True)
    run = {"name": "many", "rounds": rounds, "data": {"kind": "folder"}, **more,
           "evaluate": {"every": VALIDATED}}  # fmt: skip
    (place / "run.yaml").write_text(yaml.safe_dump(run))
    address = {"host": "127.0.0.1", "port": free_port(), "listen": "127.0.0.1"}
    content = {
        "name": "many", "run": "run.yaml", "runs": "runs", "address": address,
        "quorum": min(3, len(names)), "join_seconds": 900, "round_seconds": 900, "repeats": 0,
        "sites": [{"name": name} for name in names],
    }  # fmt: skip
    (place / "federation.yaml").write_text(yaml.safe_dump(content))
    with (place / "provision.txt").open("wb") as log:
        command = [sys.executable, "-m", "server.cli", "provision", "--config"]
        subprocess.run([*command, str(place / "federation.yaml")], check=True, stdout=log)
    for name in names:
        with zipfile.ZipFile(place / "federation" / "kits" / f"{name}.zip") as kit:
            kit.extractall(place / "kits")
        (place / "kits" / name / "site.key").chmod(0o600)  # zipfile does not keep modes


def measure(place: Path, names: list[str], rounds: int, deadline: float) -> int:
    """Let the federation run to its end, and print what was seen."""
    config, run = load_run(place / "run.yaml"), place / "runs" / "out"
    built = build(config.model, config.adapter, config.seed, CPU, config.named_classes)
    size = sum(tensor.numel() * tensor.element_size() for tensor in built.initial.values())
    print(f"{len(names)} sites, {rounds} rounds, adapter {size / 1e6:.1f} MB, in {place}")
    command = [sys.executable, "-m", "server.cli", "--config", str(place / "federation.yaml")]
    began, nodes = time.monotonic(), dict[str, "subprocess.Popen[bytes]"]()
    server = start([*command, "--out", str(run)], place / "server.txt", {"NO_COLOR": "1"})
    with without_training(names):  # until all have ended: nobody is to begin to train then
        try:
            for number, name in enumerate(names, start=1):
                nodes[name] = start_site(place / "kits" / name / "site.yaml", number, len(names))
            lost, peaks = watch(run, server, nodes, names, deadline, began)
            code = server.poll()
        finally:
            for child in (server, *nodes.values()):
                child.terminate()  # all at once, then one after the other is waited for
            for child in (server, *nodes.values()):
                stop(child)
    good = code == 0 and not lost
    print(f"flower-server: {'given up' if code is None else code}; lost answers: {lost}")
    if code:
        print((place / "server.txt").read_text(errors="replace")[-2000:])
    good &= steady(peaks)
    if code == 0 and not lost:
        wrong = largest_error(run, built, names, rounds)
        print(f"largest error of the final state: {wrong:.1e}")
        good &= wrong < CHANGE / 10  # rounding alone
    return 0 if good else 1


@contextmanager
def without_training(names: list[str]) -> Iterator[None]:
    """`client/app.py` and the worker for threads of one process, which do not train."""
    confine()
    logging.getLogger("flwr").setLevel(logging.WARNING)
    own = threading.local()  # whom a worker answers for; Flower has one place a process for it
    for name in ("_task_id", "_run_id", "_node_id"):
        setattr(type(TaskIdentity), name, of_thread(own, name))
    pause = max(worker.PAUSE, 0.15 * len(names))
    with (
        patch.object(app, "train_site", partial(change_state, names)),
        patch.object(app, "evaluate_site", made_up_scores),
        patch.object(worker, "PAUSE", pause),
        patch.object(Site, "built", built_once()),
    ):
        yield


def built_once() -> Callable[[Site, RunConfig], Built]:
    """In place of `Site.built`: the sites of a machine each have their own, here they share one."""
    lock, known = threading.Lock(), dict[str, Built]()

    def built(_: Site, config: RunConfig) -> Built:
        with lock:
            if config.sha256 not in known:
                known[config.sha256] = build(config.model, config.adapter, config.seed, CPU,
                                             config.named_classes)  # fmt: skip
            return known[config.sha256]

    return built


def of_thread(own: threading.local, name: str) -> property:
    """An attribute that is another one in each thread; `None` at first."""

    def get(_: object) -> object:
        return getattr(own, name, None)

    def put(_: object, value: object) -> None:
        setattr(own, name, value)

    return property(get, put)


def factor(names: list[str], site: str) -> float:
    """By how much the changes of sites differ."""
    return 1 + names.index(site) / len(names)


def change_state(
    names: list[str], site: Site, config: RunConfig, state: AdapterState, *_: object
) -> FitResult:
    """In place of training."""
    change = CHANGE * factor(names, site.name)
    changed = {name: tensor + change for name, tensor in state.items()}
    return FitResult(changed, len(site.parts["train"]), CASES, 0.5, 0.1, 0)


def made_up_scores(site: Site, config: RunConfig, state: AdapterState, part: str) -> Evaluation:
    """In place of an evaluation."""
    rows = [
        StructureScore(case.case, kind.name, 0, 0.5, 0.4)
        for case in site.parts[part] for kind in config.prompt.evaluate
    ]  # fmt: skip
    return Evaluation(tuple(rows), 0)


def start_site(file: Path, number: int, sites: int) -> "subprocess.Popen[bytes]":
    """Start the worker of a site as a thread, and its SuperNode, which is returned."""
    config = load_site(file)
    config.state.mkdir(mode=0o700)
    secret = config.state / "secret"
    worker.write_secret(secret, secrets.token_hex(32))
    site = Site(config.site, {part: cases(config, part) for part in ("train", "val", "test")},
                CPU, limits=config.limits)  # fmt: skip
    link = SuperNode(config.state / SUPERNODE, secret.read_bytes())
    answers = app.make_app(lambda _: site)
    own = f"127.0.{1 + number // 250}.{1 + number % 250}"

    def start_bound(
        command: list[str], log: Path, environment: dict[str, str]
    ) -> "subprocess.Popen[bytes]":
        """The command of `client/join.py`, but from an address of this site's own."""
        at = command.index("client.supernode")
        bound = [*command[: at - 1], "-c", DIAL.format(own=own), *command[at + 1 :]]
        return start(bound, log, {**environment, "MALLOC_ARENA_MAX": "2"})  # memory for all

    with patch.object(join, "start", start_bound):
        node = join.start_supernode(join.Processes(config, file, (), secret))
    threading.Thread(
        target=worker.serve, args=(answers, link, config.state / "token"), daemon=True
    ).start()
    return node


def cases(config: SiteConfig, part: str) -> list[Case]:
    """Cases that nobody looks at."""

    def load() -> Sample:
        raise NotImplementedError("the load test has no images")

    names = [f"{config.site}_{part}_{number}" for number in range(CASES)]
    return [Case(name, name, config.site, part, load) for name in names]


def watch(
    run: Path, server: "subprocess.Popen[bytes]", nodes: dict[str, "subprocess.Popen[bytes]"],
    names: list[str], deadline: float, began: float,
) -> tuple[int, list[Counter[str]]]:  # fmt: skip
    """Print each round until the server ends; lost answers, and by round the peaks of memory."""
    lost, peaks, peak, before = 0, list[Counter[str]](), Counter[str](), Counter[str]()
    while server.poll() is None and time.monotonic() < deadline:
        time.sleep(LOOK)
        processes = {"door": [server.pid], "sites": [node.pid for node in nodes.values()]}
        processes |= {"workers": [os.getpid()]} | children(server.pid)
        memory, ticks = Counter[str](), Counter[str]()
        for name, ids in processes.items():
            memory[name] = sum(map(resident, ids))
            ticks[name] = sum(map(processor_ticks, ids))
        peak |= memory
        events = read_metrics(run)
        rounds = [event for event in events if event["event"] == "round"]
        if len(rounds) == len(peaks):
            continue
        number = len(peaks) + 1
        last = rounds[number - 1]
        missing = len(cast("list[str]", last["missing"]))
        if number % VALIDATED == 0:
            missing += len(names) - scored(events, number, "val")
        lost += missing
        told = ", ".join(
            f"{name} {peak[name] / 2**20:.0f} MiB "
            f"{(ticks[name] - before[name]) / os.sysconf('SC_CLK_TCK'):.1f} s"
            for name in ("SuperLink", "door", "ServerApp", "sites", "workers")
        )
        files = (run.parents[1] / "federation").glob("superlink.db*")
        print(
            f"round {number}: {last['seconds']} s, lost {missing}; {told}; database "
            f"{sum(each.stat().st_size for each in files) / 2**20:.0f} MiB; "
            f"{time.monotonic() - began:.0f} s since the start", flush=True,
        )  # fmt: skip
        peaks.append(peak)
        peak, before = Counter[str](), ticks
    if server.poll() == 0:
        lost += len(names) - scored(read_metrics(run), len(peaks), "test")
    if ended := [name for name, node in nodes.items() if node.poll() is not None]:
        print(f"SuperNodes that ended before they should: {', '.join(ended)}")
    return lost, peaks


def scored(events: list[dict[str, object]], number: int, part: str) -> int:
    """Sites whose scores of a part in a round were taken."""
    return len({
        event["site"] for event in events
        if event["event"] == "evaluate" and (event["round"], event["part"]) == (number, part)
    })  # fmt: skip


def children(parent: int) -> dict[str, list[int]]:
    """Process ids of the coordinator's children, by what they are."""
    found: dict[str, list[int]] = {}
    for listed in Path(f"/proc/{parent}/task").glob("*/children"):
        for child in read(listed).split():
            command = read(Path(f"/proc/{child}/cmdline"))
            for word, name in NAMES.items():
                if word in command:
                    found.setdefault(name, []).append(int(child))
    return found


def resident(process: int) -> int:
    """Bytes of memory that a process has; 0 when it has ended."""
    pages = read(Path(f"/proc/{process}/statm")).split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if pages else 0


def processor_ticks(process: int) -> int:
    """Time that a process used so far, in clock ticks."""
    fields = read(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12]) if fields else 0


def read(file: Path) -> str:
    """A file of /proc, empty when its process has ended."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def steady(peaks: list[Counter[str]]) -> bool:
    """Whether no process of the coordinator grew too much; prints by how much each did."""
    if len(peaks) <= SETTLED:
        print(f"whether memory grows is seen after more than {SETTLED} rounds")
        return True
    # peaks of single rounds differ by how many answers come at once: maxima are compared
    good, before, after = True, peaks[:SETTLED], peaks[SETTLED:]
    for name in ("SuperLink", "door", "ServerApp"):
        first, most = (max(peak[name] for peak in part) for part in (before, after))
        growth = 100 * (most / first - 1)
        good &= growth <= MOST_GROWTH
        print(f"{name}: at most {first / 2**20:.0f} MiB until round {SETTLED}, later "
              f"{most / 2**20:.0f} MiB ({growth:+.1f} %)")  # fmt: skip
    return good


def largest_error(run: Path, built: Built, names: list[str], rounds: int) -> float:
    """How far the final state is from the mean of all changes, added in each round."""
    final = load_file(run / "final" / "adapter_model.safetensors")
    mean = CHANGE * sum(factor(names, name) for name in names) / len(names)
    errors = (
        float((final[name] - tensor - rounds * mean).abs().max())
        for name, tensor in built.initial.items()
    )
    return max(errors)


if __name__ == "__main__":
    raise SystemExit(main())
