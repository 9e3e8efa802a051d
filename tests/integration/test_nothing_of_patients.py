"""In a federation of real processes nothing of a patient reaches the coordinator's disk.

Every name at a hospital is the patient's: folder, files, texts in the pictures, the CSV. Of one
site all images break after they were checked, so that it fails in a round, and are mended for the
rounds after that.
"""

from pathlib import Path

import pytest
import yaml

from medsa_model.logs import read_metrics
from tests.integration.federation import SITES, Federation, federation_at
from tests.planted import CANARY, plant_images, traces

pytestmark = [pytest.mark.integration, pytest.mark.fault, pytest.mark.timeout(300)]

RUN = {
    "name": "small",
    "rounds": 3,
    "model": {"image_size": 32},
    "data": {"kind": "folder"},
    "train": {"steps": 8, "batch_size": 2, "prompts_per_image": 1},
}
HERE = ("federation", "runs", "server.txt", "federation.yaml", "run.yaml")


def use(federation: Federation, site: str) -> list[Path]:
    """Let a site use a data set of its own in which every name is the patient's; its images."""
    home = federation.place / "kits" / site
    plant_images(home / CANARY, 12, size=32)
    settings = yaml.safe_load((home / "site.yaml").read_text())
    settings |= {"data": {"kind": "folder", "root": CANARY}, "device": "cpu"}
    settings["limits"] = {"least_evaluated_cases": 1}
    (home / "site.yaml").write_text(yaml.safe_dump(settings))
    return sorted((home / CANARY / "images").iterdir())


def found_at_the_coordinator(place: Path) -> dict[str, list[str]]:
    """What the search finds in all files of the coordinator and in their names, and where."""
    tops = [place / name for name in HERE]
    files = [each for top in tops for each in (top, *top.rglob("*"))]
    found = {}
    for file in files:
        name = str(file.relative_to(place))
        if where := traces(name.encode()) + (traces(file.read_bytes()) if file.is_file() else []):
            found[name] = where
    return found


def test_nothing_of_a_patient_is_on_the_coordinators_disk(tmp_path):
    with federation_at(tmp_path / "f", RUN, quorum=2) as federation:
        images = {site: use(federation, site) for site in SITES}
        federation.start_server()
        federation.start_site("site_a")
        connected = "site_a is connected"
        federation.wait("site_a", lambda: connected in federation.output("server"))
        whole = {image: image.read_bytes() for image in images["site_a"]}
        for image in whole:  # its cases were read and checked before it connected
            image.write_bytes(whole[image][:80])
        for site in SITES[1:]:
            federation.start_site(site)
        federation.wait_for_round(1)
        for image, content in whole.items():
            image.write_bytes(content)
        during = found_at_the_coordinator(federation.place)  # also what Flower has in between
        database = federation.place / "federation" / "superlink.db"
        assert database.stat().st_size > 0
        codes = federation.wait_for_end()
        assert set(codes.values()) == {0}, federation.everything()

        events = read_metrics(federation.run)
        rejected = [str(e["reason"]) for e in events if e["event"] == "rejected"]
        assert "DataError (details in the site's log)" in " ".join(rejected)
        rounds = {e["round"]: e["sites"] for e in events if e["event"] == "round"}
        assert rounds[1] == ["site_b", "site_c"] and rounds[3] == [*SITES]
        assert {e["site"] for e in events if e["event"] == "evaluate"} == {*SITES}

        assert during == {} and found_at_the_coordinator(federation.place) == {}
        log = federation.place / "kits/site_a/state/worker.log"
        assert CANARY in log.read_text()  # who has to mend it is told
        planted = federation.place / "runs" / "out" / "planted"
        planted.write_bytes(b"\0" * 99 + images["site_b"][0].read_bytes())
        assert [*found_at_the_coordinator(federation.place)] == ["runs/out/planted"]
