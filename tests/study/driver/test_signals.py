"""SIGTERM during a launch reaches the study and nobody else: Ray would abort the process three seconds later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.helpers.ray_head import DEADLINE, user_environment

CODE = """
import os, signal, time

asked = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
from study.cluster.ray_cluster import cluster

with cluster(cpus=1):
    os.kill(os.getpid(), signal.SIGTERM)
    until = time.monotonic() + 4  # Ray's alarm comes after three
    while time.monotonic() < until:
        time.sleep(0.1)
print(asked)
"""


def test_a_process_that_uses_ray_outlives_sigterm_and_is_told_of_it(tmp_path: Path) -> None:
    environment = user_environment(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[15]\n"
    assert "SIGTERM received" not in done.stderr
