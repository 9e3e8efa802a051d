"""The report: one file that loads nothing, says what the numbers say, and trusts no name."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from medsa_model.errors import CheckpointError
from medsa_model.evaluate import TOLERANCE_MM
from medsa_model.figures import draw_progress
from medsa_model.report import write_report

SITES = ("vienna", "lyon")
PICTURE = draw_progress({}, {}, {}, "png")
HOSTILE = "<script>alert('x')</script>"
DIGEST = "9f" * 32


class Page(HTMLParser):
    """The elements and the visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.cells: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] not in ("style", "script"):
            self.words.append(data)
            if self.elements[-1][0] in ("td", "th"):
                self.cells.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def row(*dice: float, sites: Sequence[str] = SITES) -> dict[str, Any]:
    mean, per_site = sum(dice) / len(dice), dict(zip(sites, dice, strict=True))
    gap = max(dice) - min(dice)
    scores = {"mean": mean, "worst_site": min(dice), "gap": gap, "per_site": per_site}
    return {"dice": scores, "iou": scores, "cases": 24, "seconds": 75.0}


def four_rows(sites: Sequence[str] = SITES) -> dict[str, Any]:
    return {
        "zero_shot": row(0.7011, 0.6022, sites=sites),
        "local": row(0.8613, 0.8014, sites=sites),
        "federated": row(0.8915, 0.8526, sites=sites),
        "centralized": row(0.9017, 0.8628, sites=sites),
    }


def summary(rows: dict[str, Any], sites: Sequence[str] = SITES) -> dict[str, Any]:
    return {
        "name": "moles",
        "seed": 7,
        "rounds": 2,
        "model": {
            "backbone": "vit_tiny",
            "base_sha256": "ab" * 32,
            "total_parameters": 2_800_000,
            "trainable_parameters": 158_753,
            "trainable_percent": 5.67,
        },
        "rows": rows,
        "cross_site": {model: dict.fromkeys(sites, 0.7531) for model in (*sites, "federated")},
        "communication": {
            "up_bytes_per_site_round": 635_012,
            "down_bytes_per_site_round": 635_099,
            "full_model_bytes": 11_200_000,
        },
        "privacy": None,
    }


def write_events(folder: Path, sites: Sequence[str] = SITES) -> None:
    events: list[dict[str, Any]] = []
    for turn in (1, 2):
        for site in sites:
            seen = {"round": turn, "site": site}
            events.append({"event": "train", **seen, "loss": 0.5 / turn, "up_bytes": 1500})
            score = {"part": "val", "prompt": "click", "dice": 0.4 * turn, "cases": 5}
            events.append({"event": "evaluate", **seen, **score})
        events.append({"event": "round", "round": turn, "seconds": 2.0})
    events.append({"event": "rejected", "round": 2, "site": sites[0], "reason": "norm <b>9</b>"})
    events.append({"event": "something new", "payload": [1, 2]})
    text = "\n".join(json.dumps(event) for event in events)
    (folder / "metrics.jsonl").write_text(text + '\n{"event": "train", "rou')


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def make_run(folder: Path, sites: Sequence[str] = SITES) -> Path:
    """A finished simulation with every file."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("name: moles\nrounds: 2\n# </pre><script>evil()</script>\n")
    write_json(folder / "versions.json", {"torch": "2.14.1"})
    parts = {"train": ["case-1", "case-2", "case-3"], "val": ["case-4"], "test": ["case-5"]}
    split = {"kind": "site", "seed": 7, "sha256": DIGEST, "sites": dict.fromkeys(sites, parts)}
    write_json(folder / "split.json", split)
    write_events(folder, sites)
    rows = four_rows(sites)
    write_json(folder / "summary.json", summary(rows, sites))
    extra = {
        "prompts": {"click": {"rows": rows}, "box": {"rows": rows}},
        "references": {"ellipse_in_box": {"box": row(0.8819, 0.8818, sites=sites)}},
        "communication": {"total_up_bytes": 2_540_048},
        "trained": {"federated": {"trainable_parameters": 158_753, "trainable_percent": 5.67}},
        "seconds": {"federated": 75.0},
        "simulated": True,
    }
    write_json(folder / "report.json", extra)
    example = {"file": "one.png", "site": sites[0], "case": "case-5", "prompt": "click"}
    write_json(folder / "examples" / "examples.json", [example | {"dice": {"federated": 0.91234}}])
    (folder / "examples" / "one.png").write_bytes(PICTURE)
    return folder


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text("utf-8"))


def change(path: Path, **values: object) -> None:
    write_json(path, json.loads(path.read_text()) | values)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its report; not to be changed."""
    run = make_run(tmp_path_factory.mktemp("finished"))
    write_report(run)
    return run


