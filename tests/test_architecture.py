"""Who may import whom, how modules may be called, and that nothing unpickles."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("server", "client", "medsa_model", "sim")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

LINT = "from importlinter.cli import lint_imports as lint; raise SystemExit(lint(no_cache=True))"
PICKLERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
ERRORS = {"PickleError", "UnpicklingError"}  # to catch them is no danger


def broken_contracts(tree: Path) -> str:
    """What import-linter says against the packages in `tree`; empty when all is well."""
    command = [sys.executable, "-c", LINT]
    result = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr if result.returncode else ""


def test_modules_are_found() -> None:
    """The tests below look at something."""
    assert len(MODULES) > 20
    assert all((ROOT / package / "__init__.py") in MODULES for package in PACKAGES)


def test_the_import_contract_is_kept() -> None:
    """As written in pyproject.toml."""
    assert broken_contracts(ROOT) == ""


def write_packages(tree: Path, imports: dict[str, str]) -> None:
    """Four packages in `tree` that hold nothing but `imports` (module -> what it imports)."""
    for package in (*PACKAGES, "medsa_model/privacy"):
        (tree / package).mkdir()
        (tree / package / "__init__.py").touch()
    for module, imported in imports.items():
        path = tree / f"{module.replace('.', '/')}.py"
        path.write_text(f"def late() -> None:\n    import {imported}\n")
    (tree / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())


def test_the_contract_allows_what_the_design_has(tmp_path: Path) -> None:
    """Tried on nearly empty packages."""
    allowed = {
        "sim.run": "server, client, medsa_model, flwr",
        "server.app": "medsa_model, flwr",
        "client.app": "medsa_model, flwr",
        "medsa_model.records": "flwr",
        "medsa_model.privacy.dp_sgd": "opacus",
        "medsa_model.privacy.accounting": "opacus",
        "medsa_model.sam": "segment_anything",
    }
    write_packages(tmp_path, allowed)
    assert broken_contracts(tmp_path) == ""


def test_the_contract_refuses_everything_else(tmp_path: Path) -> None:
    """Each wrong import is reported by itself, also one inside a function."""
    wrong = {
        "server.one": "client",
        "server.two": "sim",
        "server.three": "opacus",
        "client.one": "server",
        "client.two": "sim",
        "client.three": "segment_anything",
        "sim.one": "opacus",
        "sim.two": "segment_anything",
        "medsa_model.one": "server",
        "medsa_model.two": "client",
        "medsa_model.three": "sim",
        "medsa_model.four": "flwr",
        "medsa_model.five": "segment_anything",
        "medsa_model.privacy.ledger": "opacus",
    }
    write_packages(tmp_path, wrong)
    report = broken_contracts(tmp_path)
    missed = [pair for pair in wrong.items() if "{} -> {} ".format(*pair) not in report]
    assert missed == [], report


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    """Python puts the folder of a started script first on its path: such a file would shadow."""
    names = {path.stem for path in MODULES}
    names |= {folder.name for package in PACKAGES for folder in (ROOT / package).glob("**/")}
    assert names & sys.stdlib_module_names == set()


def unpicklers(source: str) -> Iterator[str]:
    """Everything in `source` that may run code hidden in a file."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                for name in names:
                    package = name.name.split(".")[0]
                    if package in PICKLERS and (package != "pickle" or name.asname):
                        yield f"line {node.lineno}: import {name.name}"
            case ast.ImportFrom(module=str(module), names=names):
                if module.split(".")[0] in PICKLERS and {n.name for n in names} - ERRORS:
                    yield f"line {node.lineno}: from {module}"
            case ast.Attribute(value=ast.Name(id="pickle"), attr=attribute):
                if attribute not in ERRORS:
                    yield f"line {node.lineno}: pickle.{attribute}"
            case ast.Call(func=ast.Attribute(attr="load"), keywords=keywords):
                given = {k.arg: k.value for k in keywords}
                called = ast.unparse(node.func)
                only = given.get("weights_only")
                if called == "torch.load" and not (
                    isinstance(only, ast.Constant) and only.value is True
                ):
                    yield f"line {node.lineno}: torch.load without weights_only=True"
                if "allow_pickle" in given:
                    yield f"line {node.lineno}: {called} with allow_pickle"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles(module: Path) -> None:
    """Weights come from other sites and from the network: they are data, never code."""
    assert list(unpicklers(module.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch\ntorch.load(f, weights_only=True)", 0),
        ("import pickle\ntry: ...\nexcept pickle.UnpicklingError: ...", 0),
        ("from pickle import UnpicklingError", 0),
        ("import json\njson.load(f)", 0),
        ("import torch\ntorch.load(f)", 1),
        ("import torch\ntorch.load(f, weights_only=False)", 1),
        ("import torch\ntorch.load(f, weights_only=flag)", 1),
        ("import pickle\npickle.loads(b)", 1),
        ("import pickle as p", 1),
        ("from pickle import loads, UnpicklingError", 1),
        ("def f():\n    import dill", 1),
        ("import numpy as np\nnp.load(f, allow_pickle=True)", 1),
    ],
)
def test_unpickling_is_recognised(source: str, found: int) -> None:
    """The search itself, on one line of each kind."""
    assert len(list(unpicklers(source))) == found
