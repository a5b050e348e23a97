"""What validation and reports need of the evaluation must not load torch."""

from __future__ import annotations

import subprocess
import sys

LIGHT = (
    "trainables.data.images",
    "trainables.data.subjects",
    "trainables.evaluation.metrics_table",
    "trainables.evaluation",
    "trainables.evaluation.checks",
    "trainables.evaluation.metrics",
    "trainables.evaluation.prompts",
    "trainables.evaluation.quality",
)


def test_light_modules_load_no_torch() -> None:
    heavy = "{'torch', 'transformers', 'diffusers', 'pandas'}"
    code = f"import sys, {', '.join(LIGHT)}; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
