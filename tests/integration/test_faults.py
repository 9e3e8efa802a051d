"""What a federation of real processes does when something breaks: it goes on, or says why not.

`test_deployment.py` kills its processes, `test_hostile_server.py` has no sites. Here the disk is
full, a round is damaged, a key is used twice, processes stand still, the network swallows what it
is given, and sites have another backbone, send too much or come too late.
"""

import json
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from safetensors.torch import load_file, save_file

from client.config import Limits
from client.flower_fleet import signed
from client.hospital import Site
from medsa_model.backbone import embedded_backbone
from medsa_model.build import build
from medsa_model.checkpoint import latest_round
from medsa_model.config import RunConfig
from medsa_model.logs import read_metrics
from medsa_model.refusals import Reason
from medsa_model.site_keys import public_pem
from server.stamps import Keys, Refusal, Stamps, check_stamp
from tests.client.messages import CPU, ask, configuration, order_for, raising, reason
from tests.integration.federation import (
    ENVIRONMENT,
    ROOT,
    RUN,
    SITES,
    Federation,
    equal,
    federation_at,
    simulated,
)

pytestmark = [pytest.mark.fault, pytest.mark.timeout(400)]

STANDSTILL = 15.0  # seconds
FULL_DISK = """
import resource, sys
if "server.worker" in sys.orig_argv:
    import server.app as app
    save = app.save_round
    def save_on_a_full_disk(run, round_, *more):
        if round_.number == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, resource.RLIM_INFINITY))
        return save(run, round_, *more)
    app.save_round = save_on_a_full_disk
"""
DEADLINE, LATE = 10, 14  # seconds of a round; that the site takes in the second one
BAD_SITE = f"""
import sys
if "client.worker" in sys.orig_argv:
    import time
    from flwr.app import Array
    import client.app as app
    train, pack, rounds = app.train_site, app.to_update, []
    def train_late(site, config, state, round_, *more):
        rounds.append(round_)
        if round_ == 1:
            time.sleep({LATE})
        return train(site, config, state, round_, *more)
    def pack_too_much(*arguments):
        record = pack(*arguments)
        if rounds[-1] == 0:
            array = record["adapters"]
            record["adapters"] = Array(array.dtype, array.shape, array.stype, 10 * array.data)
        return record
    app.train_site, app.to_update = train_late, pack_too_much
"""
FAST_CLOCK = """
import sys
if any(name in sys.orig_argv for name in ("client.supernode", "client.worker")):
    import datetime
    import flwr.supercore.date as date
    works = date.now
    date.now = lambda: works() + datetime.timedelta(seconds=60)
"""


@contextmanager
def changed(monkeypatch: pytest.MonkeyPatch, place: Path, code: str) -> Iterator[None]:
    """Processes that start meanwhile run `code` first: Python imports `sitecustomize` by itself."""
    place.mkdir(parents=True)
    (place / "sitecustomize.py").write_text(code)
    with monkeypatch.context() as patch:
        paths = [str(place), *filter(None, [ENVIRONMENT.get("PYTHONPATH")])]
        patch.setitem(ENVIRONMENT, "PYTHONPATH", os.pathsep.join(paths))
        yield


class Between:
    """A TCP proxy before the coordinator, which can swallow what it is given, and hang up."""

    def __init__(self, port: int) -> None:
        self.target, self.swallows = port, threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.open: list[socket.socket] = []
        self.swallowed = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self.listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target), 10)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                self.open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self.pump, args=pair, daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self.swallows.is_set():
                    self.swallowed += len(data)
                else:
                    sink.sendall(data)
        self.close(source, sink)

    def close(self, *sockets: socket.socket) -> None:
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def hang_up(self) -> None:
        """End all connections; new ones are served as before."""
        self.swallows.clear()
        self.close(*self.open)
        self.open.clear()


@pytest.fixture
def between() -> Iterator[list[Between]]:
    made: list[Between] = []
    yield made
    for each in made:
        each.close(each.listener)
        each.hang_up()


def settings(federation: Federation, kit: str, **changes: object) -> Path:
    """Change the site YAML of an unpacked kit."""
    file = federation.place / "kits" / kit / "site.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))
    return file


