"""Provisioning: complete, private, repeatable; and it notices what does not fit."""

import json
import re
import shutil
import stat
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from PIL import Image

from client.config import Limits, SiteConfig, load_site
from client.policy import check_training
from medsa_model.config import RunConfig, load_run
from medsa_model.data.split import split_site
from medsa_model.errors import ConfigError
from medsa_model.refusals import Refused
from medsa_model.site_keys import make_key_pair, public_part
from server.certificate_files import provide_certificates
from server.config import Federation, load_federation
from server.keys import read_public_key
from server.kit import kits_of_another_run
from server.provision import provision
from server.revoked import admitted, revoke
from sim.config import load_simulation
from sim.split import split

CONFIGS = Path(__file__).parents[2] / "configs"
RUN = {
    "name": "study", "seed": 5,
    "data": {"kind": "synthetic", "sites": 3, "cases_per_site": 9, "structures": 2},
    "sim": {"split": {"test": 0.4, "labelled": 3}},
}  # fmt: skip


def federation(tmp_path, run=None, sites=("site_a", "site_b"), **address) -> Federation:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN | (run or {})))
    members = [site if isinstance(site, dict) else {"name": site} for site in sites]
    content = {
        "name": "f", "folder": "fed", "run": "run.yaml", "quorum": 1, "sites": members,
        "address": {"host": "coordinator.example.org", **address},
    }  # fmt: skip
    (tmp_path / "federation.yaml").write_text(yaml.safe_dump(content))
    return load_federation(tmp_path / "federation.yaml")


def unpack(kit: Path, place: Path) -> Path:
    with zipfile.ZipFile(kit) as archive:
        archive.extractall(place)
    return place / kit.stem


