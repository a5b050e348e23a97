"""Tables for people: nothing is cut, and what does not fit the terminal is told in blocks."""

from __future__ import annotations

import pytest

from study.util.printing import print_blocks

ROWS = [
    {"arm": "one", "method": "lora", "search": 1, "learning_rate": 1e-3, "r": 8},
    {"arm": "one", "method": "lora", "search": 2, "learning_rate": 2e-3, "r": 4},
    {"arm": "two", "method": "dreambooth", "search": 1, "learning_rate": 3e-3, "prior_loss_weight": 0.25},
]
COLUMNS = ["arm", "method", "search", "learning_rate", "r", "prior_loss_weight"]


def test_a_table_that_fits_is_one_and_a_wider_one_is_told_by_arm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_blocks(ROWS, COLUMNS, ["arm", "method"])
    text = capsys.readouterr().out
    assert text.count("learning") == 1
    assert text.count("--") == 3, "what another arm has"

    monkeypatch.setenv("COLUMNS", "40")
    print_blocks(ROWS, COLUMNS, ["arm", "method"])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 40
    assert [line for line in lines if line.startswith("arm ")] == [
        "arm one, method lora",
        "arm two, method dreambooth",
    ]
    first, second = "\n".join(lines).split("\n\n")
    assert "--" not in first + second
    assert "weight" not in first
    assert ["2", "0.002", "4"] in [line.split() for line in first.splitlines()]
    assert ["1", "0.003", "0.25"] in [line.split() for line in second.splitlines()]
