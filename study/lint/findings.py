"""What a lint of a deployment file says, and the checks that every such file needs: secrets, placeholders, images."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trainables.config.yaml_reader import Document, Loc
from trainables.util.packages import versions_of

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

_PLACEHOLDER = re.compile(r"<[A-Za-z][A-Za-z0-9 _./-]*>")
_SECRETS = {
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{20,}\b"),
    "a GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{20,}\b"),
    "a password in a URL": re.compile(r"://[^\s/:@$<{]+:[^\s/@$<{]+@"),
    "a secret in a variable": re.compile(
        r"\b[A-Z0-9_]*(?:TOKEN|PASSWORD|PASSWD|SECRET|SECRET_KEY|SECRET_ACCESS_KEY|API_KEY)=(?!\"?\$|'?\$|<|/|~|\"?\s|$)\S+"
    ),
}
_SECRET_KEY = re.compile(
    r"(?:^|_|-)(?:token|password|passwd|secret|secret_access_key|api_key|credentials)$", re.I
)
_TAG = re.compile(
    r"^(?P<ray>\d+\.\d+\.\d+)(?:\.[0-9a-f]{6})?(?:-py(?P<python>\d{2,3}))?(?:-(?P<kind>gpu|cpu|cu\d+.*))?$"
)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a file, or that its owner should know.

    Attributes:
        rule: Its short name, such as ``token``.
        loc: The place in the document.
        message: The rule, the value and the remedy.
        fatal: False for a warning.
    """

    rule: str
    loc: Loc
    message: str
    fatal: bool = True


def texts(value: Any, loc: Loc = ()) -> Iterator[tuple[Loc, str]]:
    """Yields every text below `value` with its place."""
    if isinstance(value, str):
        yield loc, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts(item, (*loc, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from texts(item, (*loc, index))


def placeholders(document: Document) -> Iterator[Fault]:
    """Texts such as ``<nfs-server>`` that nobody has filled in yet."""
    for loc, text in texts(document.data):
        for found in dict.fromkeys(_PLACEHOLDER.findall(text)):
            yield Fault("placeholder", loc, f"{found} is not filled in; write your own value", fatal=False)


def secrets(document: Document) -> Iterator[Fault]:
    """Secrets that stand in the file itself, where everybody reads them who reads the repository."""
    remedy = "take it out, revoke it, and pass it by a file (0600), a secret store or an instance role"
    for loc, text in texts(document.data):
        kinds = [kind for kind, pattern in _SECRETS.items() if pattern.search(text)]
        if not kinds and loc and _SECRET_KEY.search(str(loc[-1])) and _is_literal(text):
            kinds = [f"a secret under the key {loc[-1]!r}"]
        for kind in kinds:
            yield Fault("secret", loc, f"the file holds {kind}; {remedy}")


def _is_literal(text: str) -> bool:
    """Whether a text is a value of its own: no variable, placeholder, path or reference."""
    return bool(text) and text[0] not in "$<~/{" and "/" not in text and text not in ("token", "disabled")


def installed() -> tuple[str, str]:
    """Returns the Ray and the Python that are installed here, such as ``("2.60.0", "311")``."""
    return versions_of(("ray",))["ray"], f"{sys.version_info.major}{sys.version_info.minor}"


def image_faults(image: Any, loc: Loc, *, gpus: bool) -> Iterator[Fault]:
    """Says how an image differs from the Ray and the Python that are installed here.

    Args:
        image: ``repository:tag``, as far as one is given.
        loc: Its place.
        gpus: Whether runs with GPUs use it.
    """
    ray, python = installed()
    good = f"rayproject/ray:{ray}-py{python}-{'gpu' if gpus else 'cpu'}"
    if not isinstance(image, str) or not image:
        yield Fault("image", loc, f"no image is given; write one with a full tag, such as {good}")
        return
    name, _, tag = image.partition("@")[0].rpartition(":")
    if not name or "/" in tag:
        name, tag = image.partition("@")[0], ""
    if tag in ("", "latest", "nightly") or tag.startswith(("latest-", "nightly-")):
        if "@sha256:" not in image:
            what = f"the tag {tag!r}" if tag else "no tag"
            yield Fault("image", loc, f"{image} has {what}, which changes under a study; pin it: {good}")
        return
    if name.split("/")[-1] not in ("ray", "ray-ml") or "rayproject" not in name:
        yield from _own_image_faults(image, tag, loc, ray, python)
        return
    parts = _TAG.match(tag)
    if parts is None:
        yield Fault("image", loc, f"the tag of {image} cannot be read; write {good}")
        return
    if parts["ray"] != ray:
        yield Fault(
            "image",
            loc,
            f"{image} has Ray {parts['ray']}, but {ray} is installed here; write {good}",
        )
    if parts["python"] is None:
        yield Fault("image", loc, f"{image} does not say its Python, which differs by release; write {good}")
    elif parts["python"] != python:
        yield Fault(
            "image",
            loc,
            f"{image} has Python {_dots(parts['python'])}, here it is {_dots(python)}; write {good}",
        )
    if gpus and parts["kind"] in (None, "cpu"):
        yield Fault("image", loc, f"{image} is for CPUs, but runs with GPUs use it; write {good}")


def _own_image_faults(image: str, tag: str, loc: Loc, ray: str, python: str) -> Iterator[Fault]:
    """An image of one's own shows its versions only if its tag names them."""
    remedy = "rebuild it from deploy/Dockerfile"
    named = re.search(r"ray-?(\d+\.\d+\.\d+)", tag)
    if named and named[1] != ray:
        what = f"the tag of {image} names Ray {named[1]}, but {ray} is installed here"
        yield Fault("image", loc, f"{what}; {remedy}")
    named = re.search(r"py(\d{2,3})(?!\d)", tag)
    if named and named[1] != python:
        what = f"the tag of {image} names Python {_dots(named[1])}, but here it is {_dots(python)}"
        yield Fault("image", loc, f"{what}; {remedy}")


def _dots(python: str) -> str:
    return f"{python[0]}.{python[1:]}"