def contents(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Bytes, mode and time of change of every file."""
    return {
        str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mode, p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*")) if p.is_file()
    }  # fmt: skip


def line(lines, start) -> str:
    (found,) = [each for each in lines if each.startswith(f"{start}:")]
    return found


def test_everything_is_made_and_closed(tmp_path):
    provision(federation(tmp_path))
    folder = tmp_path / "fed"
    modes = {str(p.relative_to(folder)): stat.S_IMODE(p.stat().st_mode) for p in folder.rglob("*")}
    sites = {f"sites/{s}/site.{kind}" for s in ("site_a", "site_b") for kind in ("pub", "key")}
    kits = {"kits/site_a.zip", "kits/site_b.zip"}
    certificates = {"ca.crt", "ca.key", "server.crt", "server.key"}
    files = {path for path in modes if (folder / path).is_file()}
    assert files == {*certificates, "revoked.json", ".gitignore", *sites, *kits}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {modes[path] for path in modes if path.endswith((".key", ".zip"))} == {0o600}
    assert {modes[path] for path in modes if (folder / path).is_dir()} == {0o700}


def test_a_second_run_changes_no_byte(tmp_path):
    first = provision(federation(tmp_path))
    before = contents(tmp_path / "fed")
    second = provision(federation(tmp_path))
    assert contents(tmp_path / "fed") == before
    assert all("made" in each for each in first) and all("kept" in each for each in second)
    assert not any("made" in each or "BUT" in each for each in second)


def test_a_new_site_gets_its_own_and_the_others_keep_theirs(tmp_path):
    provision(federation(tmp_path))
    before = contents(tmp_path / "fed")
    provision(federation(tmp_path, sites=("site_a", "site_b", "site_c")))
    after = contents(tmp_path / "fed")
    assert before.items() <= after.items()
    assert {path for path in after if path not in before} == {
        "kits/site_c.zip", "sites/site_c/site.key", "sites/site_c/site.pub",
    }  # fmt: skip


def test_a_kit_holds_what_the_hospital_needs(tmp_path):
    provision(federation(tmp_path))
    with zipfile.ZipFile(tmp_path / "fed/kits/site_a.zip") as archive:
        modes = {entry.filename: entry.external_attr >> 16 for entry in archive.infolist()}
        systems = {entry.create_system for entry in archive.infolist()}
    listed = ("", "README.md", "site.yaml", "run.json", "ca.crt", "site.key")
    names = {f"site_a/{name}" for name in listed}
    assert set(modes) == names and systems == {3}
    assert modes["site_a/site.key"] == stat.S_IFREG | 0o600 and modes["site_a/"] & 0o777 == 0o700
    kit = unpack(tmp_path / "fed/kits/site_a.zip", tmp_path)
    run = load_run(federation(tmp_path).run)
    assert RunConfig.model_validate_json((kit / "run.json").read_text()).sha256 == run.sha256
    assert (kit / "ca.crt").read_bytes() == (tmp_path / "fed/ca.crt").read_bytes()
    assert public_part((kit / "site.key").read_bytes(), "") in admitted(federation(tmp_path))
    readme = (kit / "README.md").read_text()
    for words in ("coordinator.example.org:9092", "chmod 600", "--check", "-fingerprint", "limits"):
        assert words in readme


def test_a_kit_over_generated_images_works_as_it_is(tmp_path):
    """And its parts are those of the simulation."""
    provision(federation(tmp_path, port=9999))
    kit = unpack(tmp_path / "fed/kits/site_b.zip", tmp_path)
    config = load_site(kit / "site.yaml")
    run = load_simulation(tmp_path / "run.yaml")
    assert (config.site, config.origin, config.data) == ("site_b", "site_b", run.data)
    assert config.coordinator.address == "coordinator.example.org:9999"
    assert config.key == kit / "site.key" and config.coordinator.ca == kit / "ca.crt"
    mine = [case for case in config.data.open() if case.site == config.origin]
    simulated = split(run.data.open(), run.sim.partition, run.sim.split, run.seed)
    parts = split_site(mine, config.site, config.split, config.split.seed)
    assert parts == simulated.sites["site_b"] and len(parts["train"]) == 3


def test_every_key_of_a_site_yaml_is_in_the_kit_with_a_comment(tmp_path):
    provision(federation(tmp_path))
    kit = unpack(tmp_path / "fed/kits/site_a.zip", tmp_path)
    content = yaml.safe_load((kit / "site.yaml").read_text())
    defaults = SiteConfig.model_validate(content)
    assert set(content) == set(SiteConfig.model_fields)
    for name in ("coordinator", "split", "limits"):
        assert set(content[name]) == set(type(getattr(defaults, name)).model_fields)
    assert defaults.limits == SiteConfig.model_fields["limits"].default
    commented = set(re.findall(r"# .*\n *(\w+):", (kit / "site.yaml").read_text()))
    inner = {key for name in ("coordinator", "split", "limits") for key in content[name]}
    assert {*content, *inner} - {"coordinator"} <= commented


def test_a_kit_for_images_of_its_own_says_what_to_fill_in(tmp_path):
    data = {"kind": "folder", "root": "/coordinators/own", "classes": ["lesion"]}
    run = {"data": data, "model": {"backbone": "vit_b", "checkpoint": "/x/sam.pth"}}
    provision(federation(tmp_path, run, sites=("007", "no")))
    for site in ("007", "no"):
        kit = unpack(tmp_path / "fed/kits" / f"{site}.zip", tmp_path)
        config = load_site(kit / "site.yaml", ["data.root=images"])
        assert (config.site, config.origin) == (site, None) and config.data.classes == ("lesion",)
        assert config.data.root == kit / "images" and config.checkpoint is None
        text = (kit / "site.yaml").read_text()
        assert text.count("FILL IN:") == 2 and "sam_vit_b_01ec64.pth" in text
        assert "/coordinators" not in text and "/x/" not in text
        assert "sam_vit_b_01ec64.pth" in (kit / "README.md").read_text()


@pytest.mark.parametrize(
    ("train", "work"),
    [
        ({"steps": 7, "batch_size": 3}, "7 steps of 3 images"),
        ({"epochs": 0.5, "batch_size": 4},
         "0.5 passes over the site's own training cases, 4 images a step"),
    ],
)  # fmt: skip
def test_a_kit_says_what_the_run_is(tmp_path, train, work):
    """And allows that run alone."""
    provision(federation(tmp_path, {"train": train, "rounds": 17, "data": {"kind": "folder"}}))
    kit = unpack(tmp_path / "fed/kits/site_a.zip", tmp_path)
    sha256 = load_run(tmp_path / "run.yaml").sha256
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", (kit / "README.md").read_text(), re.MULTILINE))
    assert rows["the run"] == "study" and rows["rounds"] == "17" and rows["a round"] == work
    assert rows["backbone"].startswith("vit_tiny, ") and rows["sha256"] == f"`{sha256}`"
    assert load_site(kit / "site.yaml").limits.runs == (sha256,)


def blocks(text: str) -> list[str]:
    """What stands between fences."""
    return re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def picture(path: Path, mask: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((8, 8) if mask else (8, 8, 3), np.uint8)
    pixels[2:5, 2:5] = 1
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("layout", ["one structure", "dataset.json"])
def test_images_that_lie_as_a_kit_says_are_taken(tmp_path, layout):
    """With a section `data` for a site whose images do not have the run's own layout."""
    provision(federation(tmp_path, {"data": {"kind": "isic", "year": 2018}}, sites=("x", "y")))
    kit = unpack(tmp_path / "fed/kits/x.zip", tmp_path)
    section, tree, labels, rows = blocks((kit / "README.md").read_text())[-4:]
    root = tmp_path / "images of x"
    if layout == "dataset.json":
        files = [(f"imagesTr/case_00{n}_0000.png", f"labelsTr/case_00{n}.png") for n in range(1, 6)]
    else:
        assert re.findall(r"(images|masks)/ +case_001.png  case_002", tree) == ["images", "masks"]
        files = [(f"images/case_00{n}.png", f"masks/case_00{n}.png") for n in range(1, 6)]
    for image, mask in files:
        picture(root / image, mask=False)
        picture(root / mask, mask=True)
    if layout == "dataset.json":
        (root / "dataset.json").write_text(labels)
    more = "".join(f"case_00{number},x,patient_{number}\n" for number in range(3, 6))
    (root / "sites.csv").write_text(rows + more)
    data = section.strip().replace("data: ", "data=").replace("/PATH/TO/study", str(root))
    config = load_site(kit / "site.yaml", [data])
    cases = config.data.open()
    assert config.data.classes == ("lesion",) and {case.site for case in cases} == {"x"}
    assert all(case.load().mask.sum() == 9 for case in cases)
    parts = split_site(cases, config.site, config.split, config.split.seed)
    (together,) = [part for part, names in parts.items() if "case_001" in names]
    assert "case_002" in parts[together]


CT = {"data": {"kind": "btcv", "classes": ["liver", "spleen"]}, "volume": {"slices": 6}}


@pytest.mark.parametrize(
    ("more", "work"),
    [
        ({"train": {"steps": 7, "batch_size": 3}},
         "7 steps of 3 volumes x 6 slices, 126 for `limits.images`"),
        ({"train": {"steps": 12, "batch_size": 1}},
         "12 steps of 1 volume x 6 slices, 72 for `limits.images`"),
        ({"train": {"epochs": 0.5, "batch_size": 4}},
         "0.5 passes over the site's own training cases, 4 volumes a step x 6 slices; for "
         "`limits.images` that is steps x volumes x slices"),
        ({"train": {"steps": 9}, "privacy": {"epsilon": 8, "sampling_rate": 0.2, "views": 2}},
         "9 steps, each patient in a step with probability 0.2, 2 views x 6 slices of a patient; "
         "for `limits.images` that is steps x probability x training cases x views x slices"),
    ],
)  # fmt: skip
def test_a_kit_counts_the_slices_of_volumes_as_the_limit_does(tmp_path, more, work):
    provision(federation(tmp_path, CT | more, sites=("x",)))
    text = (unpack(tmp_path / "fed/kits/x.zip", tmp_path) / "README.md").read_text()
    assert f"| a round | {work} |\n" in text
    if counted := re.search(r"(\d+) for `limits.images`", work):
        run, limit = load_run(tmp_path / "run.yaml"), int(counted[1])
        check_training(run, Limits(images=limit), 5, 0, volumes=True)
        with pytest.raises(Refused):
            check_training(run, Limits(images=limit - 1), 5, 0, volumes=True)


def volume(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 3.0, 1.0])), path)


