"""The house: dependencies in one place and with reasons, conda the same, notebooks clean, torch kept out."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
PYTHONS = ["3.10.0", "3.11.0", "3.11.2", "3.11.7"]  # the oldest; the tested line from its first; Debian 12's; ours
TESTED = "3.11"
ASKED_FOR = {"jupyterlab", "papermill", "ultralytics-opencv-headless", "torch", "ipywidgets", "plotly"}


def environment(python: str) -> dict[str, str]:
    """What a marker is evaluated against for one version of Python on this system."""
    known = {str(key): str(value) for key, value in default_environment().items()}
    return known | {"python_version": ".".join(python.split(".")[:2]), "python_full_version": python}


def requirements() -> list[Requirement]:
    """Every dependency of pyproject.toml, extras included."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def pinned(python: str) -> dict[str, str]:
    """name: version, of the pins that hold on one version of Python."""
    held = [pin for pin in pins() if pin.marker is None or pin.marker.evaluate(environment(python))]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in held}


def test_the_six_packages_asked_for_are_dependencies() -> None:
    # Ultralytics itself, built on OpenCV without windows: same code, same import, no libGL needed.
    assert {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]} >= ASKED_FOR


def test_every_dependency_has_its_reason_beside_it() -> None:
    above = ""
    for line in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines():
        entry = re.match(r'\s*"[A-Za-z0-9_.-]+(\[.*\])?\s*[=<>~!].*",?\s*(?P<reason>#.*)?$', line)
        if entry:
            assert entry["reason"] or above.startswith("#"), f"pyproject.toml: no reason beside {line.strip()}"
        above = line.strip()


def test_ultralytics_is_pinned_to_one_version() -> None:
    (ultralytics,) = (r for r in requirements() if r.name.startswith("ultralytics"))
    assert re.fullmatch(r"==[\d.]+", str(ultralytics.specifier))


def test_every_constraint_is_one_exact_version() -> None:
    for pin in pins():
        assert re.fullmatch(r"==[^,*]+", str(pin.specifier)), f"constraints.txt: {pin}"
    for python in PYTHONS:
        held = [p for p in pins() if p.marker is None or p.marker.evaluate(environment(python))]
        assert len(held) == len(pinned(python)), f"a package is pinned twice on Python {python}"


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_satisfy_pyproject(python: str) -> None:
    versions = pinned(python)
    for requirement in requirements():
        version = versions.get(canonicalize_name(requirement.name))
        if python.startswith(TESTED):
            assert version, f"constraints.txt does not pin {requirement.name}"
        if version:
            assert requirement.specifier.contains(version), f"constraints.txt pins {version}, not {requirement}"


@pytest.mark.parametrize("python", PYTHONS)
def test_a_pin_that_needs_a_newer_python_says_so(python: str) -> None:
    wrong = []
    for name, version in pinned(python).items():
        try:
            installed = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # another system's
        needs = installed.get("Requires-Python") or ""
        if installed["Version"] == version and not SpecifierSet(needs).contains(python):
            wrong.append(f"{name}=={version} needs Python {needs}: add a marker in constraints.txt")
    assert not wrong, "\n".join(wrong)


def test_the_conda_route_is_the_same_and_cannot_drift() -> None:
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert conda["name"] == "rddkit"
    python, pip, from_pip = conda["dependencies"]
    assert python == f"python={TESTED}"
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{TESTED}.0")
    assert pip == "pip"
    assert from_pip == {"pip": ["-c constraints.txt", "-e .[dev]"]}


def test_citation_names_the_version_and_licence_of_pyproject() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    (ultralytics,) = (r for r in requirements() if r.name.startswith("ultralytics"))
    (cited,) = (c for c in citation["references"] if "Ultralytics" in c["title"])
    assert str(ultralytics.specifier) == f"=={cited['version']}"


def untidy(notebook: dict[str, Any]) -> list[str]:
    """What a committed notebook must not have, or lacks."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = []
    if len(code) > 12:
        found.append(f"{len(code)} code cells, at most 12")
    if not any("parameters" in cell["metadata"].get("tags", []) for cell in code):
        found.append("no cell tagged parameters")
    if "papermill" in notebook["metadata"] or any("papermill" in cell["metadata"] for cell in notebook["cells"]):
        found.append("papermill's metadata")
    if "widgets" in notebook["metadata"]:
        found.append("widget state")
    for number, cell in enumerate(code, 1):
        lines = "".join(cell["source"]).splitlines()
        if cell["outputs"] or cell["execution_count"] is not None:
            found.append(f"code cell {number} has outputs")
        if len(lines) > 10:
            found.append(f"code cell {number} has {len(lines)} lines, at most 10")
        if any(re.match(r"\s*(async\s+)?def ", line) for line in lines):
            found.append(f"code cell {number} defines a function: that belongs into rddkit")
    return found


def test_untidy_notebooks_are_told_apart() -> None:
    tidy = {
        "cell_type": "code",
        "metadata": {"tags": ["parameters"]},
        "source": ["batch = 2"],
        "outputs": [],
        "execution_count": None,
    }
    assert untidy({"metadata": {}, "cells": [tidy]}) == []
    run = tidy | {"metadata": {"papermill": {}}, "source": ["def f():\n", "  pass\n"] * 6, "execution_count": 1}
    assert untidy({"metadata": {"widgets": {}}, "cells": [run]}) == [
        "no cell tagged parameters",
        "papermill's metadata",
        "widget state",
        "code cell 1 has outputs",
        "code cell 1 has 12 lines, at most 10",
        "code cell 1 defines a function: that belongs into rddkit",
    ]


def test_notebooks_are_committed_tidy() -> None:
    books = sorted((ROOT / "notebooks").glob("*.ipynb"))
    wrong = {book.name: untidy(json.loads(book.read_text(encoding="utf-8"))) for book in books}
    assert not {name: found for name, found in wrong.items() if found}, (
        "run .venv/bin/pre-commit, or shorten the notebook"
    )


def contract(name: str) -> dict[str, Any]:
    (found,) = (c for c in PYPROJECT["tool"]["importlinter"]["contracts"] if c["id"] == name)
    return found


def floors(name: str) -> list[set[str]]:
    """Each floor's modules, top to bottom, of one of import-linter's layer contracts."""
    return [set(re.findall(r"\w+", layer)) for layer in contract(name)["layers"]]


def test_the_lists_of_modules_that_may_hold_torch_agree() -> None:
    heavy, light = floors("heavy")
    assert {line.removeprefix("rddkit.").removesuffix(" -> *") for line in contract("torch")["ignore_imports"]} == heavy
    # The floors of decisions and plain values lie below all of them and cannot import upwards anyway.
    assert heavy | light == set().union(*floors("floors")[:-2])


def test_everything_but_the_worker_imports_without_torch() -> None:
    # import-linter reads the source; this really imports, so that a detour through another package shows too.
    modules = sorted(p.relative_to(ROOT).with_suffix("") for p in (ROOT / "rddkit").rglob("*.py"))
    names = [".".join(p.parts).removesuffix(".__init__") for p in modules if p.name != "__main__"]
    light = [name for name in names if floors("heavy")[0].isdisjoint(name.split(".")[1:2])]
    look = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    for heavy in ('torch', 'ultralytics'):\n"
        "        assert heavy not in sys.modules, f'importing {name} imports {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", look, *light], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
