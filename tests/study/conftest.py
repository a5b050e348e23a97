"""Fixtures of the study's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.support.s3_server import CREDENTIALS, Proxy, proxy, s3_server


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """The port of an S3 server with an empty bucket."""
    with s3_server() as port:
        yield port


@pytest.fixture
def s3(s3_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Proxy]:
    """A proxy before the S3 server, with credentials in the environment and working copies in the test's folder."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STUDY_WORKING_COPIES", str(tmp_path / "copies"))
    monkeypatch.setenv("STUDY_SCRATCH", str(tmp_path / "scratch"))
    with proxy(s3_port) as found:
        yield found