@pytest.mark.parametrize("layout", ["Synapse", "MONAI"])
def test_volumes_that_lie_as_a_kit_says_are_taken(tmp_path, layout):
    """Two labels, of which the second is the organ with the number that the kit prints."""
    provision(federation(tmp_path, CT, sites=("x",)))
    kit = unpack(tmp_path / "fed/kits/x.zip", tmp_path)
    text = (kit / "README.md").read_text()
    numbers = {organ: int(number) for number, organ in re.findall(r"\| (\d+) \| (\w+) \|", text)}
    assert list(numbers.values()) == [*range(1, 14)] and numbers["left_adrenal_gland"] == 13
    synapse, monai, listing, rows = blocks(text)[-4:]
    root = tmp_path / "volumes of x"
    if layout == "Synapse":
        folders = re.findall(r"(RawData/Training/\w+)/ +(\w+)0001\.nii\.gz", synapse)
        assert len(folders) == 2
        pairs = [[f"{folder}/{name}000{n}.nii.gz" for folder, name in folders] for n in (1, 2, 3)]
        root.mkdir()
        (root / "sites.csv").write_text(rows + "img0003,x,patient_18\n")
    else:
        assert "dataset_0.json" in monai
        content = json.loads(listing)
        names = ["imagesTr/vol_18.nii.gz", "labelsTr/vol_18.nii.gz"]
        content["training"].append(dict(zip(("image", "label"), names, strict=True)))
        pairs = [
            [entry["image"], entry["label"]] for part in content.values() for entry in part
        ]  # fmt: skip
        root.mkdir()
        (root / "dataset_0.json").write_text(json.dumps(content))
    labels = np.zeros((8, 8, 6), np.uint8)
    labels[1:3, 1:3, 1:3], labels[4:7, 4:7, 2:5] = numbers["spleen"], numbers["liver"]
    for image, label in pairs:
        volume(root / image, np.full((8, 8, 6), 40, np.int16))
        volume(root / label, labels)
    config = load_site(kit / "site.yaml", [f"data.root={root}"])
    cases = config.data.open()
    assert len(cases) == 3
    assert all(case.load().mask.flatten(1).sum(1).tolist() == [27, 8] for case in cases)
    if layout == "Synapse":
        assert [case.patient for case in cases] == ["patient_17", "patient_17", "patient_18"]
    else:
        parts = split_site(cases, config.site, config.split, config.split.seed)
        assert parts["test"] == ("vol_23",)


