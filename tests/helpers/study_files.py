"""Study files for tests, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from study.spec.loading import load_study
from trainables.errors import UserError


def study_dict(**changes: Any) -> dict[str, Any]:
    """A sound study with top-level keys replaced; None removes one."""
    content = {
        "name": "small",
        "subjects": ["cat-1", "dog-1", "bird-1"],
        "training": {"lr_warmup_steps": 5},
        "arms": {
            "base": {"method": "base"},
            "cosine": {"method": "lora", "lr_scheduler": "cosine"},
            "full": {"method": "dreambooth"},
        },
        "search": {"trials": 3},
        "confirm": {"seeds": [100, 101]},
        "budget": {"max_train_steps": 50},
        **changes,
    }
    return {key: value for key, value in content.items() if value is not None}


def problems(tmp_path: Path, content: dict[str, Any] | str) -> list[str]:
    """Loads what must be refused; returns the messages."""
    file = tmp_path / "study.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(UserError) as error:
        load_study(file)
    return list(error.value.problems)


def only(tmp_path: Path, content: dict[str, Any] | str) -> str:
    """The same for exactly one problem."""
    found = problems(tmp_path, content)
    assert len(found) == 1, found
    return found[0]
