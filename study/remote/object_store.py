"""Objects under a URL (``s3://bucket/prefix``, ``gs://...``) as bytes and files: put, get, list, delete.

An object is there as a whole or not at all, and none is ever changed in part: what must be kept consistent is
written first, and what refers to it last. Credentials come from the environment, the user's files or the
machine's role, as the store's own tools find them; never from a study's configuration.

Every call may last: a store that does not answer is tried again with growing pauses until `patience` seconds have
passed, and then a `StoreError` names it.
"""

from __future__ import annotations

import builtins
import contextlib
import random
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from study.storage.layout import PROBE
from trainables.util.files import replacing

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 10.0
TRIES_AT_ONCE = 2  # by the store's own client, before this module's pauses begin
PATIENCE_SECONDS = 60.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
_CHUNK = 8 * 2**20


class StoreError(OSError):
    """The object store could not be used, after all tries; the message names it."""


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing says of an object: `size` in bytes, `modified` by the store's clock (seconds since the epoch)."""

    size: int
    modified: float


class ObjectStore:
    """The objects under one URL; keys are relative to it. May be used from several threads.

    Args:
        url: As `sound_url` gives it.
        patience: Seconds for which a call tries again when the store fails; 0 tries once.

    Attributes:
        requests: How many calls of each kind were made (``put``, ``get``, ``list``, ``delete``); a get counts as
            the two requests it is (its size, its content), as does every further part of a large put.
    """

    def __init__(self, url: str, *, patience: float = PATIENCE_SECONDS) -> None:
        self.url = url
        self.patience = patience
        self.requests: Counter[str] = Counter()
        self._files, self._base = _open(url)
        self._closing = threading.Event()

    def put(self, key: str, content: bytes) -> None:
        """Writes an object, replacing one of the same key."""

        def write() -> None:
            self.requests["put"] += 1
            with self._writing(key) as stream:
                stream.write(content)

        self._try("write", key, write)

    def put_file(self, key: str, path: Path) -> None:
        """Writes the content of a file as an object; FileNotFoundError if the file is gone."""

        def write() -> None:
            parts = path.stat().st_size // _CHUNK
            self.requests["put"] += 1 + (parts + 2 if parts else 0)
            with path.open("rb") as file, self._writing(key) as stream:
                shutil.copyfileobj(file, stream, _CHUNK)

        self._try("write", key, write)

    def get(self, key: str) -> bytes | None:
        """Returns an object's content, or None if there is none."""

        def read() -> bytes | None:
            self.requests["get"] += 1
            try:
                stream = self._files.open_input_stream(f"{self._base}/{key}", compression=None)
            except FileNotFoundError:
                return None
            self.requests["get"] += 1
            with stream:
                return bytes(stream.read())

        found: bytes | None = self._try("read", key, read)
        return found

    def get_file(self, key: str, path: Path) -> bool:
        """Writes an object's content to a file in one step; returns whether there was such an object."""

        def read() -> bool:
            self.requests["get"] += 1
            try:
                stream = self._files.open_input_stream(f"{self._base}/{key}", compression=None)
            except FileNotFoundError:
                return False
            self.requests["get"] += 1
            path.parent.mkdir(parents=True, exist_ok=True)
            with stream, replacing(path, durable=False) as partial, partial.open("wb") as file:
                shutil.copyfileobj(stream, file, _CHUNK)
            return True

        return bool(self._try("read", key, read))

    def list(self, prefix: str = "") -> dict[str, ObjectInfo]:
        """Returns all objects whose keys begin with ``prefix/``, by key; a thousand cost one request."""
        from pyarrow.fs import FileSelector, FileType

        folder = f"{self._base}/{prefix}".rstrip("/")

        def read() -> dict[str, ObjectInfo]:
            found = {}
            self.requests["list"] += 1
            for info in self._files.get_file_info(FileSelector(folder, recursive=True, allow_not_found=True)):
                if info.type == FileType.File:
                    key = info.path.removeprefix(self._base + "/")
                    found[key] = ObjectInfo(info.size, (info.mtime_ns or 0) / 1e9)
            self.requests["list"] += len(found) // 1000
            return found

        found: dict[str, ObjectInfo] = self._try("list", prefix, read)
        return found

    def folders(self) -> builtins.list[str]:
        """Returns the first parts of all keys that have several."""
        from pyarrow.fs import FileSelector, FileType

        def read() -> builtins.list[str]:
            self.requests["list"] += 1
            found = self._files.get_file_info(FileSelector(self._base, allow_not_found=True))
            return sorted(info.base_name for info in found if info.type == FileType.Directory)

        names: builtins.list[str] = self._try("list", "", read)
        return names

    def delete_under(self, prefix: str) -> None:
        """Deletes all objects whose keys begin with ``prefix/``; none being there is no error."""

        def remove() -> None:
            self.requests["delete"] += 4
            with contextlib.suppress(FileNotFoundError):
                self._files.delete_dir(f"{self._base}/{prefix}")

        self._try("delete", prefix, remove)

    def close(self) -> None:
        """Ends the pauses of calls that are being tried again: each fails at once."""
        self._closing.set()

    def _writing(self, key: str) -> Any:
        return self._files.open_output_stream(f"{self._base}/{key}", compression=None)

    def _try(self, verb: str, key: str, call: Callable[[], Any]) -> Any:
        """Calls until it succeeds, the error is one that stays, or patience is at its end."""
        until = time.monotonic() + self.patience
        pause = FIRST_PAUSE
        while True:
            try:
                return call()
            except FileNotFoundError as error:
                if verb == "write" and not _is_missing_bucket(error):
                    raise
                raise StoreError(self._words(verb, key, error)) from None
            except OSError as error:
                if not _may_pass(error) or time.monotonic() + pause > until or self._closing.is_set():
                    raise StoreError(self._words(verb, key, error)) from None
            self._closing.wait(pause * random.uniform(0.75, 1.25))
            pause = min(LONGEST_PAUSE, pause * 2)

    def _words(self, verb: str, key: str, error: OSError) -> str:
        return f"storage {self.url}: cannot {verb} {key or 'it'}: {reason_of(error)}"