def test_a_kit_for_volumes_offers_no_photographs_and_explains_its_keys(tmp_path):
    provision(federation(tmp_path, CT, sites=("x",)))
    kit = unpack(tmp_path / "fed/kits/x.zip", tmp_path)
    text, site = (kit / "README.md").read_text(), (kit / "site.yaml").read_text()
    assert "masks/" not in text and "kind: folder" not in text and '"folder"' not in text
    assert ".png" not in text and "Hounsfield" in text and "`sites.csv` is not needed" in text
    commented = set(re.findall(r"# .*\n *(\w+):", site))
    assert {"annotated", "window", "root"} <= commented
    data = load_site(kit / "site.yaml", ["data.root=/x"]).data
    assert (data.annotated, data.window) == (None, (-175.0, 250.0))


@pytest.mark.parametrize(("test", "needed"), [(0.4, 25), (0.3, 34)])
def test_a_kit_for_volumes_says_that_few_cases_are_never_scored(tmp_path, test, needed):
    run = CT | {"sim": {"split": {"test": test}}}
    provision(federation(tmp_path, run, sites=("x",)))
    kit = unpack(tmp_path / "fed/kits/x.zip", tmp_path)
    limits = load_site(kit / "site.yaml", ["data.root=/x"]).limits
    assert limits.least_evaluated_cases == 10
    assert round(test * needed) >= 10
    text = (kit / "README.md").read_text()
    assert f"share {test} of `split` for testing, ten test cases need about {needed} vol" in text
    (tmp_path / "images").mkdir()
    provision(federation(tmp_path / "images", {"data": {"kind": "folder"}}, sites=("x",)))
    kit = unpack(tmp_path / "images/fed/kits/x.zip", tmp_path / "images")
    assert "Decide about" not in (kit / "README.md").read_text()


