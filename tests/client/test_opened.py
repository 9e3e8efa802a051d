"""From the site YAML to an opened site: the same parts every time, and none of them by accident."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from client.config import SiteConfig, load_site
from client.hospital import Site
from client.opened import Checked, check_cases, examine, open_cases, open_site
from medsa_model.data.sample import Case, Sample
from medsa_model.data.split import SplitOptions
from medsa_model.data.synthetic import Synthetic
from medsa_model.errors import CheckpointError, ConfigError, DataError
from sim.partition import BySite
from sim.split import split

SYNTHETIC = {"kind": "synthetic", "sites": 2, "cases_per_site": 12, "size": 64}


def config(place: Path, **more: object) -> SiteConfig:
    content = {
        "site": "site_b",
        "coordinator": {"address": "coordinator.example.org:9092"},
        "origin": "site_b",
        "data": SYNTHETIC,
        "device": "cpu",
        **more,
    }
    (place / "site.yaml").write_text(yaml.safe_dump(content))
    return load_site(place / "site.yaml")


def folder(place: Path, *names: str, empty: tuple[str, ...] = ()) -> dict[str, object]:
    """The data section of a folder with an image and a mask of each name."""
    for kind in ("images", "masks"):
        (place / "data" / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            pixels = np.zeros((8, 8), np.uint8)
            pixels[2:5, 2:5] = 0 if kind == "masks" and name in empty else 255
            Image.fromarray(pixels).save(place / "data" / kind / f"{name}.png")
    return {"kind": "folder", "root": "data"}


NAMES = tuple(f"p{number}" for number in range(8))


def ids(site: Site) -> dict[str, list[str]]:
    return {part: [case.case for case in cases] for part, cases in site.parts.items()}


def listed(site: Site) -> list[str]:
    return sorted(name for names in ids(site).values() for name in names)


@pytest.fixture
def heard(caplog, monkeypatch):
    monkeypatch.setattr("client.opened.logger.propagate", True)  # set_up() turns it off
    return caplog


def test_a_site_uses_the_cases_that_come_from_it(tmp_path):
    site = open_site(config(tmp_path))
    assert listed(site) == [f"site_b_{number:05d}" for number in range(12)]
    assert all(len(site.parts[part]) for part in ("train", "val", "test"))
    assert all(case.site == "site_b" for cases in site.parts.values() for case in cases)


def test_without_an_origin_all_cases_are_the_sites(tmp_path):
    assert len(listed(open_site(config(tmp_path, origin=None)))) == 24


def test_an_origin_that_no_case_has_is_an_error_with_those_that_there_are(tmp_path):
    with pytest.raises(DataError, match=r"origin is 'site_c'.*come from site_a, site_b;"):
        open_site(config(tmp_path, origin="site_c"))
    data = folder(tmp_path, *NAMES)
    with pytest.raises(DataError, match=r"come from \(none\).*sites\.csv in data\.root, columns"):
        open_site(config(tmp_path, data=data))


def test_what_the_yaml_says_reaches_the_site(tmp_path):
    limits, checkpoint = {"steps": 5, "least_training_cases": 3}, "weights.pth"
    more = {"limits": limits, "checkpoint": checkpoint, "workers": 2}
    site = open_site(config(tmp_path, **more))
    assert (site.name, site.device) == ("site_b", torch.device("cpu"))
    assert (site.limits.steps, site.limits.least_training_cases) == (5, 3)
    assert (site.checkpoint, site.workers) == (tmp_path / "weights.pth", 2)
    assert site.classes == ("nodule", "body", "core")
    assert site.counted == tmp_path / "state" / "counted.json"


def test_a_site_has_a_cache_in_memory_and_on_disk_as_it_says(tmp_path):
    plain = open_site(config(tmp_path))
    assert plain.cache is not None and plain.workers == 0
    assert plain.cache.most == 2 * 10**9 and plain.cache.folder is None
    nothing = open_site(config(tmp_path, cache_megabytes=0)).cache  # it rounds like any other
    assert nothing is not None and nothing.most == 0 and nothing.folder is None
    more = {"cache_megabytes": 0, "cache_folder": "kept", "cache_folder_megabytes": 0.5}
    cache = open_site(config(tmp_path, **more)).cache
    assert cache is not None and cache.most == 0 and cache.folder is not None
    assert cache.folder.place == tmp_path / "kept" and cache.folder.most == 500_000
    assert cache.folder.place.stat().st_mode & 0o777 == 0o700
    cache.folder.place.chmod(0o750)
    with pytest.raises(ConfigError, match="kept is open to other accounts"):
        open_site(config(tmp_path, **more))


def test_a_folder_beside_the_yaml(tmp_path):
    data = folder(tmp_path, *NAMES) | {"classes": ["lesion"]}
    site = open_site(config(tmp_path, data=data, origin=None))
    assert listed(site) == [*NAMES] and site.classes == ("lesion",)
    assert site.parts["test"][0].load().mask.any()


def test_a_folder_with_several_sites(tmp_path):
    data = folder(tmp_path, *NAMES)
    rows = [f"{name},site_{'ab'[number % 2]}" for number, name in enumerate(NAMES)]
    (tmp_path / "data" / "sites.csv").write_text("\n".join(["image_id,site", *rows]) + "\n")
    assert listed(open_site(config(tmp_path, data=data))) == ["p1", "p3", "p5", "p7"]


def test_data_without_a_root_says_what_to_set(tmp_path):
    """The one key that a kit cannot know."""
    with pytest.raises(ConfigError) as caught:
        open_site(config(tmp_path, data={"kind": "folder"}))
    assert f"data.root is empty in {tmp_path / 'site.yaml'}: say where" in str(caught.value)
    assert not (tmp_path / "state").exists()


def test_no_pixel_is_read(tmp_path, monkeypatch):
    """A hospital has many images: `check_cases` reads them, once."""

    def paint(*_: object) -> Sample:
        raise AssertionError("read")

    monkeypatch.setattr("medsa_model.data.synthetic.paint_case", paint)
    site = open_site(config(tmp_path))
    with pytest.raises(AssertionError, match="read"):
        check_cases(site)


@pytest.mark.parametrize("seed", [0, 7])
def test_the_parts_are_those_of_the_simulation(tmp_path, seed):
    """So that a study that was simulated can be repeated by the hospitals themselves."""
    options = {"test": 0.3, "val": 0.2}
    cases = Synthetic.model_validate(SYNTHETIC).open()
    dealt = split(cases, BySite(), SplitOptions.model_validate(options), seed).sites
    for name in ("site_a", "site_b"):
        place = tmp_path / name
        place.mkdir()
        site = open_site(config(place, site=name, origin=name, split={**options, "seed": seed}))
        assert ids(site) == {part: [*names] for part, names in dealt[name].items()}


def test_another_seed_gives_other_parts(tmp_path):
    found = []
    for seed in (0, 1):
        place = tmp_path / str(seed)
        place.mkdir()
        found.append(ids(open_site(config(place, split={"seed": seed}))))
    assert found[0] != found[1]


def test_the_split_is_kept_whatever_changes_in_the_yaml(tmp_path):
    """A case that was tested once must not be trained on."""
    first = ids(open_site(config(tmp_path)))
    before = (tmp_path / "state" / "split.json").read_bytes()
    for options in ({"seed": 5}, {"test": 0.5}, {"labelled": 2}):
        assert ids(open_site(config(tmp_path, split=options))) == first
    assert (tmp_path / "state" / "split.json").read_bytes() == before


def test_the_split_lies_where_only_the_site_can_read(tmp_path):
    """It lists all cases."""
    open_site(config(tmp_path))
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    content = json.loads((tmp_path / "state" / "split.json").read_text())
    assert content["kind"] == "site" and set(content["sites"]) == {"site_b"}


def test_new_cases_are_not_used_and_said_to_be_so(tmp_path, heard):
    before = ids(open_site(config(tmp_path)))
    assert heard.text == ""
    after = ids(open_site(config(tmp_path, data=SYNTHETIC | {"cases_per_site": 20})))
    assert after == before
    (record,) = heard.records
    said = record.getMessage()
    assert "8 case(s) are not in" in said and "are not used" in said
    assert "site_b_00012" in said and "site_b_00016" in said and "site_b_00017" not in said
    assert str(tmp_path / "state" / "split.json") in said


def test_cases_that_were_left_out_by_choice_are_not_warned_about(tmp_path, heard):
    labelled = config(tmp_path, split={"labelled": 2})
    assert len(open_site(labelled).parts["train"]) == 2
    assert len(open_site(labelled).parts["train"]) == 2
    assert heard.text == ""


def test_missing_cases_are_refused_by_name(tmp_path):
    """Silently training on fewer would make another study of it."""
    data = folder(tmp_path, *NAMES)
    settings = config(tmp_path, data=data, origin=None)
    open_site(settings)
    for name in ("p3", "p5"):
        for kind in ("images", "masks"):
            (tmp_path / "data" / kind / f"{name}.png").unlink()
    with pytest.raises(DataError) as caught:
        open_site(settings)
    said = str(caught.value)
    assert "site site_b: 2 case(s) of split.json are no longer in the data: p3, p5." in said
    assert "Put them back" in said and "test cases then become training cases" in said
    assert str(tmp_path / "data") not in said  # of a case its id, never a path


def test_of_many_missing_cases_the_first_are_named(tmp_path):
    open_site(config(tmp_path))
    with pytest.raises(DataError, match=r"9 case\(s\).*site_b_00003, .*site_b_00007\. Put"):
        open_site(config(tmp_path, data=SYNTHETIC | {"cases_per_site": 3}))


def test_a_state_folder_of_another_site_is_refused(tmp_path):
    open_site(config(tmp_path))
    with pytest.raises(ConfigError, match="belongs to another site: choose another state folder"):
        open_site(config(tmp_path, site="site_x"))
    assert listed(open_site(config(tmp_path, site="site_x", state="other")))


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda text: text[:100], "is no split"),
        (lambda text: "", "is no split"),
        (lambda text: text.replace("site_b_00003", "site_b_00999"), "was altered"),
    ],
)
def test_a_split_that_was_damaged_is_never_dealt_anew(tmp_path, spoil, found):
    open_site(config(tmp_path))
    path = tmp_path / "state" / "split.json"
    path.write_text(spoil(path.read_text()))
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=found):
        open_site(config(tmp_path))
    assert path.read_bytes() == before


def test_too_few_patients_leave_no_split_behind(tmp_path):
    """Else the site would keep it when images were added."""
    few = SYNTHETIC | {"cases_per_site": 2}
    with pytest.raises(DataError, match="site_b: 2 cases of 2 patients give 1 training and 1 test"):
        open_site(config(tmp_path, data=few))
    assert not (tmp_path / "state" / "split.json").exists()
    assert listed(open_site(config(tmp_path)))


def test_a_device_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ConfigError, match="device 'abacus' cannot be used"):
        open_site(config(tmp_path, device="abacus"))


def case(name: str, structure: bool = True, error: Exception | None = None) -> Case:
    def load() -> Sample:
        if error:
            raise error
        mask = torch.zeros(2, 4, 4, dtype=torch.bool)
        mask[1, 0, 0] = structure
        return Sample(torch.zeros(3, 4, 4), mask, name, name)

    return Case(name, name, None, None, load)


def opened(**parts: list[Case]) -> Site:
    return Site("site_b", {"train": [], "val": [], "test": [], **parts}, torch.device("cpu"))


def test_cases_without_a_structure_are_counted():
    bare = [case("1", structure=False), case("2")]
    assert check_cases(opened(train=bare, val=[case("3")], test=[case("4", False)])) == 2
    assert check_cases(opened(train=[case("1")])) == 0


def test_training_cases_that_are_all_empty_are_an_error():
    """An export of masks that went wrong; of other parts that is possible."""
    with pytest.raises(DataError, match="none of its 2 training cases has a structure"):
        check_cases(opened(train=[case("1", False), case("2", False)], test=[case("3")]))


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_case_that_cannot_be_read_is_named(part):
    broken = case("2", error=DataError("case 2: no image"))
    parts: dict[str, list[Case]] = {"train": [case("1")]}
    parts[part] = [*parts.get(part, []), broken]
    with pytest.raises(DataError, match="case 2: no image"):
        check_cases(opened(**parts))


def test_all_cases_that_cannot_be_read_are_named():
    broken = [case(f"{n}", error=DataError(f"case {n}: no image")) for n in (2, 3)]
    with pytest.raises(DataError) as caught:
        check_cases(opened(train=[case("1", False), broken[0]], val=[broken[1]], test=[case("4")]))
    assert str(caught.value) == "2 problems in the data:\n  case 2: no image\n  case 3: no image"


def test_implausible_cases_are_warned_about(heard):
    plain = case("1").load()
    odd = Case("1", "1", None, None, lambda: replace(plain, remarks=("no air",)))
    assert check_cases(opened(train=[odd], test=[case("2")])) == 0
    assert [record.getMessage() for record in heard.records] == ["case 1: no air"]


def test_every_case_is_read_once(tmp_path):
    loads: list[str] = []

    def counted(name: str) -> Callable[[], Sample]:
        works = case(name).load
        return lambda: loads.append(name) or works()  # type: ignore[func-returns-value]

    parts = {
        part: [Case(f"{part}{n}", "p", None, None, counted(f"{part}{n}")) for n in range(2)]
        for part in ("train", "val", "test")
    }
    check_cases(opened(**parts))
    assert sorted(loads) == ["test0", "test1", "train0", "train1", "val0", "val1"]


def test_a_mask_on_disk_is_looked_at(tmp_path):
    data = folder(tmp_path, *NAMES, empty=NAMES)
    site = open_site(config(tmp_path, data=data, origin=None))
    with pytest.raises(DataError, match=r"none of its \d training cases has a structure"):
        check_cases(site)
    (tmp_path / "data" / "images" / "p0.png").write_bytes(b"no picture")
    with pytest.raises(DataError) as caught:
        check_cases(open_site(config(tmp_path, data=data, origin=None)))
    assert str(tmp_path) not in str(caught.value)


def test_open_cases_gives_what_the_data_set_has(tmp_path):
    assert len(open_cases(config(tmp_path, origin=None))) == 24


def shown(name: str, seed: int, patient: str = "", shift: float = 0) -> Case:
    """A case whose image is drawn from `seed`, with `shift` added to every pixel."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, 16, 16, generator=generator) * 200 + shift
    mask = torch.ones(1, 16, 16, dtype=torch.bool)
    return Case(name, patient or name, None, None, lambda: Sample(image, mask, name, patient))


