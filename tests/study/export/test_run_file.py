"""A run's configuration as a file of its own: it loads to the same configuration, and says no default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from study.export.run_file import write_run_file
from study.storage.layout import Storage
from trainables.__main__ import load_run
from trainables.errors import UserError
from trainables.run_config import RunConfig

RUN = "confirm/x/0000-cat-1-s1"


def storage_with(tmp_path: Path, **fields: Any) -> tuple[Storage, RunConfig]:
    storage = Storage(tmp_path / "storage", "mine")
    folder = storage.runs / RUN
    config = RunConfig.model_validate(
        {"subject": {"name": "cat-1"}, "output_dir": str(folder), "cache_dir": str(storage.cache), **fields}
    )
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(config.model_dump_json())
    return storage, config


@pytest.mark.parametrize(
    ("method", "training"),
    [
        ("lora", {}),
        ("lora", {"r": 4, "learning_rate": 2e-3, "with_prior_preservation": True}),
        ("dreambooth", {"with_prior_preservation": False, "lr_scheduler": "cosine"}),
        ("dreambooth", {"adam_epsilon": 1e-6, "text_encoder_learning_rate": 1e-4}),
        ("hypernetwork", {"layer_structure": [1, 2, 2, 1]}),
        ("text_to_image", {"trains": "full"}),
    ],
)
def test_it_loads_to_the_same_training(tmp_path: Path, method: str, training: dict[str, Any]) -> None:
    storage, config = storage_with(tmp_path, method=method, training=training, seed=7)
    out = tmp_path / "out" / "best.yaml"
    write_run_file(storage, RUN, out)
    again = load_run(out)
    assert again.training == config.training
    assert (again.method, again.model, again.subject, again.seed) == (
        config.method, config.model, config.subject, 7,
    )  # fmt: skip
    assert len(out.read_text().splitlines()) < 25, "what is a default is not written"


def test_notes_stand_in_the_comment_at_its_head(tmp_path: Path) -> None:
    storage, config = storage_with(tmp_path, method="lora")
    out = tmp_path / "best.yaml"
    notes = (
        "Each search chose another.",
        "The mean holds for choosing by a search, not for this configuration. " * 3,
    )
    write_run_file(storage, RUN, out, notes)
    head = [line for line in out.read_text().splitlines() if line.startswith("#")]
    assert " ".join(notes).strip() in " ".join(line.removeprefix("# ") for line in head)
    assert max(map(len, head)) <= 115
    assert load_run(out).training == config.training


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    storage, _ = storage_with(tmp_path, method="lora")
    out = tmp_path / "best.yaml"
    out.write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        write_run_file(storage, RUN, out)
    assert out.read_text() == "mine"
    with pytest.raises(UserError, match="the record of confirm/y"):
        write_run_file(storage, "confirm/y/0000-cat-1-s1", tmp_path / "other.yaml")