@pytest.mark.parametrize(
    ("privacy", "told"),
    [
        ({"epsilon": 8, "delta": 1e-2, "clip_norm": 0.25}, "at most epsilon 8 at delta 0.01."),
        ({"noise_multiplier": 1.5, "clip_norm": 0.25}, "noise of 1.5 times that norm"),
    ],
)
def test_a_kit_says_what_differential_privacy_means(tmp_path, privacy, told):
    provision(federation(tmp_path, {"data": {"kind": "folder"}, "privacy": privacy}, sites=("x",)))
    kit = unpack(tmp_path / "fed/kits/x.zip", tmp_path)
    text = " ".join((kit / "README.md").read_text().split())
    assert "cut to the norm 0.25 and noise" in text and told in text
    assert "`python client/run.py ledger --config site.yaml`" in text and "`limits.epsilon`" in text
    assert "no differential privacy." not in text and "mean loss" not in text
    assert "this one has none" not in (kit / "site.yaml").read_text()


def test_a_kit_without_differential_privacy_says_so(tmp_path):
    provision(federation(tmp_path, {"data": {"kind": "folder"}}, sites=("x",)))
    kit = unpack(tmp_path / "fed/kits/x.zip", tmp_path)
    text = (kit / "README.md").read_text()
    assert "this run has no differential privacy." in text and "## Differential" not in text
    ledger = "# Only runs with differential privacy use it; this one has none.\nledger:\n"
    assert ledger in (kit / "site.yaml").read_text()


def test_a_kit_declares_all_structures_of_the_run(tmp_path):
    data = {"kind": "folder", "classes": ["liver", "läsion"]}
    provision(federation(tmp_path, {"data": data}, sites=("x",)))
    kit = unpack(tmp_path / "fed/kits/x.zip", tmp_path)
    text = (kit / "README.md").read_text()
    labels = next(json.loads(block) for block in blocks(text) if block.startswith("{"))
    assert labels == {"labels": {"background": 0, "liver": 1, "läsion": 2}}
    assert "\ndata: {" not in text  # the section is that of the kit


def test_a_kit_over_generated_images_does_not_speak_of_folders(tmp_path):
    provision(federation(tmp_path))
    text = (unpack(tmp_path / "fed/kits/site_a.zip", tmp_path) / "README.md").read_text()
    assert "sites.csv" not in text and "imagesTr" not in text and "## What is sent" in text


def test_an_ipv6_address_is_dialled_in_brackets(tmp_path):
    provision(federation(tmp_path, host="::1"))
    kit = unpack(tmp_path / "fed/kits/site_a.zip", tmp_path)
    assert load_site(kit / "site.yaml").coordinator.address == "[::1]:9092"


def brought(tmp_path) -> tuple[dict[str, str], Path]:
    make_key_pair(tmp_path / "own.key", tmp_path / "own.pub", "own")
    return {"name": "site_a", "public_key": "own.pub"}, tmp_path / "own.pub"


def test_a_key_of_the_hospitals_own_is_registered_and_not_in_the_kit(tmp_path):
    member, public = brought(tmp_path)
    lines = provision(federation(tmp_path, sites=(member, "site_b")))
    assert "its own key registered" in line(lines, "site_a")
    place = tmp_path / "fed/sites/site_a"
    assert [path.name for path in place.iterdir()] == ["site.pub"]
    assert (place / "site.pub").read_bytes() == public.read_bytes()
    kit = unpack(tmp_path / "fed/kits/site_a.zip", tmp_path)
    assert not (kit / "site.key").exists() and load_site(kit / "site.yaml").site == "site_a"
    assert "keygen" in (kit / "README.md").read_text()
    assert admitted(federation(tmp_path))[read_public_key(public, "site_a")] == "site_a"


def test_a_brought_key_that_changed_is_an_error(tmp_path):
    member, public = brought(tmp_path)
    both = (member, "site_b")
    provision(federation(tmp_path, sites=both))
    words = public.read_text().split()
    public.write_text(" ".join([*words[:2], "another comment"]))
    provision(federation(tmp_path, sites=both))
    make_key_pair(tmp_path / "new.key", tmp_path / "new.pub", "new")
    shutil.copy(tmp_path / "new.pub", public)
    with pytest.raises(ConfigError, match=r"site site_a: public_key is SHA256.*registered with"):
        provision(federation(tmp_path, sites=both))