@pytest.fixture
def page(finished: Path) -> Page:
    return Page((finished / "report.html").read_text("utf-8"))


@pytest.fixture
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of a report's second is drawing, which other tests look at."""
    monkeypatch.setattr("medsa_model.report.draw_progress", lambda *_: PICTURE)
    monkeypatch.setattr("medsa_model.report.draw_sites", lambda *_: PICTURE)
    monkeypatch.setattr("medsa_model.report.draw_timeline", lambda *_: PICTURE)


quick = pytest.mark.usefixtures("quick_figures")


def test_numbers_are_those_of_the_summary(page: Page) -> None:
    for each in four_rows().values():
        scores = each["dice"]
        for value in (scores["mean"], scores["worst_site"], scores["gap"]):
            assert f"{value:.3f}" in page.cells
        assert all(f"{value:.3f}" in page.cells for value in scores["per_site"].values())
    assert "0.753" in page.cells  # the cross-site matrix
    assert "635 kB (635,012 bytes)" in page.text
    assert "1/18 (5.67 %)" in page.text
    assert "158,753 of 2,800,000 (5.67 %)" in page.text
    assert DIGEST in page.text
    assert "ellipse in box" in page.cells and "ellipse that fills the prompt's box" in page.text


def test_page_loads_nothing(finished: Path, page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert "href" not in attributes
        for place in ("src", "srcset"):
            assert (attributes.get(place) or "data:").startswith("data:")
    html = (finished / "report.html").read_text("utf-8")
    assert not re.search(r"https?://|url\(|@import", html)
    assert page.count("img") == 4  # sites, curves, time line, one example


def test_only_the_page_s_own_script_may_run(finished: Path, page: Page) -> None:
    html = (finished / "report.html").read_text("utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(
        attributes["content"] or ""
        for tag, attributes in page.elements
        if tag == "meta" and "http-equiv" in attributes
    )
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


@quick
def test_hostile_names_stay_text(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, (HOSTILE, '" onload="evil()')))
    assert page.count("script") == 1
    assert page.count("b") == 0  # the reason of a rejected update has one
    assert not any("onload" in attributes for _, attributes in page.elements)
    assert HOSTILE in page.text
    assert "</pre><script>evil()</script>" in page.text


@quick
def test_a_name_that_is_not_unicode_does_not_stop_the_page(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, ("bad\ud800name", "東京")))
    assert "東京" in page.text


@quick
def test_curves_alone_make_a_page_that_says_it_is_not_finished(tmp_path: Path) -> None:
    write_events(tmp_path)
    page = page_of(tmp_path)
    assert "not finished. Rounds recorded: 2." in page.text
    assert "After round 2: mean validation Dice 0.800 (prompt: click)." in page.text
    assert "No differential privacy was used" not in page.text  # nobody knows yet
    assert "6 kB (6,000 bytes)" in page.text  # counted from the events
    assert page.count("img") == 2  # curves, time line


@quick
def test_date_is_that_of_the_last_event(tmp_path: Path) -> None:
    events = [{"event": "round", "round": turn, "time": f"2031-0{turn}-15"} for turn in (1, 2)]
    lines = [json.dumps(event) for event in [*events, {"event": "round", "time": "not a time"}]]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert "2031-02-15" in page_of(tmp_path).text


@quick
def test_captions_of_examples_keep_the_order_of_the_strip(tmp_path: Path) -> None:
    make_run(tmp_path)
    dice = {"zero-shot": 0.5, "federated": 0.91234}
    write_json(tmp_path / "examples" / "examples.json", [{"file": "one.png", "dice": dice}])
    assert "Dice: Zero-shot 0.500, Federated 0.912" in page_of(tmp_path).text


@quick
def test_examples_say_what_they_show_and_who_may_see_it(tmp_path: Path) -> None:
    warning = "This page shows images and case names of the data set"
    page = page_of(make_run(tmp_path))
    assert warning in page.text and "The first test cases of each site by name" in page.text
    change(tmp_path / "summary.json", data={"kind": "synthetic", "generated": True})
    painted = page_of(tmp_path)
    assert warning not in painted.text and "no patient is in them" in painted.text
    (tmp_path / "examples" / "examples.json").unlink()
    without = page_of(tmp_path)
    assert "Examples" not in without.words and "this page shows some" not in without.text


