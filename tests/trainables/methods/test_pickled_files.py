"""Files that may hold code are refused in words of our own, unopened, wherever weights are read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.errors import UserError
from trainables.methods.foreign_files import inspect
from trainables.methods.hypernetwork_files import load_hypernetwork


class Code:
    """Would make a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def module_of(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)


def program_of(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)  # type: ignore[no-untyped-call]


def text_of(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1")


def cut_of(path: Path) -> None:
    torch.save({"a": torch.ones(9)}, path)
    path.write_bytes(path.read_bytes()[:99])


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("read", [inspect, lambda path: load_hypernetwork(None, path)])
@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: torch.save({"string_to_param": {"*": Code(path.parent / "made")}}, path), "would call"),
        (module_of, "would call torch.nn.modules.linear.Linear"),
        (program_of, "holds a program"),
        (text_of, "is damaged, or "),
        (cut_of, "is damaged, or "),
    ],
)
def test_what_is_no_plain_file_is_refused_without_advice_to_run_it(
    write: Callable[[Path], None], said: str, read: Callable[[Path], Any], tmp_path: Path
) -> None:
    write(tmp_path / "x.pt")
    with pytest.raises(UserError) as error:
        read(tmp_path / "x.pt")
    (problem,) = error.value.problems
    assert said in problem
    assert ("take the weights as .safetensors" in problem) == ("damaged" not in problem)
    assert "weights_only" not in problem
    assert "\n" not in problem
    assert not (tmp_path / "made").exists()
