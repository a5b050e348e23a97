"""Credentials taken out of texts and addresses before anybody writes them down."""

from __future__ import annotations

import re

# User and password before the host, and query parameters that carry a secret; a path may hold an @ as well.
_USER = re.compile(r"(?<=:)//[^/?#\s]*@")

# A password that is not quoted as it should be: SQLAlchemy takes everything up to the @. Digits and a slash are a port.
_RAW = re.compile(r"(?<=:)//[^/?#\s:@]*:(?!\d+(?:[/?#\s]|$))[^\s@]*@")

_SECRET = re.compile(r"(?i)([?&][^=&]*(?:password|passwd|pwd|token|secret|key)[^=&\s]*=)[^&\s]*")


def without_credentials(uri: str) -> str:
    """Returns a URI, or a text with URIs, without users, passwords and secret query parameters."""
    return _SECRET.sub(r"\1***", _USER.sub("//", _RAW.sub("//", uri)))


def carries_password(uri: str) -> bool:
    """Whether a URI has a password in it, before the host or as a parameter; a user's name alone is none."""
    return bool(_SECRET.search(uri) or _RAW.search(uri))
