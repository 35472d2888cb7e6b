"""Run the notebooks and keep their outputs: ``python docs/notebooks/run.py [NAME ...]``.

Each runs in an empty temporary folder, so nothing is left behind. What differs from run to run for no reason (times,
what is written to stderr) is dropped; a digest of the code tells a test whether outputs are of the code beside them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

_SECONDS_A_CELL = 600


def code_digest(notebook: nbformat.NotebookNode) -> str:
    """SHA-256 of the code cells."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def smaller(picture: str) -> str:
    """A PNG in base64 with 128 colours, which is enough for a figure and a third of the size."""
    made = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB").quantize(128).save(made, "PNG", optimize=True)
    return base64.b64encode(made.getvalue()).decode()


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """What is printed in one go, of which a notebook has as many pieces as the clock made of it."""
    kept: list[nbformat.NotebookNode] = []
    for output in outputs:
        if kept and output.output_type == kept[-1].output_type == "stream":
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def run(path: Path) -> nbformat.NotebookNode:
    """Run a notebook; raises where a cell does."""
    notebook = nbformat.read(path, as_version=4)
    programs = str(Path(sys.executable).parent)  # where `chns` is, for cells that call it
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        client = NotebookClient(notebook, timeout=_SECONDS_A_CELL, resources={"metadata": {"path": folder}})
        client.execute(env=environment)
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.metadata = {}
        cell.execution_count = number + 1
        cell.outputs = joined([output for output in cell.outputs if output.get("name") != "stderr"])
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number + 1
            output.get("data", {}).pop("text/html", None)
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = smaller(output["data"]["image/png"])
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    notebook.metadata["chns_code"] = code_digest(notebook)
    return notebook


def main() -> None:
    """Run those that are named, or all."""
    folder = Path(__file__).parent
    for path in [folder / f"{name}.ipynb" for name in sys.argv[1:]] or sorted(folder.glob("*.ipynb")):
        nbformat.write(run(path), path)
        sys.stdout.write(f"{path.name}\n")


if __name__ == "__main__":
    main()
