"""Where results come from: code, versions and machine. No paths, no user or host names, no secrets."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.util.packages import versions_of

PACKAGES = (
    "diffusion-study", "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "ray",
    "optuna", "mlflow", "numpy", "scipy", "pandas", "matplotlib",
)  # fmt: skip


@dataclass(frozen=True)
class GitState:
    """A commit and whether the work tree differs from it (untracked files count)."""

    commit: str
    dirty: bool


def git_state(folder: Path | None = None) -> GitState | None:
    """Returns the state of `folder`'s checkout; default: of the project's own, else of the working folder's.

    None outside a git checkout and where git is missing.
    """
    package = Path(__file__).parent
    # An installed package may lie in another project's checkout (in its .venv): only tracked code counts.
    if folder is None and _git(package, "ls-files", "--error-unmatch", Path(__file__).name) is not None:
        folder = package
    folder = Path.cwd() if folder is None else folder
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return GitState(commit, bool(_git(folder, "status", "--porcelain")))


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def package_versions() -> dict[str, str]:
    """Returns the versions of the packages that results depend on, and of Python; imports none of them."""
    return {"python": platform.python_version(), **versions_of(PACKAGES)}


def machine() -> dict[str, Any]:
    """Describes this machine: system, processor, cores, memory (bytes) and GPU names."""
    import psutil

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": _gpus(),
    }


def _processor() -> str | None:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return platform.processor() or None
    return match.group(1).strip() if match else platform.processor() or None


def _gpus() -> list[str]:
    """Names from NVIDIA's driver; asking torch would start CUDA in the driver process."""
    names = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        match = re.search(r"^Model:\s*(.+)$", path.read_text(), re.MULTILINE)
        if match:
            names.append(match.group(1).strip())
    return names