def child(parent: int, word: str) -> int:
    """The process id of the child of `parent` whose command line has `word`."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            ours = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
            if ours == parent and word in Path(f"/proc/{name}/cmdline").read_text():
                return int(name)
    raise AssertionError(f"no child {word} of {parent}")


def base_of(checkpoint: Path | None) -> str:
    """The sha256 of a backbone, as it is compared."""
    config = RunConfig.model_validate({key: RUN[key] for key in ("name", "model", "data")})
    model = config.model.model_copy(update={"checkpoint": checkpoint})
    return build(model, config.adapter, config.seed, torch.device("cpu")).manifest.base_sha256


def said(federation: Federation, name: str) -> str:
    return " ".join(federation.output(name).split())


@pytest.mark.integration
def test_a_run_survives_its_disk_a_copy_of_a_site_stopped_processes_and_the_network(
    tmp_path, monkeypatch, between
):
    """And ends with the result of an undisturbed one, every site in every round."""
    run = RUN | {"rounds": 5, "train": {"steps": 20, "batch_size": 2, "prompts_per_image": 1}}
    with federation_at(tmp_path / "f", run, join_seconds=300) as federation:
        expected = simulated(tmp_path, run)
        between.append(Between(federation.port))
        kits = federation.place / "kits"
        shutil.copytree(kits / "site_a", kits / "copy_of_a")
        address = {"address": f"127.0.0.1:{between[0].port}", "ca": "ca.crt"}
        settings(federation, "site_a", coordinator=address)

        with changed(monkeypatch, tmp_path / "full", FULL_DISK):
            federation.start_server()
        federation.start_site("site_a")
        connected = "site_a is connected (1 of 3 sites)"
        federation.wait("site_a", lambda: connected in said(federation, "server"))

        # the same key at two places: the second is told, and told what to do
        copy = settings(federation, "copy_of_a")
        federation.start("copy", str(ROOT / "client" / "run.py"), "--config", str(copy))
        told = "another process takes part with this site's key"
        federation.wait("the copy", lambda: told in said(federation, "copy"))
        assert federation.processes["site_a"].poll() is None
        assert "site_a is not connected any more" not in said(federation, "server")
        end = federation.processes.pop("copy")
        end.send_signal(signal.SIGTERM)
        assert end.wait(20) == 0
        assert "Traceback" not in federation.output("copy")

        # the disk of the coordinator is full in round 2
        for site in SITES[1:]:
            federation.start_site(site)
        server = federation.processes["server"]
        federation.wait("end of the server", lambda: server.poll() is not None)
        assert server.returncode == 1 and latest_round(federation.run) == 1
        assert "rounds/0002 cannot be written" in said(federation, "server")
        assert "MB are free" in said(federation, "server") and "--resume" in federation.output(
            "server"
        )
        assert "Traceback" not in federation.output("server")
        assert [path.name for path in (federation.run / "rounds").glob(".*")] == []

        # and damages what it wrote before
        state = federation.run / "rounds/0001/adapter_model.safetensors"
        content = bytearray(state.read_bytes())
        content[-7] ^= 16
        state.write_bytes(content)
        federation.start_server("--resume")
        federation.wait_for_round(2)
        assert "rounds/0001 is damaged and is not used" in said(federation, "server")
        aside = federation.run / "rounds/.damaged-0001/adapter_model.safetensors"
        assert aside.read_bytes() == content

        # worker, SuperNode and network stand still, each at another site
        sites = {site: federation.processes[site].pid for site in SITES}
        stopped = [child(sites["site_b"], "client.worker"),
                   child(sites["site_c"], "client.supernode")]  # fmt: skip
        between[0].swallows.set()
        for process in stopped:
            os.kill(process, signal.SIGSTOP)
        before = latest_round(federation.run) or 0
        time.sleep(STANDSTILL)
        assert (latest_round(federation.run) or 0) <= min(before + 1, 4)
        assert between[0].swallowed > 0
        for process in stopped:
            os.kill(process, signal.SIGCONT)
        between[0].hang_up()
        codes = federation.wait_for_end()
        assert set(codes.values()) == {0}, federation.everything()
        for number in range(1, 6):
            facts = json.loads((federation.run / f"rounds/{number:04d}/round.json").read_text())
            assert facts["sites"] == [*SITES]
        assert equal(federation.final(), expected)


@pytest.mark.integration
def test_a_round_is_closed_without_sites_that_do_not_fit_send_too_much_or_are_late(
    tmp_path, monkeypatch
):
    """The coordinator says of each why, and the third round has who is well again."""
    rules = {"quorum": 1, "round_seconds": DEADLINE}
    with federation_at(tmp_path / "f", RUN, **rules) as federation:
        weights = load_file(embedded_backbone())
        name = max(weights, key=lambda name: weights[name].numel())
        weights[name].view(-1)[5] += 1e-3  # one of them
        save_file(weights, tmp_path / "other.safetensors", {"format": "pt"})
        ours, theirs = (base_of(file) for file in (None, tmp_path / "other.safetensors"))
        settings(federation, "site_b", checkpoint=str(tmp_path / "other.safetensors"))
        federation.start_server()
        for site in SITES[:2]:
            federation.start_site(site)
        with changed(monkeypatch, tmp_path / "bad", BAD_SITE):
            federation.start_site("site_c")
        codes = federation.wait_for_end()
        assert set(codes.values()) == {0}, federation.everything()
        events = read_metrics(federation.run)
        rounds = {e["round"]: e["sites"] for e in events if e["event"] == "round"}
        assert rounds == {1: ["site_a"], 2: ["site_a"], 3: ["site_a", "site_c"]}
        why = {
            (e["round"], e["site"]): str(e["reason"]) for e in events if e["event"] == "rejected"
        }
        assert sorted(why) == [(1, "site_b"), (1, "site_c"), (2, "site_b"), (3, "site_b")]
        for number in (1, 2, 3):
            told = why[number, "site_b"]
            assert "the site has another backbone" in told and ours[:16] in told
            assert theirs[:16] in told
        assert "bytes" in why[1, "site_c"]
        late = [(e["round"], e["site"]) for e in events if e["event"] == "missing"]
        assert late == [(2, "site_c")]
        for each in ("server", *SITES):
            assert "Traceback" not in federation.output(each)


SIGNED = datetime(2026, 3, 1, 12, tzinfo=UTC)


def clock(seconds: float) -> SimpleNamespace:
    """The module `datetime` of a machine whose clock is so many seconds after `SIGNED`."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return (SIGNED + timedelta(seconds=seconds)).astimezone(tz)

    return SimpleNamespace(datetime=Clock, UTC=UTC)