def test_one_key_for_two_sites_is_an_error_before_anything_is_made(tmp_path):
    member, _ = brought(tmp_path)
    with pytest.raises(ConfigError, match="site_a and site_b have the same public key"):
        provision(federation(tmp_path, sites=(member, member | {"name": "site_b"})))
    assert not (tmp_path / "fed/ca.crt").exists()


def test_a_revoked_site_is_readmitted_with_a_new_key_alone(tmp_path):
    fed = federation(tmp_path)
    provision(fed)
    revoke(fed.folder, "site_a")
    told = line(provision(fed), "site_a")
    assert "KEY REVOKED" in told and "sites/site_a" in told and "kits/site_a.zip" in told
    shutil.move(fed.folder / "sites/site_a", tmp_path / "away")
    with pytest.raises(ConfigError, match="holds the key of another"):  # the kit is still the old
        provision(fed)
    shutil.move(fed.folder / "kits/site_a.zip", tmp_path / "away.zip")
    assert "kit made" in line(provision(fed), "site_a")
    assert set(admitted(fed).values()) == {"site_a", "site_b"}


def test_a_revoked_key_cannot_be_brought_again(tmp_path):
    member, _ = brought(tmp_path)
    fed = federation(tmp_path, sites=(member,))
    provision(fed)
    revoke(fed.folder, "site_a")
    shutil.rmtree(fed.folder / "sites/site_a")
    (fed.folder / "kits/site_a.zip").unlink()
    with pytest.raises(ConfigError, match="is revoked, and that is final"):
        provision(fed)


def test_a_changed_address_is_said_plainly(tmp_path):
    provision(federation(tmp_path))
    before = contents(tmp_path / "fed")
    lines = provision(federation(tmp_path, host="new.example.org", also=["10.0.0.1"]))
    told = line(lines, "server.crt")
    assert "IT IS NOT FOR new.example.org, 10.0.0.1" in told and "move server.crt" in told
    assert "BUT made now it would differ in coordinator:" in line(lines, "site_a")
    assert contents(tmp_path / "fed") == before
    for name in ("server.crt", "server.key"):
        (tmp_path / "fed" / name).unlink()
    told = line(provision(federation(tmp_path, also=["10.0.0.1"])), "server.crt")
    assert "made; for coordinator.example.org, 10.0.0.1" in told


@pytest.mark.parametrize(
    ("days", "told"),
    [(100, "kept; for coordinator.example.org"), (380, "expires soon"), (398, "IT HAS EXPIRED")],
)
def test_the_end_of_the_certificate_is_told_in_time(tmp_path, days, told):
    fed = federation(tmp_path)
    fed.folder.mkdir(mode=0o700)
    provide_certificates(fed, datetime.now(UTC) - timedelta(days=days))
    text = line(provision(fed), "server.crt")
    assert told in text and ("move server.crt and server.key away" in text) == (days > 367)


def test_another_study_is_told_for_kept_kits(tmp_path):
    provision(federation(tmp_path))
    told = line(provision(federation(tmp_path, {"seed": 6})), "site_a")
    assert "differ in split, the run's sha256:" in told
    told = line(provision(federation(tmp_path, {"rounds": 3})), "site_a")
    assert "differ in the run's sha256:" in told


def test_a_site_that_is_only_taken_out_of_the_yaml_comes_back_with_its_name(tmp_path):
    provision(federation(tmp_path))
    before = contents(tmp_path / "fed")
    assert set(admitted(federation(tmp_path, sites=("site_b",))).values()) == {"site_b"}
    assert set(admitted(federation(tmp_path)).values()) == {"site_a", "site_b"}
    provision(federation(tmp_path, sites=("site_b",)))
    assert contents(tmp_path / "fed") == before


def test_a_new_server_certificate_leaves_kits_valid(tmp_path):
    fed = federation(tmp_path)
    provision(fed)
    remove("server.crt", "server.key")(fed.folder, None)
    lines = provision(fed)
    assert "made" in line(lines, "server.crt") and "kept" in line(lines, "ca.crt")
    assert line(lines, "site_a") == "site_a: key kept, kit kept"


