"""The notebooks hold the outputs of the code beside them, and run."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs chns[notebooks]")
pytest.importorskip("nbclient", reason="needs chns[notebooks]")
pytest.importorskip("sklearn", reason="needs chns[notebooks]")

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture(scope="module")
def runner():
    """The module docs/notebooks/run.py."""
    spec = importlib.util.spec_from_file_location("run_notebooks", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_those_of_the_code_beside_them(path, runner):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata["chns_code"] == runner.code_digest(notebook), "run `make notebooks`"
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "error" for output in outputs)
    assert not re.search(r"/(tmp|home|root|work)/", json.dumps([{**output, "data": {}} for output in outputs]))
    assert path.stat().st_size < 500_000


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_run(path, runner):
    notebook = runner.run(path)
    before = nbformat.read(path, as_version=4)
    assert [len(cell.get("outputs", [])) for cell in notebook.cells] == [
        len(cell.get("outputs", [])) for cell in before.cells
    ]