@pytest.mark.parametrize(("age", "admitted"), [
    (-306, False), (-304, False), (0, True), (299, True), (304, False), (306, False),
])  # fmt: skip
def test_a_stamp_opens_the_door_for_five_minutes(monkeypatch, age, admitted):
    """Of a site's own request, signed at one time and looked at when `age` seconds have passed."""
    key = ec.generate_private_key(ec.SECP384R1())
    monkeypatch.setattr("client.flower_fleet.datetime", clock(0).datetime)
    headers = signed(key)
    monkeypatch.setattr("server.stamps.datetime", clock(age))
    keys = Keys({public_pem(key.public_key()): "site_a"})
    if admitted:
        assert check_stamp(headers, keys, Stamps()) == "site_a"
        return
    with pytest.raises(Refusal, match=re.escape(f"is {age:+d} seconds old")) as caught:
        check_stamp(headers, keys, Stamps())
    assert (caught.value.status, caught.value.code) == (401, 9004)


AGREED = {"name": "small", "rounds": 2, "model": {"image_size": 32}, "data": {"kind": "synthetic"},
          "train": {"steps": 2, "batch_size": 2, "prompts_per_image": 1}}  # fmt: skip
OTHERWISE: dict[str, dict[str, object]] = {
    "seed": {"seed": 1},
    "rounds": {"rounds": 3},
    "model.image_size": {"model": {"image_size": 64}},
    "adapter.ratio": {"adapter": {"kind": "msa", "ratio": 0.5}},
    "train.steps": {"train": {"steps": 3, "batch_size": 2, "prompts_per_image": 1}},
    "strategy.kind": {"strategy": {"kind": "fedadam"}},
}


@pytest.mark.parametrize("change", OTHERWISE.values(), ids=OTHERWISE)
@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_one_setting_that_differs_from_what_was_agreed_is_refused(change, kind):
    """Before anything is read; the site is told which run it was asked for, and by what hash."""
    agreed, asked = configuration(**AGREED), configuration(**AGREED | change)
    read = [raising(AssertionError("read"))] * 3
    site = Site("site_a", {"train": read, "test": read}, CPU, limits=Limits(runs=(agreed.sha256,)))
    said = reason(ask(lambda _: site, kind, order_for(kind, asked)), Reason.RUN_NOT_ALLOWED)
    assert asked.sha256 in said and agreed.sha256 != asked.sha256
