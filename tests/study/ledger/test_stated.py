"""Hypotheses in the ledger: when each was first stated, whatever later study files say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy

from study.ledger.ledger import Ledger
from study.ledger.stated import state_hypotheses, stated_hypotheses, stated_in
from study.spec.hypotheses import Hypothesis, Statement, statement_of
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from tests.helpers.ledgers import arm_search, opened


def statement(name: str, limit: float = 0) -> Statement:
    fields: dict[str, Any] = {
        "claim": "c",
        "measure": "quality",
        "value": "lora",
        "expect": {"more_than": limit},
    }
    return statement_of(name, Hypothesis.model_validate(fields), ["lora"], lambda *_: [])


def test_what_is_stated_before_the_first_trial_is_told_from_what_comes_later(fast_path: Path) -> None:
    url, arm = f"sqlite:///{fast_path / 'ledger.db'}", arm_search()
    ledger = opened(url, arm)
    assert state_hypotheses(ledger, [statement("a"), statement("b")]) == []
    for _ in range(3):
        ledger.tell(ledger.ask(arm), "COMPLETE", [0.5])
    again = Ledger(url, "sweep")
    (line,) = state_hypotheses(again, [statement("a"), statement("b", 1.0)])
    assert "hypothesis 'b' is stated after 3 trials" in line
    assert state_hypotheses(again, [statement("b", 1.0)]) == [], "only once"
    found = [(one.statement, one.trials) for one in stated_hypotheses(Ledger(url, "sweep"))]
    assert sorted(found, key=lambda one: (one[1], one[0].name)) == [
        (statement("a"), 0),
        (statement("b"), 0),
        (statement("b", 1.0), 3),
    ]


def test_a_ledger_that_cannot_be_read_says_nothing_and_stops_no_report(
    fast_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = StudySpec.model_validate(
        {"name": "sweep", "subjects": ["cat-1", "dog-1"], "arms": {"lora": {"method": "lora"}}}
    )
    storage = Storage(fast_path, "sweep")
    assert stated_in(spec, storage) == []
    assert not storage.folder.exists(), "looking makes no ledger"
    storage.folder.mkdir()
    state_hypotheses(opened(storage.ledger_url, arm_search()), [statement("a")])
    assert [one.statement.name for one in stated_in(spec, storage)] == ["a"]

    def damaged(*_: Any) -> None:
        raise sqlalchemy.exc.OperationalError("SELECT", {}, Exception("malformed"))

    monkeypatch.setattr(Ledger, "notes", damaged)
    assert stated_in(spec, storage) == []


def test_the_digest_is_there_for_any_optuna_tool(fast_path: Path) -> None:
    url = f"sqlite:///{fast_path / 'ledger.db'}"
    state_hypotheses(opened(url, arm_search()), [statement("a")])
    attributes = optuna.load_study(study_name="sweep/lora", storage=url).user_attrs
    name = f"hypothesis {statement('a').digest[:16]}"
    assert attributes[name]["trials"] == 0
    assert attributes[name]["statement"]["name"] == "a"
