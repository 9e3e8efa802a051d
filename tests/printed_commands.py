"""The commands that README.md and the guides print, for the tests that run or parse them."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
"""Path of every page -> its text."""
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def fences(text: str, language: str = "") -> Iterator[str]:
    """The blocks of a page in `language`; those without one are commands of a shell."""
    for match in FENCE.finditer(text):
        if match[1] == language:
            yield match[2]


def printed(program: str = "") -> list[str]:
    """Every different command that begins with `program`, without its comment, in order."""
    lines = (
        re.sub(r"\s+# .*", "", line.strip())
        for text in PAGES.values()
        for block in fences(text)
        for line in block.splitlines()
    )
    found = (line for line in lines if line and line.startswith(program))
    return list(dict.fromkeys(found))


def inline(program: str) -> list[str]:
    """Every different command with options inside a sentence, that begins with `program`."""
    found = (
        " ".join(match.split())
        for text in PAGES.values()
        for match in re.findall(rf"`({re.escape(program)}\s[^`]+)`", FENCE.sub("", text))
    )
    return list(dict.fromkeys(command for command in found if " -" in command))
