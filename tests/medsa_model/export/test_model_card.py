"""The card says what the files of the run say, the worst site first, and what is not known."""

import json
import re
import shlex

import pytest
import yaml
from markdown_it import MarkdownIt

from medsa_model.adapters import Lora
from medsa_model.backbone import Model
from medsa_model.checkpoint import CONFIG
from medsa_model.export.example_commands import commands_of
from medsa_model.export.markdown_text import escaped
from medsa_model.export.model_card import model_card
from medsa_model.export.run_scores import find_origin, scores_of
from medsa_model.export.site_names import named_hospitals, without_names
from medsa_model.logs import append_metrics
from medsa_model.predict.cli import prediction_parser
from medsa_model.predict.inputs import find_inputs
from medsa_model.predict.run import requests_of
from medsa_model.task import Task
from medsa_model.trained import read_trained
from tests.medsa_model.small_adapter import save, score, small, write_facts

MARKDOWN = MarkdownIt("commonmark").enable("table")
PRIVATE = {
    "epsilon": 1.23456, "delta": 1e-5, "accountant": "prv", "epsilon_rdp": 1.5, "unit": "patient",
    "noise_multiplier": 1.1, "sampling_rate": 0.25, "clip_norm": 0.5, "steps": 10,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    return small()


def card_of(run, trained):
    """The card of the final adapter of `run`."""
    save(run, trained)
    found = read_trained(run)
    return model_card(found, find_origin(found.folder))


def cells(card, *first):
    """The cells of the lines of tables that begin with these."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.splitlines()
            if line.startswith("|")]  # fmt: skip
    return [row for row in rows if tuple(row[: len(first)]) == first]


def test_mean_and_worst_site_come_first_and_are_counted_over_cases(trained, tmp_path):
    write_facts(tmp_path, ("vienna", "lyon", "oslo"))
    score(tmp_path, "vienna", 0.9, 30)
    score(tmp_path, "lyon", 0.5, 10)
    card = card_of(tmp_path, trained)
    assert (
        "- Prompt click: mean Dice **0.800**, worst site **0.500** (lyon), 40 test cases of 2 s"
    ) in card
    rows = cells(card, "click")
    assert [row[1:] for row in rows] == [
        ["mean", "40", "0.800", "0.400"], ["worst site", "", "0.500", "0.250"],
        ["lyon", "10", "0.500", "0.250"], ["vienna", "30", "0.900", "0.450"],
    ]  # fmt: skip
    assert "No test scores came from oslo." in card
    assert "The sites told these numbers" in card and "One machine" not in card


def test_volumes_have_distances_of_which_the_largest_is_the_worst(tmp_path):
    task = Task(structures=("liver", "spleen"), prompts=("box",), volumes=True, window=(-175, 250))
    write_facts(tmp_path)
    for site, distance in (("vienna", 4.0), ("lyon", 12.0)):
        organs = {"liver": {"dice": 0.9, "iou": 0.8, "cases": 3, "hd95": distance, "nsd": 0.5}}
        score(tmp_path, site, 0.9, 3, hd95=distance, nsd=0.5, structures=organs)
    card = card_of(tmp_path, small(task=task))
    assert cells(card, "click", "worst site")[0][-2:] == ["12.0", "0.500"]
    assert cells(card, "click", "liver") == [
        ["click", "liver", "6", "0.900", "0.800", "8.0", "0.500"]
    ]
    assert "| CT window | -175 to 250 HU |" in card and "-i ct.nii.gz" not in card
    assert "--input ct.nii.gz --box 90,60,180,150,40 --structure liver --out masks" in card


def test_scores_of_another_round_are_not_those_of_the_adapter(trained, tmp_path):
    write_facts(tmp_path)
    score(tmp_path, "vienna", 0.9, 3)
    score(tmp_path, "vienna", 0.4, 3, round=1, part="val")
    place = save(tmp_path, trained, 1)
    card = model_card(trained, find_origin(place))
    assert "no test scores of round 1; those of round 2 are of another adapter" in card
    assert "mean Dice **0.400**" in card and "0.900" not in card


def test_scores_that_were_repeated_count_once(trained, tmp_path):
    write_facts(tmp_path)
    for dice in (0.1, 0.7):
        score(tmp_path, "vienna", dice, 3)
    (found,) = scores_of(find_origin(save(tmp_path, trained)), "test")
    assert found.mean("dice") == pytest.approx(0.7) and found.cases == 3


def test_of_two_files_alone_the_card_says_that_nothing_else_is_known(trained, tmp_path):
    place = save(tmp_path / "run", trained)
    alone = place.rename(tmp_path / "handed_on")
    found = read_trained(alone)
    card = model_card(found, find_origin(found.folder))
    for heading in ("Scores", "Training", "Privacy of the patients"):
        assert f"## {heading}\n\nNot known" in card
    assert trained.manifest.base_sha256 in card and "differential privacy was used" not in card


def test_without_differential_privacy_it_is_said_and_what_that_means(trained, tmp_path):
    write_facts(tmp_path)
    card = card_of(tmp_path, trained)
    assert "**No differential privacy was used.** There is no bound" in card


def test_a_run_without_a_configuration_does_not_say_that_it_was_not_private(trained, tmp_path):
    write_facts(tmp_path)
    (tmp_path / "config.yaml").unlink()
    card = card_of(tmp_path, trained)
    assert "## Privacy of the patients\n\nNot known" in card


def test_privacy_is_that_of_each_site_after_its_last_round(trained, tmp_path):
    write_facts(tmp_path, privacy="{epsilon: 2}")
    for epsilon in (0.7, 1.23456):
        append_metrics(tmp_path, "privacy", round=1, site="lyon", **PRIVATE | {"epsilon": epsilon})
    append_metrics(tmp_path, "site_privacy", round=2, epsilon=3.0, delta=1e-4, accountant="rdp")
    card = card_of(tmp_path, trained)
    assert cells(card, "lyon") == [
        ["lyon", "1.235", "1.500", "1e-05", "1.100", "0.25", "0.5", "20", "prv"]
    ]
    assert "with the patient as its unit" in card and "recorded for vienna" in card
    assert "hides whole sites: epsilon 3.000 at delta 0.0001" in card


def test_privacy_that_was_asked_for_and_never_happened_is_no_privacy(trained, tmp_path):
    write_facts(tmp_path, privacy="{epsilon: 2}")
    assert "but no round recorded any" in card_of(tmp_path, trained)


def test_damaged_privacy_events_are_not_taken_for_none(trained, tmp_path):
    write_facts(tmp_path)
    append_metrics(tmp_path, "privacy", round=1, site="lyon", steps=3)
    assert "## Privacy of the patients\n\nNot known" in card_of(tmp_path, trained)


def test_what_the_run_cost_and_refused_is_counted(trained, tmp_path):
    write_facts(tmp_path, split={"sha256": "5f" * 32})
    append_metrics(tmp_path, "traffic", round=2, site="lyon", part="val", up_bytes=5, down_bytes=7)
    append_metrics(tmp_path, "rejected", round=2, site="lyon", reason="norm 9, at most 3")
    card = card_of(tmp_path, trained)
    assert cells(card, "Bytes, all messages from the sites")[0][1].endswith("(4,005 bytes)")
    assert cells(card, "Answers refused") == [["Answers refused", "1"]]
    assert any(row[-1] == "norm 9, at most 3" for row in cells(card, "2", "lyon"))
    assert "5f" * 32 in card and "torch 9.8.7" in card
    assert cells(card, "Sites")[0][1] == "2: lyon, vienna"
    assert cells(card, "Round")[0][1] == "2 of 2"


def test_names_of_sites_are_text_and_nothing_else(trained, tmp_path):
    name = "a|b](http://x.org) <img src=x> **c** `d`\n# e www.f.org"
    write_facts(tmp_path, (name,))
    score(tmp_path, name, 0.5, 3)
    append_metrics(tmp_path, "rejected", round=2, site=name, reason=name)
    card = card_of(tmp_path, trained)
    shown = r"a\|b\](http\://x.org) \<img src=x\> \*\*c\*\* \`d\` \# e www\.f.org"
    assert card.count(shown) == card.count("img src") == 5
    assert escaped(name) == shown
    tokens = [t for each in MARKDOWN.parse(card) for t in (each, *(each.children or ()))]
    shown_to_readers = [each.content for each in tokens if each.type == "text"]
    assert shown_to_readers.count(" ".join(name.split())) >= 2  # cells of tables
    assert {each.type for each in tokens} & {"image", "link_open", "html_inline", "html_block"} <= {
        "link_open"
    }
    links = [each.attrs["href"] for each in tokens if each.type == "link_open"]
    assert all(link.startswith("https://github.com/facebookresearch/") for link in links)


@pytest.mark.parametrize("volumes", [False, True])
@pytest.mark.parametrize(
    ("structures", "prompts"),
    [(("lesion",), ("click", "box", "none")), (("optic disc", "-cup's"), ("clicks", "box", "none")),
     (("-a b", "c"), ("click",)), (("liver", "spleen"), ("class", "none", "box"))],
)  # fmt: skip
def test_every_printed_command_asks_for_something_that_the_adapter_knows(
    structures, prompts, volumes, tmp_path
):
    named = len(structures) if "class" in prompts else 0
    task = Task(structures=structures, prompts=prompts, named=named, volumes=volumes)
    commands = commands_of(task, Model(backbone="vit_b"))
    kinds = {{"clicks": "click", "class": "by name"}.get(kind, kind) for kind in prompts}
    assert len(commands) == len(kinds) - (named and "none" in prompts)
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "medsa-predict"
        options = prediction_parser().parse_args(words)
        options.marks = options.marks or []
        assert str(options.checkpoint) == "sam_vit_b_01ec64.pth"
        source = tmp_path / options.input
        source.touch()
        requests = requests_of(options, task, find_inputs(source, volumes))
        asked = [structures[number] for each in requests.values() for number in each.structures]
        assert asked == list(structures if named and not options.marks else structures[:1])


def test_sites_that_are_not_named_have_the_same_number_everywhere(trained, tmp_path):
    write_facts(tmp_path, ("St. Anna", "Anna", "oslo"))
    for site, dice in (("St. Anna", 0.9), ("Anna", 0.5)):
        score(tmp_path, site, dice, 10)
    append_metrics(tmp_path, "rejected", round=2, site="Anna", reason="St. Anna, Anna: norm 9")
    append_metrics(tmp_path, "privacy", round=1, site="oslo", **PRIVATE)
    save(tmp_path, trained)
    found = read_trained(tmp_path)
    card = model_card(found, find_origin(found.folder), names=False)
    assert "Anna" not in card and "oslo" not in card
    number = {row[-1]: row[1] for row in cells(card, "click") if row[1].startswith("site ")}
    best, worst = number["0.450"], number["0.250"]
    assert f"worst site **0.500** ({worst})" in card
    assert any(row[-1] == f"{best}, {worst}: norm 9" for row in cells(card, "2", worst))
    (silent,) = {"site 1", "site 2", "site 3"} - {best, worst}
    assert f"No test scores came from {silent}." in card and len(cells(card, silent)) == 1


def test_the_numbers_of_sites_do_not_follow_from_their_names(trained, tmp_path):
    write_facts(tmp_path, [f"site_{letter}" for letter in "abcdefghij"])
    origin = find_origin(save(tmp_path, trained))
    drawn = [tuple(e["site"] for e in without_names(origin).run.of("train")) for _ in range(3)]
    assert len(set(drawn)) > 1 and {len(set(each)) for each in drawn} == {10}
    assert {name for each in drawn for name in each} >= {"site 01", "site 10"}


def test_painted_sites_need_not_be_asked(trained, tmp_path):
    write_facts(tmp_path, summary={"data": {"kind": "synthetic", "generated": True}})
    assert named_hospitals(find_origin(save(tmp_path, trained))) == 0
    write_facts(tmp_path, summary={"data": {"kind": "folder"}})
    assert named_hospitals(find_origin(tmp_path / "rounds" / "0002")) == 2


def test_the_row_of_a_comparison_is_not_taken_for_its_federation(trained, tmp_path):
    write_facts(tmp_path, report={"simulated": True})
    score(tmp_path, "vienna", 0.9, 3)
    row = tmp_path / "rows" / "local" / "lyon"
    place = save(row, trained)
    append_metrics(row, "train", round=2, site="lyon")
    score(row, "vienna", 0.3, 3)
    card = model_card(trained, find_origin(place))
    assert "not federated, but row local/lyon of it" in card and "simulation on one mach" in card
    assert "**0.300**" in card and "0.900" not in card
    card = model_card(trained, find_origin(place), names=False)
    assert re.search(r"not federated, but row local/site [12] of it", card)
    assert "lyon" not in card and "vienna" not in card and "**0.300**" in card


def test_the_head_is_yaml_for_hugging_face_and_leaves_the_licence_open(tmp_path):
    task = Task(structures=("liver",), named=1, prompts=("class",))
    card = model_card(small(Lora(rank=2), task=task), None)
    head = yaml.safe_load(card.split("---\n")[1])
    assert "license" not in head and head["library_name"] == "fed-medsa"
    assert {"lora", "peft", "segment-anything"} < set(head["tags"])
    assert "torch.nn.Embedding(1, sam.prompt_encoder.embed_dim)" in card
    assert "medsa-predict --adapter FOLDER --input image.png --out masks" in card


def test_the_official_backbone_is_named_with_its_file(trained, tmp_path):
    place = save(tmp_path, trained)
    content = json.loads((place / CONFIG).read_text())
    content["model"]["backbone"] = "vit_b"
    (place / CONFIG).write_text(json.dumps(content))
    (place / "SHA256SUMS").unlink()
    card = model_card(read_trained(tmp_path), None)
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "facebook/sam-vit-base"
    assert "`sam_vit_b_01ec64.pth` from [Segment Anything](https://github.com/" in card
    assert "--adapter FOLDER --checkpoint sam_vit_b_01ec64.pth --input" in card
    assert not re.search(r"\n{4}", card)
