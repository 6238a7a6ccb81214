"""What is published: the wheel holds the four packages and works in an empty environment; one version for all.

`make dist` names its folder by INSTSEARCH_DIST, and checks what it built more closely than `make test` does.
"""

from __future__ import annotations

import os
import re
import site
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import instsearch
import instsearch_cli

ROOT = Path(__file__).parents[1]
DIST = os.environ.get("INSTSEARCH_DIST", "")
PACKAGES = ("instsearch", "instsearch_cli", "plugins/instsearch_plugins", "formats/instsearch_formats")

published = pytest.mark.skipif(not DIST, reason="`make dist` checks this")


def build(folder: Path) -> Path:
    """The wheel, made straight from the repository."""
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode and "hatchling" in said and "No matching" in said and not DIST:
        pytest.skip("no package index: hatchling cannot be installed to build the wheel")
    assert done.returncode == 0, said[-2000:]
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of ``make dist``, which comes from the source distribution; else one from the repository."""
    return next((ROOT / DIST).glob("*.whl")) if DIST else build(tmp_path_factory.mktemp("wheel"))


def empty_environment(folder: Path) -> tuple[Path, list[str]]:
    """Its Python, and the command that installs into it: this environment's pip, for it has none."""
    venv.create(folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install"]
    return python, [*pip, "--quiet"]


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_the_wheel_holds_the_packages_whole_and_nothing_else(wheel: Path) -> None:
    """Their code, py.typed, SPEC.md, presets, tables and whatever else lies beside them; no tests."""
    expected = {
        f"{package.rpartition('/')[2]}/{path.relative_to(ROOT / package).as_posix()}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = set(contents(wheel))
    about = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert names - about == expected
    assert {name.partition("/")[2] for name in about} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }
    for wanted in (
        *(f"{package.rpartition('/')[2]}/py.typed" for package in PACKAGES),
        "instsearch_formats/SPEC.md",
        "instsearch_plugins/presets/sift.toml",
        "instsearch_plugins/tables/mohedano2018.toml",
        "instsearch_plugins/vocabularies/rootsift.npz",
        "instsearch_cli/report/schemas/saliency.json",
    ):
        assert wanted in expected


def test_there_is_one_version(wheel: Path) -> None:
    """It stands in instsearch_cli/__init__.py, is that of the wheel, and is written nowhere else."""
    version = instsearch_cli.__version__
    assert instsearch.__version__ == version
    assert wheel.name.split("-")[1] == version
    said = next(text for name, text in contents(wheel).items() if name.endswith("/METADATA")).decode()
    assert re.search(rf"^Version: {re.escape(version)}$", said, re.MULTILINE)
    places = [
        f"{path.relative_to(ROOT)}"
        for path in (
            ROOT / "pyproject.toml",
            *(p for package in PACKAGES for p in (ROOT / package).rglob("*.py")),
        )
        if f'"{version}"' in path.read_text("utf-8")
    ]
    assert places == ["instsearch_cli/__init__.py"]
    assert "version" in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dynamic"]


@pytest.mark.slow
def test_the_wheel_runs_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """`instsearch plugins` needs click and pluggy alone: torch and the rest are imported when they are used."""
    _, pip = empty_environment(tmp_path / "venv")
    done = subprocess.run([*pip, "click", "pluggy"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no package index")
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    program = tmp_path / "venv" / "bin" / "instsearch"
    done = subprocess.run(
        [str(program), "plugins"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "squeezenet1_0" in done.stdout
    assert "geometric" in done.stdout


@published
def test_the_source_distribution_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """The wheel of ``make dist`` was made from it: one straight from the repository is the same, byte for byte."""
    assert contents(wheel) == contents(build(tmp_path))
    with tarfile.open(next((ROOT / DIST).glob("*.tar.gz"))) as file:
        tops = {name.split("/")[1] for name in file.getnames() if "/" in name}
    assert {"README.md", "CHANGELOG.md", "LICENSE", "tests", "Makefile"} <= tops
    assert not tops & {".ci", ".venv", "dist", "demo"}


@published
def test_the_wheel_finds_objects_beside_the_libraries_that_are_here(wheel: Path, tmp_path: Path) -> None:
    python, pip = empty_environment(tmp_path / "venv")
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    own = next((tmp_path / "venv" / "lib").glob("*/site-packages"))
    (own / "libraries.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = [str(tmp_path / "venv" / "bin" / "instsearch"), "demo", "demo", "-n", "40", "--quiet"]
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=tmp_path, env=plain)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo" / "hits.html").stat().st_size > 1000
    where = [str(python), "-c", "import instsearch_cli; print(instsearch_cli.__file__)"]
    said = subprocess.run(where, capture_output=True, text=True, check=True, cwd=tmp_path, env=plain).stdout
    assert said.startswith(str(own))
