"""Two of five sites answer with what no site should send: the others' result is that without them.

Each is asked until its third strike, so that in every test six kinds arrive at the real SuperLink.
"""

import json
import zipfile

import pytest

from medsa_model.logs import read_metrics
from tests.integration.federation import (
    ENVIRONMENT,
    ROOT,
    RUN,
    SITES,
    equal,
    federation_at,
    simulated,
)
from tests.integration.hostile_site import KINDS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

ROUNDS, STRIKES = 5, 3
CODES = {
    "nan": {"NOT_FINITE"},
    "thousandfold": {"NORM"},
    "shape": {"DECLARED"},
    "name": {"ARRAYS"},
    "text": {"RECORDS"},
    "weight": {"WEIGHT"},
    "truncated": {"HEADER"},
    "double": {"BYTES", "DECLARED"},
    "no_metrics": {"RECORDS"},
    "pickled": {"HEADER"},
    "tenfold": {"UNREADABLE", "BYTES"},
    "echo": {"ECHO"},
}


SENT = [
    (("nan", "echo", "weight"), ("thousandfold", "truncated", "pickled")),
    (("text", "tenfold", "shape"), ("double", "no_metrics", "name")),
]
assert sorted(kind for pair in SENT for kinds in pair for kind in kinds) == sorted(KINDS)


def data(sites: int) -> dict[str, object]:
    return {"kind": "synthetic", "sites": sites, "cases_per_site": 8, "size": 64}


@pytest.mark.parametrize(("kinds_d", "kinds_e"), SENT)
def test_hostile_answers_change_nothing(tmp_path, monkeypatch, kinds_d, kinds_e):
    """Bit for bit the simulation of the honest sites alone; hostile ones end in quarantine."""
    hostile = {"site_d": kinds_d, "site_e": kinds_e}
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", str(ROOT))  # where the hostile worker is found
    members = [{"name": site} for site in (*SITES, *hostile)]
    run = RUN | {"rounds": ROUNDS, "data": data(5)}
    with federation_at(tmp_path / "f", run, sites=members) as federation:
        expected = simulated(tmp_path, RUN | {"rounds": ROUNDS, "data": data(3)})
        federation.start_server()
        for site in SITES:
            federation.start_site(site)
        for site, kinds in hostile.items():
            kits = federation.place / "kits"
            with zipfile.ZipFile(federation.place / "federation" / "kits" / f"{site}.zip") as kit:
                kit.extractall(kits)
            (kits / site / "site.key").chmod(0o600)  # zipfile does not keep modes
            words = ("--config", str(kits / site / "site.yaml"), "--kinds", ",".join(kinds))
            federation.start(site, "-m", "tests.integration.hostile_site", *words)
        codes = federation.wait_for_end(240)
        assert {codes[name] for name in ("server", *SITES)} == {0}, federation.everything()
        said = federation.output("server")
        assert "Traceback" not in said and "\x1b" not in said, said
        for number in range(1, ROUNDS + 1):
            facts = json.loads((federation.run / f"rounds/{number:04d}/round.json").read_text())
            assert facts["sites"] == list(SITES), federation.everything()
        events = read_metrics(federation.run)
        for site, kinds in hostile.items():
            mine = [event for event in events if event.get("site") == site]
            rejected = [event for event in mine if event["event"] == "rejected"]
            assert [event["round"] for event in rejected] == list(range(1, STRIKES + 1))
            for kind, event in zip(kinds, rejected, strict=True):
                assert event["code"] in CODES[kind], (kind, event)
                print(f"{kind}: {event['code']}: {event['reason']}")  # shown by pytest -s
            quarantined = [event["round"] for event in mine if event["event"] == "quarantined"]
            assert quarantined == [STRIKES]
        assert not list(tmp_path.rglob("unpickled"))
        final = federation.final()
        assert all(bool(tensor.isfinite().all()) for tensor in final.values())
        assert equal(final, expected)
