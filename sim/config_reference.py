"""docs/configuration.md: every key of every configuration file, made from the sections.

python -m sim.config_reference > docs/configuration.md
"""

import sys

from client.config import SiteConfig
from medsa_model.config import RunConfig
from medsa_model.config_reference import File, reference
from server.config import Federation
from sim.config import Sim

INTRODUCTION = """\
# Configuration

Made by `python -m sim.config_reference` from the program itself; a test compares. Each key of a
file can be given on the command line too, as `key.sub=value` behind the options (`medsa-sim`,
`medsa-audit` and `flower-server` for a run, `python client/run.py` for a site). Unknown keys are
errors, and all problems of a file are told at once. *Empty* is written as nothing behind the colon,
or as `null`. A section with a `kind` takes that key and those of the kind; an item of a list is
written as `{kind: box, overlap: 0.85}`. What a key means together with others, and which ones
exclude each other, is said by the program before anything is trained.
"""
FILES = (
    File(
        "Run YAML",
        "A study: what travels to every site, but for paths. See "
        "[configs/hospital.yaml](../configs/hospital.yaml).",
        RunConfig,
    ),
    File(
        "Run YAML, section `sim`",
        "For `medsa-sim` alone; no site gets it. `flower-server` takes `split` for its kits.",
        Sim, "sim",
    ),
    File(
        "Federation YAML",
        "Of the coordinator. Paths are relative to the file. See "
        "[configs/federation.yaml](../configs/federation.yaml).",
        Federation,
    ),
    File(
        "Site YAML",
        "Of a hospital, which it never leaves; the kit brings one. Paths are relative to the file.",
        SiteConfig,
    ),
)  # fmt: skip


def configuration() -> str:
    """The whole page."""
    return f"{INTRODUCTION}\n{reference(FILES)}"


if __name__ == "__main__":
    sys.stdout.write(configuration())
