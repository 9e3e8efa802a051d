"""Words around the pictures of an overlay: colours with names, what was asked, heads of slices."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

COLOURS = (  # Okabe-Ito, the ones that stand out on skin and on grey first
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167),
    (0, 114, 178),
)  # fmt: skip
TEXT, LINE, GAP = 15, 24, 6  # pixels: letters, a line of words, space between tiles
BLACK, WHITE = (0, 0, 0), (255, 255, 255)

Colour = tuple[int, int, int]


@cache
def font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """The letters of all words."""
    return ImageFont.load_default(TEXT)


def colour_of(structure: int) -> Colour:
    """Of a structure by its number from 0; after seven they begin again."""
    return COLOURS[structure % len(COLOURS)]


def headed(image: Image.Image, words: str) -> Image.Image:
    """`words` above a picture, in one line, which may be wider than the picture."""
    width = max(image.width, int(font().getlength(words)) + 5)
    head = Image.new("RGB", (width, LINE), WHITE)
    ImageDraw.Draw(head).text((2, 2), words, BLACK, font())
    return stacked([head, image])


def draw_legend(names: Mapping[int, str], words: str, width: int) -> Image.Image:
    """Colours with names in lines of `width` pixels, then `words`."""
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    if len(names) > 1:
        names = {structure: f"{structure + 1} {name}" for structure, name in names.items()}
    places: list[tuple[int, int, int]] = []  # x, line, structure
    x, line = 0, 0
    for structure, name in names.items():
        needed = 22 + int(draw.textlength(name, font())) + 18
        if x and x + needed > width:
            x, line = 0, line + 1
        places.append((x, line, structure))
        x += needed
    told = _wrapped(words, width)
    legend = Image.new("RGB", (width, LINE * (line + 1 + len(told)) + 4), WHITE)
    draw = ImageDraw.Draw(legend)
    for x, number, structure in places:
        y = LINE * number + 5
        draw.rectangle((x + 2, y, x + 16, y + 14), fill=colour_of(structure), outline=BLACK)
        draw.text((x + 22, y - 2), names[structure], BLACK, font())
    for number, each in enumerate(told, line + 1):
        draw.text((2, LINE * number + 3), each, BLACK, font())
    return legend


def _wrapped(words: str, width: int) -> list[str]:
    """`words` in lines that fit into `width` pixels."""
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font().getlength(longer) <= width - 4:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures in a row, with white between them."""
    height = max(each.height for each in pictures)
    width = sum(each.width for each in pictures) + GAP * (len(pictures) - 1)
    row, x = Image.new("RGB", (width, height), WHITE), 0
    for each in pictures:
        row.paste(each, (x, 0))
        x += each.width + GAP
    return row


def stacked(pictures: Iterable[Image.Image]) -> Image.Image:
    """Pictures in a column, with white between them."""
    pictures = list(pictures)
    height = sum(each.height for each in pictures) + GAP * (len(pictures) - 1)
    column, y = Image.new("RGB", (max(each.width for each in pictures), height), WHITE), 0
    for each in pictures:
        column.paste(each, (0, y))
        y += each.height + GAP
    return column
