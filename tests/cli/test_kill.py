"""SIGKILL at random moments of `index`, then resume: equal arrays, `verify` clean, nothing left after `gc`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

KILLS = 8


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_moment_and_resumed(tmp_path: Path, draw: Callable[..., None]) -> None:
    for i in range(24):
        draw(tmp_path / "photos" / f"{i:02}.png", i, (128, 96))
    driver = Path(__file__).with_name("kill_driver.py")
    done = subprocess.run(
        [sys.executable, str(driver), str(tmp_path / "photos"), str(tmp_path), str(KILLS), "1"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["of"] == KILLS
    assert report["killed"] >= KILLS // 2, "the runs ended before they were killed"
    assert report["arrays"] > 100


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_events_the_answer_is_of_before_or_of_after(
    tmp_path: Path, draw: Callable[..., None]
) -> None:
    for i in range(12):
        draw(tmp_path / "photos" / f"{i:02}.png", i)
    for i in (0, 9, 12):
        draw(tmp_path / "new" / f"{i:02}.png", 100 + i, (72, 48))
    here = Path(__file__).parent
    path = os.pathsep.join([str(here / "fake_plugins" / "tiny"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(here / "kill_driver.py"), str(tmp_path / "photos"), str(tmp_path), "events"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    for verb in ("add faiss", "add scan"):
        assert report[verb]["before"] >= 2, report
        assert report[verb]["after"] >= 1, report
    assert all(sum(counts.values()) >= 1 for counts in report.values()), report