@quick
def test_models_for_all_sites_alone_are_in_one_table(tmp_path: Path, page: Page) -> None:
    assert "Each model at every site" in page.text and "Outlined" in page.text
    make_run(tmp_path)
    common = {"federated": dict.fromkeys(SITES, 0.7531), "centralized": dict.fromkeys(SITES, 0.7)}
    change(tmp_path / "summary.json", cross_site=common)
    assert "Each model at every site" not in page_of(tmp_path).text
    change(tmp_path / "summary.json", cross_site={"vienna": {"lyon": 0.5}})
    assert "Outlined" not in page_of(tmp_path).text


@quick
def test_places_of_this_machine_are_not_on_the_page(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "config.yaml").write_text("name: moles\ndata:\n  root: /home/somebody/moles\n")
    page = page_of(tmp_path)
    assert "root: …/moles" in page.text and "somebody" not in page.text


def test_an_empty_directory_makes_a_page(tmp_path: Path) -> None:
    assert "not finished" in page_of(tmp_path).text
    assert imread(tmp_path / "progress.png").ndim == 3


@quick
@pytest.mark.parametrize(
    "name",
    [
        "config.yaml",
        "versions.json",
        "split.json",
        "metrics.jsonl",
        "summary.json",
        "report.json",
        "examples/examples.json",
        "examples/one.png",
    ],
)
def test_any_file_may_be_missing_or_damaged(tmp_path: Path, name: str) -> None:
    path = make_run(tmp_path) / name
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    damaged = page_of(tmp_path)
    assert (f"{path.name} is damaged" in damaged.text) == (path.suffix == ".json")
    path.unlink()
    assert "moles" in page_of(tmp_path).text or name == "config.yaml"


def test_progress_is_a_readable_png(finished: Path) -> None:
    picture = imread(finished / "progress.png")
    assert picture.shape[1] > 1000
    assert picture[..., :3].min() < 0.2  # something is drawn


@quick
def test_no_privacy_is_said_plainly(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert "No differential privacy was used." in page_of(tmp_path).text
    spent = {"epsilon": 3.14159, "delta": 1e-4, "accountant": "rdp"}
    privacy = {"unit": "patient", "per_site": {"vienna": spent}}
    change(tmp_path / "summary.json", privacy=privacy)
    page = page_of(tmp_path)
    assert "No differential privacy was used." not in page.text
    assert {"3.142", "0.0001", "rdp"} <= set(page.cells)
    assert "all data of one patient" in page.text


@quick
def test_noise_for_sites_and_what_is_told_are_on_the_page(tmp_path: Path) -> None:
    make_run(tmp_path)
    site_level = {"unit": "site", "epsilon": 7.25, "delta": 0.01, "accountant": "rdp"}
    privacy = {"per_site": {}, "site_level": site_level, "told": {"training loss": "not told"}}
    change(tmp_path / "summary.json", privacy=privacy)
    page = page_of(tmp_path)
    assert "noise for whole sites: epsilon 7.250 at delta 0.01" in page.text
    assert "training loss" in page.text and "not told" in page.text
    assert "No differential privacy was used." not in page.text


@quick
@pytest.mark.parametrize("simulated", [False, None])
def test_cases_and_images_of_real_patients_are_never_shown(
    tmp_path: Path, simulated: bool | None
) -> None:
    make_run(tmp_path)
    change(tmp_path / "report.json", simulated=simulated)
    page = page_of(tmp_path)
    assert page.count("img") == 3
    assert "case-" not in (tmp_path / "report.html").read_text("utf-8")


@quick
def test_an_example_outside_the_run_is_not_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "outside.png").write_bytes((run / "examples" / "one.png").read_bytes())
    write_json(run / "examples" / "examples.json", [{"file": "../../outside.png"}])
    assert page_of(run).count("img") == 3


@quick
def test_a_run_at_real_sites_has_no_local_row(tmp_path: Path) -> None:
    rows = {name: each for name, each in four_rows().items() if name in ("zero_shot", "federated")}
    write_json(tmp_path / "summary.json", summary(rows) | {"cross_site": {}})
    page = page_of(tmp_path)
    assert "No site's own model was evaluated" in page.text
    assert "Centralized" not in page.text
    assert "Every site" in page.text


