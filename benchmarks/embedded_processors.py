"""How far the same run comes apart on other processors: `python -m benchmarks.embedded_processors`.

Floating-point sums depend on the width of a processor's vectors, and training carries the last digit on. Each run is
trained and judged in a process of its own that is told to use narrower vectors than this processor has: PyTorch's own
kernels (ATEN_CPU_CAPABILITY), oneDNN's and MKL's. What a processor has beside that (its caches, its number of cores)
changes nothing here: a run has one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

# Widest vectors allowed to PyTorch, oneDNN and MKL; None: what the processor has.
PROCESSORS: dict[str, tuple[str, str, str] | None] = {
    "as it is": None,
    "AVX2": ("avx2", "AVX2", "AVX2"),
    "SSE": ("default", "SSE41", "SSE4_2"),
}
VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
#: Each at the rate of its default with class images, the highest that a default has.
METHODS = {"lora": {"learning_rate": 3e-3}, "dreambooth": {}}
FIGURES = ("quality", "subject_fidelity_scaled", "prompt_fidelity_scaled")


def one_run(method: str, subject: str, steps: int) -> dict[str, float]:
    """Trains and judges one run in this process; its figures by name."""
    from trainables.run.execute import execute
    from trainables.run_config import RunConfig

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig.model_validate(
            {
                "method": method,
                "subject": {"name": subject},
                "training": {"max_train_steps": steps, **METHODS[method]},
                "device": "cpu",
                "output_dir": f"{folder}/run",
                "cache_dir": f"{folder}/cache",
            }
        )
        for _ in execute(config):
            pass
        result = json.loads(Path(folder, "run", "result.json").read_text())
    if result["state"] != "COMPLETE":
        raise RuntimeError(f"{method} on {subject}: {result}")
    return {name: result["evaluation"][name] for name in FIGURES}


def on_processor(
    widths: tuple[str, str, str] | None, method: str, subject: str, steps: int
) -> dict[str, float]:
    """The same in a process of its own, with vectors no wider than given."""
    limits = {} if widths is None else dict(zip(VARIABLES, widths, strict=True))
    command = [
        sys.executable,
        "-m",
        __spec__.name,
        "--subject",
        subject,
        "--steps",
        str(steps),
        "--run",
        method,
    ]
    done = subprocess.run(
        command, env=os.environ | limits, stdout=subprocess.PIPE, text=True, check=True, timeout=3600
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: a Markdown table of figures and of their differences from this processor's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedded_processors", description=__doc__)
    parser.add_argument("--subject", default="dog-1")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--run", choices=METHODS, help="only this run, in this process; its figures as JSON")
    given = parser.parse_args(arguments)
    if given.run:
        print(json.dumps(one_run(given.run, given.subject, given.steps)))
        return
    print(
        f"| {given.subject}, {given.steps} steps | processor | {' | '.join(FIGURES)} | quality, difference |"
    )
    print(f"|---|---|{'--:|' * (len(FIGURES) + 1)}", flush=True)
    for method in METHODS:
        own: float | None = None
        for name, widths in PROCESSORS.items():
            figures = on_processor(widths, method, given.subject, given.steps)
            own = figures["quality"] if own is None else own
            cells = [f"{figures[figure]:.4f}" for figure in FIGURES]
            print(
                f"| {method} | {name} | {' | '.join(cells)} | {figures['quality'] - own:+.1e} |", flush=True
            )


if __name__ == "__main__":
    main()
