"""The notebook of the documentation: small, without outputs, and every cell runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
RUN = """
import json, sys
import matplotlib
cells = [cell for cell in json.load(open("notebook.ipynb"))["cells"] if cell["cell_type"] == "code"]
space = {}
for number, cell in enumerate(cells, start=1):
    exec(compile("".join(cell["source"]), f"code cell {number}", "exec"), space)
plt = space["plt"]
drawn = [axes for number in plt.get_fignums() for axes in plt.figure(number).axes]
print(json.dumps({
    "figures": len(plt.get_fignums()),
    "drawn": [bool(axes.lines) and bool(axes.get_xlabel()) for axes in drawn],
    "rows": [len(space["runs"]), len(space["confirm"]), len(space["good"]), len(space["worst"])],
    "backend": matplotlib.get_backend().lower(),
    "heavy": sorted({"torch", "ray", "mlflow", "optuna", "diffusers"} & set(sys.modules)),
}))
"""


def test_every_cell_of_the_notebook_runs() -> None:
    """As Jupyter does it, in the notebook's folder; the backend that somebody has chosen stays."""
    environment = {**os.environ, "MPLBACKEND": "svg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=NOTEBOOK.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["figures"] == 2
    assert found["drawn"] == [True, True, True]
    assert all(count > 0 for count in found["rows"])
    assert found["backend"] == "svg"
    assert found["heavy"] == []


def test_the_notebook_has_no_outputs_and_is_small() -> None:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (content["nbformat"], NOTEBOOK.stat().st_size < 20_000) == (4, True)
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
