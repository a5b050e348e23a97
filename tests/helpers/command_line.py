"""The command line, called in this process."""

from __future__ import annotations

import pytest

from study.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    printed = capsys.readouterr()
    return int(exit_.value.code or 0), printed.out, printed.err
