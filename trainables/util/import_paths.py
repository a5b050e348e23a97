"""Which folders a process imports from: never the one it happens to be started in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_PROJECT = str(Path(__file__).resolve().parents[2])
_INSTALLED = (
    "site-packages",
    "dist-packages",
)  # as pip and Debian name them; every process finds these by itself


def import_folders() -> list[str]:
    """Returns the absolute folders that a process of this project needs beside what is installed.

    Those are what PYTHONPATH names, and the folder of this project where it was found in a clone. An empty entry of
    PYTHONPATH names nothing: Python takes the working folder for it, mostly for want of a variable's value.
    """
    named = [os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    found = os.path.basename(_PROJECT) not in _INSTALLED and _PROJECT in map(os.path.realpath, sys.path)
    return list(dict.fromkeys([*named, *([_PROJECT] if found else [])]))


def import_settings() -> dict[str, str]:
    """Returns the environment variables by which a Python that is started imports what this process does."""
    return {"PYTHONPATH": os.pathsep.join(import_folders()), "PYTHONSAFEPATH": "1"}


def forget_working_folder() -> None:
    """Lets a command of this project import nothing from the folder it was started in, unless that was meant.

    A file ``peft.py`` or ``random.py`` there would otherwise be taken for the package.
    """
    try:
        here = os.getcwd()
    except OSError:  # it was removed
        return
    installed = os.path.basename(here) in _INSTALLED or here == os.path.dirname(os.__file__)
    if not installed and here not in import_folders():
        sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