def store_problem(url: str, *, seconds: float = 30.0) -> str | None:
    """Writes, reads and lists a small object; returns what is wrong with the store, and the remedy, or None.

    A store that hangs is given up after about `seconds`.
    """
    answer: list[str | None] = []
    thread = threading.Thread(target=lambda: answer.append(_probe(url)), daemon=True)
    thread.start()
    thread.join(seconds)
    if answer:
        return answer[0]
    return (
        f"the storage {url} did not answer within {seconds:g} seconds; check its address, network and proxy"
    )


def _probe(url: str) -> str | None:
    try:
        store = ObjectStore(url, patience=0)
        # One object of a fixed name: a bucket is not littered, and nobody needs the right to delete.
        store.put(PROBE, b"diffusion-study")
        if store.get(PROBE) is None:
            return f"the storage {url} does not return what was written to it; it cannot hold a study"
        store.list(f"{PROBE}-of-listing")
    except (OSError, ValueError) as error:
        return f"the storage {url} cannot be used: {reason_of(error)}; {_remedy(str(error))}"
    return None


def _open(url: str) -> tuple[Any, str]:
    """Returns the file system of a URL and the path of its prefix there."""
    from pyarrow import fs

    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    if parts.scheme == "gs":
        files, base = fs.FileSystem.from_uri(url)
        return files, base.rstrip("/")
    # The client would otherwise look for the credentials of a virtual machine, for seconds, on any machine.
    files = fs.S3FileSystem(
        **options,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=ANSWER_SECONDS,
        allow_delayed_open=True,  # small objects are then written with one request
        background_writes=False,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=TRIES_AT_ONCE),
    )
    return files, f"{parts.netloc}{parts.path}".rstrip("/")


def reason_of(error: BaseException) -> str:
    """Returns the telling part of what the store's client says."""
    text = " ".join(str(error).split())
    for code, words in _KNOWN.items():
        if re.search(code, text, re.I):
            return words
    return text.partition("AWS Error ")[2].partition(" (Request ID")[0] or text


_KNOWN = {
    r"NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist": "the bucket does not exist",
    r"InvalidAccessKeyId|INVALID_ACCESS_KEY|SignatureDoesNotMatch|INVALID_CLIENT": "the credentials are not accepted",
    r"ACCESS_DENIED|HTTP status 403|AccessDenied|Forbidden": "access is denied",
    r"HTTP status 507|Insufficient Storage|QuotaExceeded|XMinioStorageFull": "it is full",
    r"credentials|no authentication|MISSING_AUTHENTICATION": "no credentials were found, or they are not accepted",
    r"HTTP status 5\d\d|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE": "it answers that it is not available",
    r"Timeout was reached|too slow": "no answer in time",
    r"NETWORK_CONNECTION|Could.?n.t connect|Could not connect|resolve": "no connection",
}


def _remedy(text: str) -> str:
    reason = reason_of(OSError(text))
    if "bucket" in reason:
        return "create it, or correct --storage"
    if "denied" in reason or "credentials" in reason:
        return (
            "credentials are taken from the environment, the store's own files or the machine's role, and must allow "
            "listing, reading, writing and deleting under the prefix"
        )
    if "full" in reason:
        return "make room, or choose another --storage"
    return "check its address (?endpoint_override=host:port&scheme=http for a server of your own) and the network"


def _may_pass(error: OSError) -> bool:
    """Whether trying again may help: not for what is denied or does not exist; for a full store it may."""
    return not any(
        word in reason_of(error) for word in ("denied", "bucket does not exist", "credentials")
    ) and not isinstance(error, PermissionError)


def _is_missing_bucket(error: OSError) -> bool:
    return "bucket" in reason_of(error).lower()
