"""`study submit`: hands a study to a cluster through Ray's job API, with what it needs, and follows its log."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from study.cluster.ray_cluster import token_mode, without
from study.lint.findings import LOOPBACK
from study.spec.loading import load_study
from study.spec.study_spec import StudySpec
from study.storage.layout import INPUTS, REPORTS, folder_problem
from study.submit.package import JobPackage, build_package
from study.util.network import connection_problem
from study.util.redaction import without_credentials
from trainables.errors import UserError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
# The only variables that go along; everybody who sees the dashboard can read them.
PASSED_ON = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
# The job API kills three seconds after it has asked to end; interrupted runs write a checkpoint first.
_STOP_SECONDS = "120"
_LOST_SECONDS = 300.0
DETACHED = 130


@dataclass(frozen=True)
class Submission:
    """What is asked of the cluster.

    Attributes:
        storage: Absolute folder that all nodes see, or a URL.
        reports: Folder of reports on the cluster; None: ``reports`` in the storage folder, no report with a URL.
        tracking_uri: MLflow as the cluster reaches it; None: the study file's, or what is set on the head.
        shared: Folders that the cluster sees under the same path as this machine.
        code: Whether the project's packages go along.
    """

    storage: str
    reports: str | None = None
    tracking_uri: str | None = None
    shared: tuple[str, ...] = ()
    code: bool = True


def submit_study(
    file: str,
    overrides: Sequence[str],
    asked: Submission,
    *,
    address: str = DEFAULT_ADDRESS,
    wait: bool = True,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> int:
    """Submits a study, and follows it to its end.

    Returns:
        The exit code of the job: that of `study launch` on the cluster; 0 with `wait` off; 130 if it was let go of.

    Raises:
        UserError: With every mistake that can be known here; nothing was submitted then.
    """
    problems = [*_storage_problems(asked), *_address_problems(address)]
    try:
        spec = load_study(file, overrides)  # refuses passwords, which anybody could read in the dashboard
    except UserError as error:
        raise UserError(
            *error.problems, *problems, *_uri_problems("--tracking-uri", asked.tracking_uri)
        ) from None
    for name, uri in (("--tracking-uri", asked.tracking_uri), ("tracking.uri", spec.tracking.uri)):
        problems += _uri_problems(name, uri)
    problems += _image_problems(spec)
    if problems:
        raise UserError(*problems)
    if urlsplit(address).scheme == "http" and urlsplit(address).hostname not in LOOPBACK:
        say(f"warning: the token travels to {address} unencrypted; use an SSH tunnel, or https")
    with token_mode(), without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        client = _client(address)
        with tempfile.TemporaryDirectory(prefix="study-submit-") as name:
            package = build_package(
                spec,
                Path(name),
                inputs=_inputs(asked.storage),
                shared=(asked.storage, *asked.shared),
                code=asked.code,
            )
            for source, place in package.shipped.items():
                say(f"shipped: {source} -> {place}")
            job = _send(client, package, asked)
        try:
            say(f"submitted: {job}")
            if not wait:
                say(_how_to_go_on(job, address, spec, asked))
                return 0
            return _follow(client, job, say)
        except KeyboardInterrupt:
            say(f"\nlet go of {job}, which goes on\n{_how_to_go_on(job, address, spec, asked)}")
            return DETACHED


# ---------------------------------------------------------------------- what can be known here


def _storage_problems(asked: Submission) -> Iterator[str]:
    remedy = (
        "write a folder that all nodes see, such as --storage /mnt/study, or a URL, such as s3://bucket/study"
    )
    shown = without_credentials(asked.storage)
    if not asked.storage:
        yield f"--storage is missing: the job's own folder is gone with the cluster; {remedy}"
    elif "://" in asked.storage:
        if shown != asked.storage:
            yield f"--storage {shown} holds a password, which anybody could read in the dashboard; {remedy}"
    elif not asked.storage.startswith("/"):
        yield f"--storage {shown} would lie in the job's own folder, which is gone with the cluster; {remedy}"
    elif asked.storage == "/tmp" or asked.storage.startswith("/tmp/ray"):
        yield f"--storage {shown} is a node's own folder, which is gone with it; {remedy}"
    elif problem := folder_problem(Path(asked.storage)):
        yield f"--storage {shown!r}: {problem}; {remedy}"
    if asked.reports is not None and not asked.reports.startswith("/"):
        where = "would lie in the job's own folder, which is gone with the cluster"
        yield f"--reports {asked.reports} {where}; write an absolute folder"


def _uri_problems(name: str, uri: str | None) -> Iterator[str]:
    """The entrypoint can be read by everybody who sees the dashboard, and is run on the cluster."""
    shown = without_credentials(uri or "")
    if shown != (uri or ""):
        yield (
            f"{name} {shown} holds a password, which anybody could read in the dashboard; leave it out and put it on "
            "the head: the variables MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    elif urlsplit(shown).hostname in LOOPBACK:
        yield (
            f"{name} {shown} means the head itself when it is used there; write the address that the head reaches "
            "MLflow at, or leave it out"
        )


def _image_problems(spec: StudySpec) -> list[str]:
    from study.preflight.checks import check_images

    return check_images(spec)


def _address_problems(address: str) -> list[str]:
    parts = urlsplit(address)
    tunnel = (
        "make a tunnel (`ray dashboard cluster.yaml`, kubectl port-forward) and give http://127.0.0.1:8265"
    )
    try:
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        host, port = None, None
    if parts.scheme not in ("http", "https") or host is None or port is None:
        return [
            f"jobs are taken by the dashboard, at an address such as {DEFAULT_ADDRESS}, got {address!r}; {tunnel}"
        ]
    problem = connection_problem(host, port)
    return [f"no dashboard answers at {address} ({problem}); {tunnel}"] if problem else []


def _inputs(storage: str) -> str:
    """Where photographs lie on the cluster; with storage by URL the driver takes them on from its own disk."""
    return f"~/.diffusion-study/{INPUTS}" if "://" in storage else f"{storage.rstrip('/')}/{INPUTS}"


# ---------------------------------------------------------------------- the job API


def _client(address: str) -> Any:
    try:
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise UserError(_without_extra()) from None
    _silence()
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise UserError(_token_problem(address, str(error))) from None
    except ConnectionError as error:
        raise UserError(f"no dashboard answers at {address}: {error}") from None
    except Exception as error:  # requests' own errors, and whatever another server at this port says
        if "ray[default]" in str(error):
            raise UserError(_without_extra()) from None
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"what answers at {address} takes no jobs: {without_credentials(first)[:200]}"
        ) from None


def _silence() -> None:
    """Ray's client tells of every file and every connection; each of its loggers has a level of its own."""
    for name in list(logging.Logger.manager.loggerDict):
        if name == "ray" or name.startswith("ray."):
            logging.getLogger(name).setLevel(logging.ERROR)


