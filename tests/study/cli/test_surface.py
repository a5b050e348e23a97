"""The command line's surface stands still: a new knob belongs into the study file, not on the command line.

`surface.txt` was written from the code as it was before its modules were put into packages. Whoever means to change the
surface changes that file in the same commit, so that the change is seen.
"""

from __future__ import annotations

from pathlib import Path

from study.cli.main import app
from tests.helpers.cli_surface import surface


def test_every_command_option_default_and_help_is_as_it_was() -> None:
    assert surface(app) == Path(__file__).with_name("surface.txt").read_text()