def test_tables_can_be_sorted_by_keyboard_and_by_number(page: Page) -> None:
    assert page.count("button") == sum(
        tag == "th" and attributes.get("scope") == "col" for tag, attributes in page.elements
    )
    sorts = [
        attributes["data-sort"] for _, attributes in page.elements if "data-sort" in attributes
    ]
    assert "0.8526" in sorts  # the full number, not the rounded one


def test_every_picture_has_an_alternative_text(page: Page) -> None:
    assert all(attributes.get("alt") for tag, attributes in page.elements if tag == "img")


@quick
def test_classes_of_volumes_have_their_table(tmp_path: Path) -> None:
    rows = four_rows()
    rows["federated"]["per_class"] = {"liver": 0.9432, "gallbladder": float("nan")}
    write_json(tmp_path / "summary.json", summary(rows))
    page = page_of(tmp_path)
    assert "liver" in page.cells
    assert "0.943" in page.cells
    assert "nan" not in page.cells


def volume(row: dict[str, Any], hd95: float) -> dict[str, Any]:
    """The row as one of volumes with two structures."""
    each = {"dice": row["dice"]["mean"], "iou": 0.4, "hd95": hd95, "nsd": 0.3125, "cases": 9}
    surface = {"hd95": {"mean": hd95}, "nsd": {"mean": 0.3125}}
    return row | surface | {"structures": {"liver": each, "aorta": each}}


@quick
def test_volumes_show_surface_distances_and_structures_for_every_prompt(tmp_path: Path) -> None:
    make_run(tmp_path)
    prompts = {
        prompt: {name: volume(each, hd95) for name, each in four_rows().items()}
        for prompt, hd95 in (("click", 41.75), ("box", 588.85))
    }
    change(tmp_path / "summary.json", rows=prompts["click"])
    change(
        tmp_path / "report.json", prompts={name: {"rows": rows} for name, rows in prompts.items()}
    )
    page = page_of(tmp_path)
    assert page.cells.count("liver") == page.cells.count("aorta") == 2
    # in the comparison every row, in the table of structures the federated one
    assert page.cells.count("41.8") == page.cells.count("588.9") == 4 + 2
    assert page.cells.count("0.312") == 2 * (4 + 2)
    assert "Structures, prompt: click" in page.text and "Structures, prompt: box" in page.text
    assert f"within {TOLERANCE_MM:g} mm" in page.text
    assert page.text.count("HD95 counts as the diagonal of the whole volume") == 1


def test_images_have_no_word_of_surface_distances(page: Page) -> None:
    assert "HD95" not in page.text and "Structures, prompt" not in page.text


@quick
@pytest.mark.parametrize(
    ("data", "config", "words"),
    [
        ({"kind": "phantom", "generated": True, "structures": ["liver"], "volumes": True}, "",
         "Data phantom (painted, no patients)"),
        ({"kind": "btcv", "generated": False, "structures": ["liver"] * 13, "volumes": True}, "",
         "Data btcv: CT volumes, 13 structures"),
        ({"kind": "isic", "generated": False, "structures": ["lesion"], "volumes": False}, "",
         "Data isic: images, 1 structure"),
        (None, "data:\n  root: /x\n  kind: synthetic\n", "Data synthetic (painted, no patients)"),
        (None, "data:\n  classes:\n  - liver\n  kind: btcv\n", "Data btcv: CT volumes"),
    ],
)  # fmt: skip
def test_the_head_says_what_the_data_are(
    tmp_path: Path, data: object, config: str, words: str
) -> None:
    make_run(tmp_path)
    change(tmp_path / "summary.json", data=data)
    (tmp_path / "config.yaml").write_text(f"name: moles\n{config}seed: 1\n")
    assert words in page_of(tmp_path).text


@quick
def test_data_of_which_nothing_is_known_are_not_named(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "config.yaml").write_text("name: moles\nstrategy:\n  kind: fedavg\n")
    assert "Data" not in [text for text in page_of(tmp_path).words if text in ("Data", "Kind")]


@quick
@pytest.mark.parametrize(
    ("resumed", "words"),
    [(False, "The whole command: reading, training, evaluation 2 h 5 min"),
     (True, "The last command, which went on with the run 2 h 5 min")],
)  # fmt: skip
def test_time_of_training_and_of_the_command_are_told_apart(
    tmp_path: Path, resumed: bool, words: str
) -> None:
    make_run(tmp_path)
    change(tmp_path / "report.json", command={"seconds": 7500.0, "resumed": resumed})
    page = page_of(tmp_path)
    assert words in page.text and "Training, Federated 1 min 15 s" in page.text


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such run directory"):
        write_report(tmp_path / "nowhere")