def _without_extra() -> str:
    return "study submit needs Ray's job client: pip install 'diffusion-study[cluster]'"


def _token_problem(address: str, error: str) -> str:
    remedy = "copy the cluster's into ~/.ray/auth_token (chmod 600), or set RAY_AUTH_TOKEN_PATH"
    if "Authentication required" in error or "no authentication token" in error:
        return f"the cluster at {address} asks for a token, and none was shown; {remedy}"
    return f"the cluster at {address} does not take our token; {remedy}"


def _send(client: Any, package: JobPackage, asked: Submission) -> str:
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    variables |= {"RAY_JOB_STOP_WAIT_TIME_S": _STOP_SECONDS, "PYTHONUNBUFFERED": "1"}
    job = f"study-{package.spec.name}-{secrets.token_hex(3)}"
    try:
        return str(
            client.submit_job(
                entrypoint=entrypoint(asked),
                submission_id=job,
                runtime_env={"working_dir": str(package.folder), "env_vars": variables},
                metadata={"study": package.spec.name},
            )
        )
    except (RuntimeError, ValueError, ConnectionError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"the cluster did not take the job: {without_credentials(first)[:300]}") from None


def entrypoint(asked: Submission) -> str:
    """Returns the command of the job."""
    words = ["python", "-m", "study.cli.submitted", "--storage", asked.storage]
    reports = asked.reports or (None if "://" in asked.storage else f"{asked.storage.rstrip('/')}/{REPORTS}")
    words += ["--reports", reports] if reports else ["--no-report"]
    words += ["--tracking-uri", asked.tracking_uri] if asked.tracking_uri else []
    return shlex.join(words)


def _follow(client: Any, job: str, say: Callable[[str], None]) -> int:
    """Prints the job's log until it ends; a connection that breaks is made again, and nothing is printed twice."""
    log = _Log()
    lost_since: float | None = None
    while True:
        try:
            if asyncio.run(_interrupted(log.follow(client, job))):
                raise KeyboardInterrupt
            info = client.get_job_info(job)
            lost_since = None
        except Exception as error:  # whatever a tunnel that closes leads to
            lost_since = lost_since or time.monotonic()
            if time.monotonic() - lost_since > _LOST_SECONDS:
                raise UserError(
                    f"the cluster cannot be reached any more ({error}); {job} may go on there: make the tunnel again"
                ) from None
            time.sleep(2.0)
            continue
        if info.status.is_terminal():
            return _exit_code(info, job, say)
        time.sleep(1.0)


async def _interrupted(work: Coroutine[Any, Any, None]) -> bool:
    """Works until the end or the first SIGINT; returns whether it came.

    As an exception, which Python raises wherever it happens to be, it would be lost in a destructor or a callback.
    """
    task = asyncio.ensure_future(work)
    if threading.current_thread() is not threading.main_thread():
        await task
        return False
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    loop.add_signal_handler(signal.SIGINT, asked.set)
    waiting = asyncio.ensure_future(asked.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        waiting.cancel()
    if not asked.is_set():
        await task
        return False
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return True


class _Log:
    """A job's log, as far as it was printed; the cluster sends it from its beginning each time."""

    def __init__(self) -> None:
        self._printed = 0

    async def follow(self, client: Any, job: str) -> None:
        """Prints what is new, until the cluster has no more."""
        seen = 0
        async for text in client.tail_job_logs(job):
            fresh = text[max(0, self._printed - seen) :]
            seen += len(text)
            self._printed = max(self._printed, seen)
            sys.stdout.write(fresh)
            sys.stdout.flush()


def _exit_code(info: Any, job: str, say: Callable[[str], None]) -> int:
    if info.driver_exit_code is not None:
        code = int(info.driver_exit_code)
        return code if code >= 0 else 128 - code
    if str(info.status) != "SUCCEEDED":
        say(f"{job}: {info.status}: {(info.message or 'no reason is known').strip().splitlines()[0]}")
        return 1
    return 0


def _how_to_go_on(job: str, address: str, spec: StudySpec, asked: Submission) -> str:
    where = f"--address {address}"
    status = shlex.join(["study", "status", spec.name, "--storage", asked.storage])
    return "\n".join(
        [
            f"  follow:  ray job logs {job} --follow {where}",
            f"  status:  ray job status {job} {where}",
            f"           {status}   (from anywhere that sees it)",
            f"  stop:    ray job stop {job} {where}   (running runs keep their checkpoints; submit again to go on)",
        ]
    )
