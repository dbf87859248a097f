"""Imports point one way, in every package that there is, and light modules stay light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["safe_rl", "agents", "envs", "supervised"]
PROJECTS = {"pil": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn"}
"""Modules that are called otherwise than the project they come from."""
HEAVY = ["torch", "transformers", "stable_baselines3", "matplotlib", "scipy", "pandas", "tensorboard"]


def test_every_package_is_named_wherever_packages_are_listed() -> None:
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert found == set(PACKAGES)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert settings["importlinter"]["root_packages"] == PACKAGES
    assert settings["importlinter"]["contracts"][0]["layers"] == PACKAGES
    assert set(settings["mypy"]["files"]) == {*PACKAGES, "tests", "benchmarks", "examples"}
    assert {name.rstrip("*") for name in settings["setuptools"]["packages"]["find"]["include"]} == set(PACKAGES)


@pytest.mark.slow
def test_imports_point_one_way() -> None:
    code = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    linted = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout + linted.stderr
    assert "Contracts: 1 kept, 0 broken." in linted.stdout


@pytest.mark.parametrize(
    "package", ["agents", "envs", "supervised", "supervised.demo", "supervised.diagnostics", "safe_rl"]
)
def test_configurations_import_nothing_heavy(package: str) -> None:
    code = f"import sys, {package}.config; print(*(name for name in {HEAVY} if name in sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == []


def test_jsonargparse_is_imported_in_one_module_only() -> None:
    users = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if "import jsonargparse" in path.read_text() or "from jsonargparse" in path.read_text()
    ]
    assert users == ["safe_rl/options.py"]


def _imported(path: Path) -> set[str]:
    """Return the top-level modules that a module imports, wherever in it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.append(str(node.module))
    return {name.split(".")[0] for name in names}


def test_whatever_is_imported_is_a_declared_dependency_and_pinned_in_the_tested_set() -> None:
    """Not only a dependency of a dependency, which may drop it."""
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    imported = set().union(*map(_imported, modules)) - set(sys.stdlib_module_names) - set(PACKAGES)
    used = {PROJECTS.get(name.lower(), name.lower().replace("_", "-")) for name in imported}
    assert {"torch", "pillow", "jinja2"} <= used

    def projects(lines: list[str]) -> set[str]:
        names = (re.match(r"[\w.-]+", line) for line in lines)
        return {name[0].lower().replace("_", "-") for name in names if name}

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    assert used <= projects(project["dependencies"] + extras)
    assert used <= projects((ROOT / "constraints.txt").read_text().splitlines())


def test_nothing_is_pickled() -> None:
    """Files that are shared must not be able to run code: no pickle, no torch.load, no unsafe YAML."""
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(modules) > 60
    for path in modules:
        text = path.read_text()
        text = text.replace('torch.load(path, map_location="cpu", weights_only=True)', "")  # executes nothing
        for word in ("import pickle", "torch.load(", "torch.save(", "np.load(", "yaml.unsafe_load", "yaml.full_load"):
            assert word not in text, f"{path}: {word}"
