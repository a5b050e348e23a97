"""Storage URLs (``s3://bucket/prefix``, ``gs://...``): which are sound, and what is hidden of them."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlencode, urlsplit

from trainables.errors import UserError

SCHEMES = ("s3", "gs")

_S3_OPTIONS = ("endpoint_override", "scheme", "region")


def sound_url(text: str) -> str:
    """Returns a storage URL in its one form; nothing is asked of any server.

    Raises:
        UserError: It is of an unknown scheme, has no bucket, an unknown option, or carries credentials.
    """
    try:
        parts = urlsplit(text)
        port = parts.port  # noqa: F841 (asks urllib whether it is one)
    except ValueError:
        raise UserError(f"--storage {_hidden(text)!r} is not a URL; write s3://bucket/prefix") from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    secret = [
        name for name in options if re.search(r"(key|secret|token|password|credential|sig)", name, re.I)
    ]
    if parts.username or parts.password or secret:
        raise UserError(
            f"--storage {_hidden(text)} carries credentials, which would be copied into records and logs; leave them "
            "out: they are taken from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or "
            "GOOGLE_APPLICATION_CREDENTIALS), the store's own files, or the machine's role"
        )
    if parts.scheme not in SCHEMES:
        raise UserError(
            f"--storage {text!r}: {parts.scheme}:// is not known; use s3://bucket/prefix, gs://bucket/prefix, or a "
            "folder that every node sees"
        )
    prefix = "/".join(part for part in parts.path.split("/") if part)
    if not parts.netloc or any(part in (".", "..") for part in prefix.split("/")):
        raise UserError(
            f"--storage {text!r} names no bucket and prefix; write {parts.scheme}://bucket/prefix"
        )
    known = _S3_OPTIONS if parts.scheme == "s3" else ("endpoint_override", "scheme")
    if unknown := sorted(set(options) - set(known)):
        raise UserError(
            f"--storage {text!r} has unknown options: {', '.join(unknown)}; there are {', '.join(known)}"
        )
    query = urlencode(sorted(options.items()), safe="/:")
    return f"{parts.scheme}://{parts.netloc}/{prefix}".rstrip("/") + (f"?{query}" if query else "")


def _hidden(url: str) -> str:
    """A URL as it may be shown: without user, password and options."""
    return re.sub(r"\?.*", "?...", re.sub(r"//[^/@]*@", "//...@", url))