def test_one_image_in_two_parts_is_an_error():
    """What was trained on would be tested. All pairs are told, and with them all other faults."""
    train = [shown("a", 1), shown("b", 2), shown("c", 3)]
    broken = case("x", error=DataError("case x: no image"))
    with pytest.raises(DataError) as caught:
        check_cases(opened(train=train, val=[shown("d", 2)], test=[shown("e", 1), broken]))
    first, *lines = str(caught.value).splitlines()
    assert first == "2 problems in the data:" and lines[0] == "  case x: no image"
    assert "site site_b: 2 pair(s) of cases in two of the parts" in lines[1]
    assert "have the same image: b = d, e = a; expected each image in one part" in lines[1]
    assert "Put both under one patient in sites.csv" in lines[1] and "split.json" in lines[1]


def test_one_image_twice_in_a_part_is_counted(heard):
    train = [shown("a", 1), shown("b", 1), shown("c", 2)]
    assert examine(opened(train=train, test=[shown("d", 3)])) == Checked(0, 0, 1, 0)
    (record,) = heard.records
    assert "site site_b: 1 case(s) have the image of another" in record.getMessage()
    assert record.getMessage().endswith("count twice: a = b")


def test_nearly_one_image_in_two_parts_is_counted(heard):
    """2.9 grey levels brighter is near, 3.1 is not."""
    train, test = [shown("a", 1), shown("b", 2)], [shown("c", 1, shift=2.9)]
    far = shown("d", 2, shift=3.1)
    assert examine(opened(train=train, test=[*test, far])) == Checked(0, 0, 0, 1)
    (record,) = heard.records
    assert "1 pair(s) of cases in two parts have nearly the same image" in record.getMessage()
    assert "c = a; if they are, put both under one patient" in record.getMessage()


