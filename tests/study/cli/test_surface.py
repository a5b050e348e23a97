"""The command line's surface stands still: a new knob belongs into the study file, not on the command line.

`surface.txt` was written from the code as it was before its modules were put into packages. Whoever means to change the
surface changes that file in the same commit, so that the change is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from study.cli.main import app
from study.export import foreign
from study.monitor import status
from tests.helpers.cli_surface import surface


def test_every_command_option_default_and_help_is_as_it_was() -> None:
    assert surface(app) == Path(__file__).with_name("surface.txt").read_text()


@pytest.mark.parametrize(
    ("printed", "columns"),
    [
        (
            status.ARMS_COLUMNS,
            "arm phase planned complete running pruned failed best_quality interrupted pending mean_quality",
        ),
        (status.NODES_COLUMNS, "node alive running ended lost last_sign cpus gpus"),
        (
            status.RUNNING_COLUMNS,
            "run state node attempt doing step steps percent steps_per_second last_sign",
        ),
        (status.RUNS_COLUMNS, "run state node attempts best_step reason last_sign"),
        (status.FAILED_COLUMNS, "run node attempt reason message"),
        (
            foreign.COLUMNS,
            "arm subject seed state quality subject_fidelity_scaled prompt_fidelity_scaled class_kept sha256 message",
        ),
    ],
)
def test_columns_that_programs_read_are_as_they_were(printed: Sequence[str], columns: str) -> None:
    """`study status` and `study evaluate` with `--format json` and `csv`."""
    assert " ".join(printed) == columns
