"""deploy/slurm.sh and deploy/bare.sh are run for real on this machine: Slurm's own commands are stood in for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from benchmarks.support.ports import free_ports
from tests.helpers.ray_head import DEADLINE, ROOT, end_processes_of, user_environment

SRUN = """#!/bin/bash
# Runs the command here, as a node would; notes what it was asked for.
printf '%s\\n' "$*" >> "$HOME/srun.log"
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
case "$1" in
    show) tr ',' '\\n' <<< "$3" ;;
    requeue) echo "$2" > "$HOME/requeued" ;;
esac
"""
RESOURCES = "import ray, sys; ray.init(sys.argv[1]); print(ray.cluster_resources())"
STUDY = {
    "name": "on-slurm",
    "subjects": ["cat-1"],
    "arms": {"base": {"method": "base"}},
    "confirm": {"subjects": ["cat-1"], "seeds": [100]},
    "budget": {"max_train_steps": 2},
    "evaluation": {
        "at": [],
        "images_per_prompt": 1,
        "num_inference_steps": 2,
        "anchor_images": 2,
        "prompts": ["{subject}", "a {subject}"],
    },
}


@pytest.fixture
def home() -> Iterator[Path]:
    """A user's home with the commands of Slurm; whatever lives in it is ended."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    try:
        (folder / "bin").mkdir()
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("study", wrapper("study.cli"))):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
        yield folder
    finally:
        end_processes_of(folder)
        shutil.rmtree(folder, ignore_errors=True)


def wrapper(module: str) -> str:
    return f'#!/bin/bash\nexec {sys.executable} -m {module} "$@"\n'


def batch(home: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    """Starts the script as sbatch would: a process group of its own, with Slurm's variables."""
    job = str(free_ports(1)[0])
    environment = user_environment(
        home, SLURM_JOB_ID=job, SLURM_JOB_NODELIST="node1", SLURM_CPUS_PER_TASK="1", **more
    )
    environment["PATH"] = f"{home / 'bin'}{os.pathsep}{environment['PATH']}"
    return subprocess.Popen(
        ["bash", str(ROOT / "deploy" / "slurm.sh"), *words],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=home, start_new_session=True,
    )  # fmt: skip


def left_behind(home: Path) -> list[str]:
    """Command lines of the processes that still live in a home; they get a moment to end."""
    deadline = time.monotonic() + 60
    while True:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline())[:80])
            except (psutil.Error, OSError):
                continue
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


@pytest.mark.slow
def test_a_study_runs_under_slurm_and_nothing_is_left_behind(home: Path) -> None:
    process = batch(home, "study.yaml", "--storage", str(home / "shared"))
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, out + err
    assert "Ray: 1 nodes with 1 CPUs and 0 GPUs each" in err
    (result,) = (home / "shared").glob("on-slurm/runs/*/*/*/result.json")
    assert json.loads(result.read_text())["state"] == "COMPLETE"
    steps = (home / "srun.log").read_text().splitlines()
    heads = [step for step in steps if "--head" in step]
    workers = [step for step in steps if "--address=" in step]
    assert len(heads) == 1
    assert "--num-cpus=0" in heads[0]
    assert len(workers) == 1
    assert "--num-cpus=1" in workers[0]
    assert not list(home.glob(".diffusion-study/slurm-*")), "the token is gone with the job"
    assert left_behind(home) == []


LAUNCH = """#!/bin/bash
# Goes on until it is asked to end, as a study does.
trap 'echo "to go on, run the same command again"; exit 1' TERM
touch "$HOME/launched"
while :; do sleep 0.1; done
"""


def test_a_job_whose_time_is_over_ends_in_order_and_queues_again(home: Path) -> None:
    """Without Ray: only the script's own part, what it does on Slurm's signal and what becomes of the token."""
    python = f'#!/bin/bash\ncase "$*" in *GcsClient*) echo 99 ;; *) exec {sys.executable} "$@" ;; esac\n'
    for name, text in (("study", LAUNCH), ("ray", "#!/bin/bash\nexec sleep 600\n"), ("python", python)):
        (home / "bin" / name).write_text(text)
        (home / "bin" / name).chmod(0o755)
    process = batch(home, "study.yaml", "--storage", str(home / "shared"))
    deadline = time.monotonic() + DEADLINE
    while not (home / "launched").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (token,) = home.glob(".diffusion-study/slurm-*/token")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    secret = token.read_text()
    assert len(secret) == 64
    for running in psutil.process_iter():
        try:
            assert secret not in " ".join(running.cmdline())
        except psutil.Error:
            continue
    os.kill(process.pid, signal.SIGUSR1)  # before the end, to the script alone
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert "run the same command again" in out
    assert secret not in out + err
    assert (home / "requeued").exists()
    assert not token.parent.exists()
    assert left_behind(home) == []


def test_outside_of_slurm_it_says_where_to_go(home: Path) -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "deploy" / "slurm.sh"), "study.yaml"],
        env=user_environment(home), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert "deploy/bare.sh" in done.stderr


@pytest.mark.slow
def test_bare_machines(home: Path) -> None:
    """The token is made and guarded; head and worker start, and stop."""
    address = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()[0]
    (port,) = free_ports(1)
    environment = user_environment(home, STUDY_RAY_PORT=str(port), RAY_TMPDIR=str(home / "r"))
    (home / "r").mkdir()

    def bare(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(ROOT / "deploy" / "bare.sh"), *words]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=DEADLINE, cwd=home
        )

    assert bare().returncode == 2
    refused = bare("head", address)
    assert refused.returncode == 2
    assert "no token" in refused.stderr
    made = bare("token")
    assert made.returncode == 0, made.stderr
    token = home / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert bare("token").returncode == 2, "a token that is in use is not replaced"
    token.chmod(0o644)
    assert "chmod 600" in bare("worker", address).stderr
    token.chmod(0o600)
    started = bare("head", address)
    assert started.returncode == 0, started.stdout + started.stderr
    resources = subprocess.run(
        [sys.executable, "-c", RESOURCES, f"{address}:{port}"],
        env={**environment, "RAY_AUTH_MODE": "token"}, capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip
    assert resources.returncode == 0, resources.stderr
    assert "'CPU'" not in resources.stdout, "no run trains on the head"