def test_one_patient_keeps_copies_in_one_part(tmp_path, heard):
    """As the message advises."""
    data = folder(tmp_path, *NAMES)
    for number in range(8):
        pixels = np.random.default_rng(number % 7).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / "images" / f"p{number}.png")
    found: list[str] = []
    for seed in range(20):
        settings = config(tmp_path, data=data, origin=None, split={"seed": seed})
        try:
            found.append(f"{examine(open_site(settings, settled=False)).copies} within")
        except DataError as error:
            found.append("across" if "have the same image" in str(error) else str(error))
    assert set(found) == {"across", "1 within"}
    rows = [f"p{number},n,patient_{number % 7}" for number in range(8)]
    (tmp_path / "data" / "sites.csv").write_text("\n".join(["image_id,site,patient", *rows]))
    for seed in range(20):
        settings = config(tmp_path, data=data, origin=None, split={"seed": seed})
        assert examine(open_site(settings, settled=False)).copies == 1


USELESS = {
    "the masks of all its 5 training cases mark every pixel": (True, [0, 9]),
    "none of its 5 training cases has a structure": (False, [0, 9]),
    "the images of all its 5 training cases have one colour": (None, [7, 7]),
}


@pytest.mark.parametrize(("told", "values"), USELESS.items(), ids=["full", "empty", "blank"])
@pytest.mark.parametrize("all_of_them", [True, False])
def test_cases_that_teach_nothing_are_refused_when_all_are_so(told, values, all_of_them):
    """Some may be so, by what was photographed."""
    marked, greys = values

    def load(number: int) -> Sample:
        useful = number == 0 and not all_of_them
        image = torch.zeros(3, 8, 8) + greys[0] + number
        image[:, 3:] = greys[1] + number if not useful else 50 + number
        mask = torch.zeros(1, 8, 8, dtype=torch.bool)
        mask[:, 2:5, 2:5] = True
        if marked is not None and not useful:
            mask[:] = marked
        return Sample(image, mask, f"c{number}", f"p{number}")

    cases = [Case(f"c{n}", f"p{n}", None, None, lambda n=n: load(n)) for n in range(5)]
    site = Site("site_a", {"train": cases}, torch.device("cpu"))
    if all_of_them:
        with pytest.raises(DataError, match=f"site_a: {told}"):
            check_cases(site)
    else:
        check_cases(site)
