"""A long measurement goes on where it was stopped, and trusts no line that was cut off."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.finished_runs import FinishedRuns

KEYS = [{"name": name, "seed": seed} for name in ("a", "b") for seed in (0, 1)]


def _squares(seen: list[Any], stop_at: int | None = None) -> Any:
    def measure(missing: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        for key in missing:
            if len(seen) == stop_at:
                raise KeyboardInterrupt
            seen.append(key)
            yield {"value": ord(key["name"]) + key["seed"] ** 2}

    return measure


def test_only_what_is_missing_is_measured(tmp_path: Path) -> None:
    path, seen = tmp_path / "deep" / "runs.jsonl", []  # type: ignore[var-annotated]
    with pytest.raises(KeyboardInterrupt):
        FinishedRuns(path, ("name", "seed")).complete(KEYS, _squares(seen, stop_at=2))
    assert len(path.read_text().splitlines()) == 2
    rows = FinishedRuns(path, ("name", "seed")).complete(KEYS, _squares(seen))
    assert seen == KEYS
    assert [row["value"] for row in rows] == [97, 98, 98, 99]
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows


@pytest.mark.parametrize("torn", ['{"name": "a", "se', '{"name": "a", "seed": 1, "value": 98}'])
def test_a_line_without_its_end_is_measured_again(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "runs.jsonl"
    FinishedRuns(path, ("name", "seed")).add({"name": "a", "seed": 0, "value": 1})
    whole = path.read_text()
    path.write_text(whole + torn)
    runs = FinishedRuns(path, ("name", "seed"))
    assert path.read_text() == whole + torn  # whoever only reads changes nothing
    assert runs.get(name="a", seed=0) == {"name": "a", "seed": 0, "value": 1}
    assert runs.get(name="a", seed=1) is None
    runs.add({"name": "a", "seed": 1, "value": 2})
    assert FinishedRuns(path, ("name", "seed")).get(name="a", seed=1) == {"name": "a", "seed": 1, "value": 2}
