"""A federation of three sites with real processes over TLS on the loopback interface."""

import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from medsa_model.loopback import free_port
from server.cli import main as flower_server
from sim.cli import main as simulate

ROOT = Path(__file__).parents[2]
SITES = ("site_a", "site_b", "site_c")
RUN = {
    "name": "small",
    "seed": 3,
    "rounds": 3,
    "model": {"image_size": 32},
    "data": {"kind": "synthetic", "sites": 3, "cases_per_site": 8, "size": 64},
    "train": {"steps": 2, "batch_size": 2, "prompts_per_image": 1},
    "evaluate": {"every": 2},
    "sim": {"rows": [], "references": [], "examples": 0, "processes": 1},
}
# one thread: sums of floats are then made in the same order as in the simulation of this process
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


@dataclass
class Federation:
    """Folders, processes and what they wrote."""

    place: Path
    port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        """The federation YAML."""
        return self.place / "federation.yaml"

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.place / "runs" / "out"

    def start(self, name: str, *words: str) -> None:
        """Start a process under a name; its output goes to a file of that name."""
        with (self.place / f"{name}.txt").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *words], cwd=self.place, env=ENVIRONMENT, stdout=log,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip

    def start_server(self, *words: str) -> None:
        """`flower-server`."""
        command = ["-m", "server.cli", "--config", str(self.config), "--out", str(self.run)]
        self.start("server", *command, *words)

    def start_site(self, site: str) -> None:
        """`python client/run.py` with the site's kit."""
        self.start(site, str(ROOT / "client" / "run.py"), "--config",
                   str(self.place / "kits" / site / "site.yaml"))  # fmt: skip

    def output(self, name: str) -> str:
        """What a process wrote."""
        return (self.place / f"{name}.txt").read_text(errors="replace")

    def wait(self, what: str, done: Callable[[], bool], seconds: float = 180) -> None:
        """Fail with everybody's output when `done` is not true in time, or a process failed."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                pytest.fail(f"{what}: not within {seconds:.0f} s\n{self.everything()}")
            time.sleep(0.05)

    def wait_for_round(self, number: int) -> None:
        """Until that round is complete."""
        self.wait(f"round {number}", (self.run / "rounds" / f"{number:04d}").exists)

    def wait_for_end(self, seconds: float = 180) -> dict[str, int]:
        """Exit codes by name."""
        for name, process in self.processes.items():
            self.wait(f"end of {name}", lambda p=process: p.poll() is not None, seconds)
        return {name: process.returncode for name, process in self.processes.items()}

    def everything(self) -> str:
        """All output, for a test that failed."""
        texts = [f"===== {name}\n{self.output(name)[-3000:]}" for name in self.processes]
        logs = [*self.place.glob("federation/*.log"), *self.place.glob("kits/*/state/*.log")]
        texts += [f"===== {log}\n{log.read_text(errors='replace')[-1500:]}" for log in logs]
        return "\n".join(texts)

    def final(self) -> dict[str, Tensor]:
        """The final state."""
        return load_file(self.run / "final" / "adapter_model.safetensors")


@contextmanager
def federation_at(place: Path, run: dict[str, object], **more: object) -> Iterator[Federation]:
    """A provisioned federation with unpacked kits; ends what is still running."""
    place.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (place / "run.yaml").write_text(yaml.safe_dump(run))
    content = {
        "name": "test", "run": "run.yaml", "runs": "runs", "quorum": 3, "join_seconds": 120,
        "round_seconds": 120, "address": {"host": "127.0.0.1", "port": port, "listen": "127.0.0.1"},
        "sites": [{"name": site} for site in SITES], **more,
    }  # fmt: skip
    federation = Federation(place, port)
    federation.config.write_text(yaml.safe_dump(content))
    assert flower_server(["provision", "--config", str(federation.config)]) == 0
    for site in SITES:
        with zipfile.ZipFile(place / "federation" / "kits" / f"{site}.zip") as kit:
            kit.extractall(place / "kits")
        (place / "kits" / site / "site.key").chmod(0o600)  # zipfile does not keep modes
    try:
        yield federation
    finally:
        for process in federation.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait(10)


def simulated(place: Path, run: dict[str, object]) -> dict[str, Tensor]:
    """The final state of the same run, simulated in this process."""
    torch.set_num_threads(1)
    (place / "simulated.yaml").write_text(yaml.safe_dump(run))
    out = place / "simulated"
    assert simulate(["--config", str(place / "simulated.yaml"), "--out", str(out)]) == 0
    return load_file(out / "final" / "adapter_model.safetensors")


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
