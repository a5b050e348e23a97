"""What this machine has and a study would miss on it, and what is wrong with the file of a cluster."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.preflight.machine import check_disk
from study.util.disk import free_bytes
from study.util.redaction import without_credentials
from trainables.training.optim import PACKAGES as OPTIMIZER_PACKAGES
from trainables.util.packages import versions_of
from trainables.util.process import expanded

PACKAGES = (
    "ray", "torch", "diffusers", "transformers", "peft", "accelerate", "optuna", "mlflow", "pandas", "safetensors",
)  # fmt: skip
OPTIONAL = {
    **{package: f"optimizer: {name}" for name, (package, _) in OPTIMIZER_PACKAGES.items()},
    "pynvml": "energy of GPU runs",
    "lpips": "LPIPS diversity",
    "psycopg2": "PostgreSQL ledger",
    "optuna_dashboard": "browsing the ledger",
}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report; `ok` None means: neither good nor bad, only said."""

    topic: str
    ok: bool | None
    text: str

    def row(self) -> dict[str, Any]:
        """The finding as a row to print."""
        return {"topic": self.topic, "ok": self.ok, "finding": self.text}


def examine(storage: Path) -> list[Finding]:
    """Examines Python, packages, devices, disk, loopback and the settings that are in force."""
    return [*_python(), *_packages(), *_devices(), *_disk(storage), *_network(), *_settings()]


def examine_deployment(path: Path) -> list[Finding] | None:
    """Checks the file of a cluster (`ray up`, KubeRay); None if the file is something else, such as a study.

    Raises:
        UserError: The file cannot be read or is not YAML.
    """
    from study.lint import lint_file

    faults = lint_file(path)
    if faults is None:
        return None
    errors = sum(fault.fatal for fault, _ in faults)
    found = [
        Finding(fault.rule, False if fault.fatal else None, f"{place}: {fault.message}")
        for fault, place in faults
    ]
    good = f"{path}: nothing is wrong" + (f"; {len(faults)} things to see to" if faults else "")
    return [*found, *([] if errors else [Finding("file", True, good)])]


def _python() -> list[Finding]:
    supported = (3, 11) <= sys.version_info[:2] <= (3, 12)
    remedy = "" if supported else "; use Python 3.11 or 3.12"
    return [Finding("python", supported, f"{sys.version.split()[0]}{remedy}")]


def _packages() -> list[Finding]:
    versions = versions_of(PACKAGES)
    findings = [
        Finding(name, name in versions, versions.get(name, "missing; run `make setup`")) for name in PACKAGES
    ]
    for name, use in OPTIONAL.items():
        there = importlib.util.find_spec(name) is not None
        findings.append(Finding(name, None, f"{'installed' if there else 'not installed'} (optional: {use})"))
    return findings


def _devices() -> list[Finding]:
    import torch

    cores = os.cpu_count() or 1
    findings = [Finding("cpu", True, f"{cores} cores, torch uses {torch.get_num_threads()} threads")]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            findings.append(
                Finding("gpu", True, f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
            )
    else:
        findings.append(Finding("gpu", None, "none; studies of the embedded model need none"))
    return findings


def _disk(storage: Path) -> list[Finding]:
    problems = check_disk(storage, 0)
    if problems:
        return [Finding("storage", False, problems[0])]
    free = free_bytes(storage)
    return [Finding("storage", True, f"{free / 2**30:.1f} GiB free at {storage}")]


def _network() -> list[Finding]:
    try:
        with socket.create_server(("127.0.0.1", 0)):
            return [Finding("loopback", True, "127.0.0.1 can be listened on")]
    except OSError as error:
        return [Finding("loopback", False, f"127.0.0.1 cannot be listened on: {error}")]


def _settings() -> list[Finding]:
    names = (
        "RAY_ADDRESS",
        "RAY_AUTH_MODE",
        "MLFLOW_TRACKING_URI",
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "CUDA_VISIBLE_DEVICES",
    )
    findings = [
        Finding(name, None, without_credentials(os.environ[name])) for name in names if name in os.environ
    ]
    token = expanded("~/.ray/auth_token")
    if token.exists():
        private = token.stat().st_mode & 0o077 == 0
        remedy = "private" if private else f"readable by others; run: chmod 600 {token}"
        findings.append(Finding("ray token", private, remedy))
    return findings