def test_a_new_authority_leaves_the_keys_of_the_sites(tmp_path):
    fed = federation(tmp_path)
    provision(fed)
    before = contents(fed.folder)
    remove("ca.crt", "ca.key", "server.crt", "server.key")(fed.folder, None)
    shutil.rmtree(fed.folder / "kits")
    assert "key kept, kit made" in line(provision(fed), "site_a")
    after = contents(fed.folder)
    assert after["ca.crt"] != before["ca.crt"]
    assert all(after[path] == before[path] for path in before if path.startswith("sites/"))
    kit = unpack(fed.folder / "kits/site_a.zip", tmp_path)
    assert (kit / "ca.crt").read_bytes() == (fed.folder / "ca.crt").read_bytes()
    assert (kit / "site.key").read_bytes() == before["sites/site_a/site.key"][0]


def test_certificates_of_the_users_own_are_kept(tmp_path):
    """Without the authority's key, which is elsewhere."""
    provision(federation(tmp_path))
    shutil.move(tmp_path / "fed", tmp_path / "other")
    (tmp_path / "fed").mkdir(mode=0o700)
    for name in ("ca.crt", "server.crt", "server.key"):
        shutil.copy(tmp_path / "other" / name, tmp_path / "fed" / name)
    lines = provision(federation(tmp_path))
    assert "kept" in line(lines, "ca.crt") and "kept; for" in line(lines, "server.crt")
    assert not (tmp_path / "fed/ca.key").exists()
    for name in ("ca.crt", "server.crt", "server.key"):
        assert (tmp_path / "fed" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def replace(path: str, other: str):
    return lambda folder, more: shutil.copy(more / other, folder / path)


def remove(*names: str):
    return lambda folder, more: [(folder / name).unlink() for name in names]


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (remove("ca.crt", "server.crt", "server.key"), r"ca\.key is there without ca\.crt"),
        (remove("ca.crt", "ca.key"), r"server\.crt is there without ca\.crt"),
        (remove("server.key"), r"server\.crt is there without server\.key"),
        (remove("server.crt"), r"server\.key is there without server\.crt"),
        (remove("ca.key", "server.crt", "server.key"), r"ca\.key is missing.*no server\.crt"),
        (replace("ca.key", "ca.key"), r"ca\.crt and ca\.key do not belong together"),
        (replace("server.key", "server.key"), r"server\.key do not belong together"),
        (lambda f, m: [replace(n, n)(f, m) for n in ("ca.crt", "ca.key")], "every hospital would"),
        (lambda f, m: (f / "ca.crt").write_text("x"), r"ca\.crt is no certificate"),
        (lambda f, m: (f / "ca.key").write_text("x"), r"ca\.key is no private key"),
        (lambda f, m: (f / "ca.key").chmod(0o644), r"ca\.key is open .*chmod 600"),
        (lambda f, m: (f / "server.key").chmod(0o640), r"server\.key is open .*chmod 600"),
        (lambda f, m: (f / "sites/site_a/site.key").chmod(0o604), r"site\.key is open"),
        (lambda f, m: f.chmod(0o755), "fed is open .*chmod 700"),
        (replace("sites/site_a/site.key", "sites/site_b/site.key"), "site_a: .*belong together"),
        (replace("sites/site_a/site.pub", "sites/site_b/site.pub"), "site_a: .*belong together"),
        (remove("sites/site_a/site.pub"), r"site\.key: there already"),
        (replace("kits/site_a.zip", "kits/site_b.zip"), "holds the key of another"),
        (lambda f, m: (f / "kits/site_a.zip").write_bytes(b"PK"), "no whole kit"),
        (remove("revoked.json"), "restore it from the backup"),
    ],
)
def test_what_does_not_fit_is_an_error_and_nothing_is_overwritten(tmp_path, tamper, message):
    (tmp_path / "more").mkdir()
    provision(federation(tmp_path / "more"))
    fed = federation(tmp_path)
    provision(fed)
    tamper(fed.folder, tmp_path / "more/fed")
    before = contents(fed.folder)
    with pytest.raises(ConfigError, match=message):
        provision(fed)
    assert contents(fed.folder) == before


def test_a_replaced_authority_is_told_for_kept_kits(tmp_path):
    fed = federation(tmp_path)
    provision(fed)
    remove("ca.crt", "ca.key", "server.crt", "server.key")(fed.folder, None)
    assert "would differ in ca.crt:" in line(provision(fed), "site_a")


