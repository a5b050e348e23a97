"""What a command of this project puts right in its own process: where it imports from, a home folder, its output."""

from __future__ import annotations

import codecs
import os
import pwd
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from trainables.errors import UserError
from trainables.util.import_paths import forget_working_folder

_ERRORS = "diffusion-study"  # name of the handler of characters that an output cannot show
_LIKE = {"·": ".", "…": "...", "–": "-", "±": "+-", "×": "x", "≤": "<=", "≥": ">=", "→": "->"}
_NAMES_OF_USER = ("LOGNAME", "USER", "LNAME", "USERNAME")  # as `getpass.getuser` reads them


def prepare_command() -> None:
    """Prepares this process for a command; says on the standard error what the user should know of it.

    Raises:
        UserError: There is no home folder, and none can be made.
    """
    forget_working_folder()
    print_everything()
    note = ensure_home()
    if note is not None:
        print(note, file=sys.stderr)


def print_everything() -> None:
    """Lets the standard output and error print any text: what their encoding lacks appears as ``\\xe9``."""
    codecs.register_error(_ERRORS, _shown)
    for stream in (sys.stdout, sys.stderr):
        # Whoever asked for another way (PYTHONIOENCODING=ascii:ignore) gets it.
        if getattr(stream, "errors", None) in ("strict", "surrogateescape", "backslashreplace"):
            stream.reconfigure(errors=_ERRORS)  # type: ignore[union-attr]


def ensure_home() -> str | None:
    """Gives this process, and those that it starts, a home folder and a user's name where the system knows none.

    So it is in containers that run as a bare number. Libraries keep caches and tokens there, and die without one.
    The folder is the user's own (0700) in the temporary folder, the same for all commands.

    Returns:
        What to tell the user, or None where nothing was done.

    Raises:
        UserError: None can be made.
    """
    user = _user()
    if user is None and not any(os.environ.get(name) for name in _NAMES_OF_USER):
        os.environ["USER"] = f"uid-{os.getuid()}"
    if os.environ.get("HOME") or user is not None:
        return None
    try:
        home = _own_folder(Path(tempfile.gettempdir()) / f"diffusion-study-home-{os.getuid()}")
    except OSError as error:
        raise UserError(
            f"user {os.getuid()} has no home folder (no HOME, no entry in the user database), and none can be made "
            f"({error.strerror or error}); set HOME or TMPDIR to a folder that can be written"
        ) from None
    os.environ["HOME"] = str(home)
    return f"user {os.getuid()} has no home folder (HOME is not set): {home} is taken for it"


def expanded(path: str | Path) -> Path:
    """Returns a path with ``~`` and ``~user`` written out.

    Raises:
        UserError: There is no such user, or it has no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        first = Path(path).parts[0]
        raise UserError(f"{path}: there is no home folder {first}; write the folder out") from None


def unspeakable(error: UnicodeEncodeError) -> str:
    """Returns what to tell of a file name that is not UTF-8, or that the encoding of this process lacks."""
    if sys.getfilesystemencoding() == "utf-8":
        return f"the file name {error.object!r} is not UTF-8; choose another name"
    return (
        f"the file name {error.object!r} cannot be written in the encoding {error.encoding} of this process; set "
        "LC_ALL=C.UTF-8 or PYTHONUTF8=1"
    )


def _user() -> pwd.struct_passwd | None:
    with suppress(KeyError):
        return pwd.getpwuid(os.getuid())
    return None


def _own_folder(folder: Path) -> Path:
    """Returns that folder, or another one if somebody else made it."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
        return folder
    return Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))


def _shown(error: UnicodeError) -> tuple[str | bytes, int]:
    """Writes out the characters that an output cannot show; see `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    text = "".join(
        _LIKE.get(each) or each.encode("ascii", "backslashreplace").decode() for each in characters
    )
    return text, error.end
