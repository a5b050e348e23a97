"""A few real runs in one warm actor leave nothing behind: no open file, no thread, no object, no memory to speak of.

A few runs show two files, threads or objects a run that stay; those of the night show one, and memory.
`benchmarks/soak.py` does the same at length, and lays lines through what it sees.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import lines, soak
from trainables.methods.registry import method_names

WARM_UP = 0.3
OF_ONE_RUN = 6  # files and threads that a run has open while it lasts, and a look may catch


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, pytest.param(4, marks=pytest.mark.nightly)])
def test_warm_actors_and_driver_stay_as_they_are(times: int, tmp_path: Path) -> None:
    runs = times * len(method_names())
    found = soak(runs, 1, tmp_path, warm_up=WARM_UP)
    assert (found["runs"], found["processes"]) == (runs, 1)
    seen = {line.name: line for line in lines(found["samples"], runs, WARM_UP)}
    assert any(name.startswith("actor") for name in seen)
    for name in seen:
        values = [
            (sample.runs, sample.values[name])
            for sample in found["samples"]
            if name in sample.values and WARM_UP * runs <= sample.runs < runs
        ]
        # The least of the first and of the last looks, of 9 runs four apart or more: two a run that stay would show.
        third = max(1, len(values) // 3)
        growth = min(value for _, value in values[-third:]) - min(value for _, value in values[:third])
        if name.endswith(("/files", "/threads", "/objects")):
            assert growth <= OF_ONE_RUN, f"{name} grew by {growth:g} in {values[-1][0] - values[0][0]} runs"
        if name.startswith("actor") and name.endswith("/MiB"):
            assert growth <= 15, f"{name} grew by {growth:.1f}"
