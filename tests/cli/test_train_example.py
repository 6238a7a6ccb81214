"""The example that trains on a folder of photographs, run as a person runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from real_data import INSTRE, SQUEEZENET

ROOT = Path(__file__).parents[2]
PICTURES = INSTRE / "images"


@pytest.mark.slow
@pytest.mark.skipif(
    not (SQUEEZENET.exists() and PICTURES.is_dir()), reason="SqueezeNet or INSTRE is not here"
)
def test_training_on_photographs_finds_more_of_their_details(tmp_path: Path) -> None:
    photographs, out = tmp_path / "photographs", tmp_path / "out"
    photographs.mkdir()
    for path in sorted(PICTURES.glob("*.jpg"))[30:751:31]:
        shutil.copy(path, photographs)
    (photographs / "broken.jpg").write_bytes(b"no picture")
    small = (
        "--weights",
        SQUEEZENET,
        "--crop",
        "128",
        "--short-side",
        "132,170",
        "--batch",
        "8",
        "--epochs",
        "8",
    )
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, ROOT / "examples/train_on_your_photographs.py", photographs, out, *small],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = (out / "table.txt").read_text().splitlines()
    assert "of 24 details" in lines[0]
    mAP = {line[:20].strip(): float(line.split()[-2]) for line in lines[1:]}
    assert list(mAP) == ["CroW", "MSCNet, untrained", "MSCNet, trained"]
    assert mAP["MSCNet, trained"] > mAP["MSCNet, untrained"]
    card = json.loads((out / "mscnet.json").read_text())
    assert card["images"]["pictures"] == 24
    assert "mscnet.pth" in done.stdout
    assert "--extractor squeezenet1_0 --encoder mscnet" in done.stdout
    assert (out / "before.png").read_bytes() != (out / "after.png").read_bytes()
    for name in ("before.png", "after.png", "mscnet.pth.training/curves.svg"):
        assert (out / name).stat().st_size > 1000
