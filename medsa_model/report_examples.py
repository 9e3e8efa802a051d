"""The report's examples: the strip of each case cut into panels, with what each of them shows.

Only a run that says that it is a simulation has any: images of a real run do not leave their sites.
"""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from medsa_model.report_run import Run
from medsa_model.report_values import label, mapping, number, score

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_PIXELS = 2048  # of a panel's side
FIRST = ("Image and prompt", "Truth")


@dataclass(frozen=True)
class Panel:
    """One picture as a `data:` address, its heading, and the Dice as text, "" without one."""

    heading: str
    dice: str
    address: str


@dataclass(frozen=True)
class Example:
    """A case: where it is from, and its panels. `scores` are told of what could not be cut."""

    site: str
    case: str
    prompt: str
    scores: str
    panels: list[Panel]


def examples_of(run: Run) -> list[Example]:
    """The examples of a simulation that are in its directory; none of another run."""
    shown = []
    for entry in run.examples if run.simulated else []:
        # Only the file's name counts: a path could lead out of the run directory.
        path = run.folder / "examples" / Path(str(entry.get("file", ""))).name
        content = path.read_bytes() if path.is_file() else b""
        if not content.startswith(PNG_SIGNATURE):
            continue
        site, case, prompt = (str(entry.get(key, "")) for key in ("site", "case", "prompt"))
        dice = {
            label(row.replace("-", "_")): score(number(value))
            for row, value in mapping(entry.get("dice")).items()
        }
        headings = [(name, "") for name in FIRST] + list(dice.items())
        tiles = _cut(content, len(headings))
        if tiles:
            panels = [
                Panel(*heading, address(tile, "png"))
                for heading, tile in zip(headings, tiles, strict=True)
            ]
            shown.append(Example(site, case, prompt, "", panels))
        else:
            scores = ", ".join(f"{row} {value}" for row, value in dice.items())
            whole = Panel("", "", address(content, "png"))
            shown.append(Example(site, case, prompt, scores, [whole]))
    return shown


def address(content: bytes, kind: str) -> str:
    """A picture as a `data:` address. Inside an image element an SVG cannot run a script."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _cut(strip: bytes, count: int) -> list[bytes]:
    """A strip of `count` square tiles as a PNG of each; [] of any other picture."""
    try:
        with Image.open(io.BytesIO(strip), formats=["PNG"]) as picture:
            side = picture.height
            if picture.width != count * side or side > MOST_PIXELS:
                return []
            tiles = []
            for place in range(count):
                buffer = io.BytesIO()
                picture.crop((place * side, 0, (place + 1) * side, side)).save(buffer, "PNG")
                tiles.append(buffer.getvalue())
            return tiles
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # a damaged file
        return []
