"""The wheel holds the three packages and works in an empty environment."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if (
        done.returncode
        and "hatchling" in done.stdout + done.stderr
        and "No matching" in done.stdout + done.stderr
    ):
        pytest.skip("no package index: hatchling cannot be installed to build the wheel")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_packages_and_their_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {"instsearch", "instsearch_cli", "instsearch_plugins", "instsearch_formats"} <= tops
    assert len(tops) == 5
    for wanted in (
        "instsearch/py.typed",
        "instsearch_cli/py.typed",
        "instsearch_plugins/py.typed",
        "instsearch_formats/py.typed",
        "instsearch_formats/SPEC.md",
        "instsearch_plugins/presets/sift.toml",
        "instsearch_plugins/tables/mohedano2018.toml",
        "instsearch_cli/report/schemas/saliency.json",
    ):
        assert wanted in names


@pytest.mark.slow
def test_the_wheel_runs_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """`instsearch plugins` needs click and pluggy alone: torch and the rest are imported when they are used."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
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
