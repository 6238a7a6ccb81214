"""The notebook of the examples, run as a person runs it, and as it is stored."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples/notebook.ipynb"
REPORT = """
import json

print(json.dumps({
    "images": len(index),
    "true": [sum(is_true(query, hit) for hit in found) for query, found in zip(queries.values(), answers)],
    "boxes": [None not in [hit.box for hit in found] for found in answers],
    "same": [hit.image for hit in answer[:5]] == [hit.image for hit in answers[list(queries).index("03-book")]],
    "codes": matrix.shape,
    "centre": [float(centre["values"].min()), float(centre["values"].max())],
    "metrics": {name: result.metrics for name, result in measured.items()},
}))
"""


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: Any) -> str:
    """What a cell wrote."""
    return "".join(output["text"] for output in cell.outputs if output["output_type"] == "stream")


def words(cell: Any) -> list[str]:
    """The same without its numbers, and the marks behind them."""
    return re.sub(r"[-+]?\d+(\.\d+)?\*?", "#", printed(cell)).split()


def pictures(cells: list[Any]) -> int:
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)


@pytest.mark.slow
def test_the_notebook_runs_and_finds_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTSEARCH_NOTEBOOK", str(tmp_path / "out"))
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    notebook, stored = (nbformat.read(NOTEBOOK, as_version=4) for _ in range(2))
    cells = code_cells(notebook)
    for cell in cells:
        cell.outputs, cell.execution_count = [], None
    notebook.cells.append(nbformat.v4.new_code_cell(REPORT))
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=250, kernel_name="python3", resources=resources).execute()

    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert {output.get("name", "stdout") for cell in cells for output in cell.outputs} == {"stdout"}
    assert pictures(cells) == 3
    assert [words(cell) for cell in cells] == [words(cell) for cell in code_cells(stored)]

    text = {cell.id: printed(cell) for cell in cells}
    assert "'local': 60" in text["make"]
    assert "fitted: [\"encoder 'bovw' on 60 images\"]" in text["make"]
    assert text["swap-searcher"] == "written: {'search': 60}\n"
    assert "written: {'weights': 60, 'codes': 60, 'search': 60}\nfitted: []\n" in text["swap-weighting"]

    told = json.loads(printed(notebook.cells[-1]))
    assert told["images"] == 60
    assert min(told["true"]) >= 1
    assert sum(told["true"]) >= 36
    assert all(told["boxes"])
    assert told["same"]
    assert told["codes"] == [60, 2000]
    assert told["centre"] == pytest.approx([0, 1], abs=0.05)
    mAP = {name: metrics["mAP"] for name, metrics in told["metrics"].items()}
    assert list(mAP) == ["keypoints", "codes", "centre"]
    assert mAP["keypoints"] > 0.75
    assert min(mAP["codes"], mAP["centre"]) > 0.52
    assert told["metrics"]["keypoints"]["localised@10"] > 0.85
    assert (tmp_path / "out/index").is_dir()


def test_the_notebook_is_stored_with_its_outputs_and_no_place_of_a_machine() -> None:
    assert NOTEBOOK.stat().st_size < 1_000_000
    cells = code_cells(nbformat.read(NOTEBOOK, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} == {"stream", "display_data"}
    assert pictures(cells) == 3
    for output in outputs:
        output.get("data", {}).pop("image/png", None)
    assert not re.search(r"/(work|tmp|home|root|Users)\b", json.dumps(outputs))
