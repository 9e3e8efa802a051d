"""The configuration as the report shows it: without where on this machine things lie."""

import re

# A path is absolute; `root` may also be relative. What is indented by more than the key goes on
# with the value: long ones are folded.
PATH = re.compile(
    r"""^(?P<indent>[ ]*)(?P<before>(?:-[ ]+)*(?:[\w.-]+:[ ]+)?)
    (?P<path>(?:(?<=\Wroot:[ ])(?=[^\n#]*[/\\]) | ["']?(?:file:)?(?:~|[A-Za-z]:)?[/\\])
    [^\n]*(?:\n(?P=indent)[ ]+\S[^\n]*)*)""",
    re.MULTILINE | re.VERBOSE,
)


def without_places(config: str) -> str:
    """A YAML text in which every absolute path, and any `root`, is `…/` and its last part.

    By line, so that one that is not valid any more is shown too.
    """
    return PATH.sub(_shortened, config)


def _shortened(found: re.Match[str]) -> str:
    words = " ".join(found["path"].split()).strip("\"'")
    parts = words.rstrip("/\\").split("/" if "/" in words else "\\")
    return f"{found['indent']}{found['before']}…/{parts[-1].strip()}"
