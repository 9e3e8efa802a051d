"""What of a configuration says where on a machine things lie."""

import pytest
import yaml

from medsa_model.report_config import without_places


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("data:\n  root: /home/ada/data/isic\n  kind: isic\n",
         "data:\n  root: …/isic\n  kind: isic\n"),
        ("  root: ../ada/isic/\n", "  root: …/isic\n"),
        ("root: isic\n", "root: isic\n"),
        ("root: null\n", "root: null\n"),
        ("  checkpoint: ~/weights/sam.pth\n", "  checkpoint: …/sam.pth\n"),
        ("  checkpoint: C:\\Users\\ada\\sam.pth\n", "  checkpoint: …/sam.pth\n"),
        ("files:\n- /home/ada/a.csv\n- /home/ada/b.csv\n", "files:\n- …/a.csv\n- …/b.csv\n"),
        ("  ray_address: ray://head:10001\n", "  ray_address: ray://head:10001\n"),
        ("# a/b </pre>\nname: moles/1\n", "# a/b </pre>\nname: moles/1\n"),
    ],
)  # fmt: skip
def test_of_a_path_the_last_part_is_left(text: str, shown: str) -> None:
    assert without_places(text) == shown


@pytest.mark.parametrize("part", ["plain", "with a space", "münchen", "it's", "a: b", "#1"])
@pytest.mark.parametrize("depth", [1, 8])
def test_any_path_as_it_is_written_is_shortened(part: str, depth: int) -> None:
    root = "/home/" + f"{part} of nobody at all/" * depth + "isic"
    settings = {"data": {"root": root, "sites": 4}, "seed": 1}
    shown = without_places(yaml.safe_dump(settings, sort_keys=False))
    assert shown.splitlines() == ["data:", "  root: …/isic", "  sites: 4", "seed: 1"]