def test_generated_images_need_the_generators_names(tmp_path):
    with pytest.raises(ConfigError, match=r"sites: berlin in .*site_a, site_b, site_c"):
        provision(federation(tmp_path, sites=("site_a", "berlin")))
    assert not (tmp_path / "fed").exists()


def test_the_shipped_federation_fits_its_run(tmp_path):
    path = CONFIGS / "federation.yaml"
    assert path.read_text().startswith(
        "# flower-server provision --config configs/federation.yaml\n"
    )
    shipped = load_federation(path)
    assert shipped.folder.resolve() == CONFIGS.parent / "federation" and shipped.quorum == 3
    provision(shipped.model_copy(update={"folder": tmp_path / "fed"}))
    run = load_simulation(shipped.run)
    names = {site.name for site in shipped.sites}
    assert names == {case.site for case in run.data.open()}
    assert {path.stem for path in (tmp_path / "fed/kits").iterdir()} == names


def test_the_lines_that_are_commented_out_in_the_shipped_federation_are_valid(tmp_path):
    text = (CONFIGS / "federation.yaml").read_text()
    text, count = re.subn(r"^( *)# (- \{|\w+: \S)", r"\1\2", text, flags=re.MULTILINE)
    assert count == 4
    (tmp_path / "federation.yaml").write_text(text.replace("\n  - name: site_d", ""))
    address = load_federation(tmp_path / "federation.yaml").address
    assert not address.tls and address.listen_port != address.port
    opened = load_federation(tmp_path / "federation.yaml")
    assert opened.health and opened.sites[-1].public_key == tmp_path / "keys/site_d.pub"


def test_the_shipped_study_of_hospitals_images_can_be_provisioned(tmp_path):
    shipped = load_federation(CONFIGS / "federation.yaml", ["run=hospital.yaml"])
    provision(shipped.model_copy(update={"folder": tmp_path / "fed"}))
    kit = unpack(tmp_path / "fed/kits/site_a.zip", tmp_path)
    assert load_site(kit / "site.yaml").split.test == 0.2
    text = (CONFIGS / "hospital.yaml").read_text()
    text, count = re.subn(r"^# (\w+: \{)", r"\1", text, flags=re.MULTILINE)
    assert count == 2
    (tmp_path / "vit_b.yaml").write_text(text.replace("model:\n  backbone: vit_tiny", "#"))
    assert load_run(tmp_path / "vit_b.yaml").model.backbone == "vit_b"


def test_kits_of_a_run_that_was_changed_are_told(tmp_path):
    """With the settings: sites that list the kit's run will refuse the new one."""
    provision(federation(tmp_path))
    run = load_run(federation(tmp_path).run)
    assert kits_of_another_run(federation(tmp_path), run) == []
    changed = load_run(federation(tmp_path).run, ["rounds=9"])
    told = kits_of_another_run(federation(tmp_path), changed)
    assert len(told) == 2 and all("rounds 10, now 9" in each for each in told)
    assert told[0].startswith("site_a (")
    (tmp_path / "fed/kits/site_a.zip").write_bytes(b"no zip")
    assert len(kits_of_another_run(federation(tmp_path), changed)) == 1


def test_paths_are_shown_as_one_would_write_them(tmp_path):
    """The federation YAML may lie in configs/ and say folder: ../federation."""
    made = federation(tmp_path)
    (tmp_path / "configs").mkdir()
    made = made.model_copy(update={"folder": tmp_path / "configs" / ".." / "fed"})
    lines = provision(made)
    kit = tmp_path.resolve() / "fed" / "kits" / "site_a.zip"
    assert f"kit made: {kit};" in line(lines, "site_a")
    revoke(made.folder, "site_b")
    assert not any(".." in each for each in (*lines, *provision(made)))


def test_no_line_of_the_readme_is_far_longer_than_the_others(tmp_path):
    provision(federation(tmp_path))
    text = (unpack(tmp_path / "fed/kits/site_a.zip", tmp_path) / "README.md").read_text()
    lines = [each for each in text.splitlines() if not each.startswith(("|", "   "))]
    assert max(map(len, lines)) < 140
    assert "copy the adapters to where you keep them" in " ".join(text.split())
