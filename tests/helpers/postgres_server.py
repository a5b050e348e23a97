"""A real PostgreSQL server for tests: a cluster of its own in a temporary folder, on loopback, behind a password."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.support.ports import free_port

USER = "study_owner"
PASSWORD = "s3cret-p@ss/word"  # characters that must be quoted in a URL
_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")


def binaries() -> Path | None:
    """Returns the folder of `initdb` and `pg_ctl`, of the newest version; None without PostgreSQL."""
    found = [path for place in _PLACES for path in Path("/").glob(place.lstrip("/")) if _complete(path)]
    on_path = shutil.which("initdb")
    if on_path and _complete(Path(on_path).resolve().parent):
        found.append(Path(on_path).resolve().parent)
    return sorted(found)[-1] if found else None


def _complete(folder: Path) -> bool:
    return (folder / "initdb").exists() and (folder / "pg_ctl").exists()


def reason_to_skip() -> str | None:
    """Returns why PostgreSQL cannot be tested here; None if it can."""
    try:
        import psycopg2  # noqa: F401
    except ImportError:
        return "psycopg2 is not installed (pip install 'diffusion-study[postgresql]')"
    if binaries() is None:
        return "PostgreSQL's server is not installed (apt-get install postgresql)"
    if os.geteuid() == 0 and _unprivileged() is None:
        return "PostgreSQL refuses to run as root, and there is no user postgres or nobody, or no setpriv"
    return None


@dataclass
class Postgres:
    """A running server.

    Attributes:
        folder: Data, log and socket lie under it.
        environment: What a client needs beside `url` to be let in: the name of a file with the password.
    """

    folder: Path
    port: int
    environment: dict[str, str] = field(default_factory=dict)

    def url(self, database: str = "postgres", *, user: str = USER) -> str:
        """The URL of a database, without a password."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def url_with_password(self, database: str = "postgres", password: str = PASSWORD) -> str:
        """The same with a password in it, quoted."""
        from urllib.parse import quote

        return f"postgresql://{USER}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Makes a database and returns its URL (without the password)."""
        self.execute(f'create database "{name}"')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Removes a database and whoever is connected to it."""
        self.execute(f'drop database if exists "{name}" with (force)')

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Runs one statement as the owner, outside a transaction, and returns its rows."""
        import psycopg2

        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=database
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        self._control("start", "-w", "-t", "120", "-l", str(self.folder / "server.log"))

    def stop(self, mode: str = "immediate") -> None:
        """Stops it; ``immediate`` is what a crash is to its clients."""
        self._control("stop", "-w", "-t", "120", "-m", mode)

    def restart(self, mode: str = "immediate") -> None:
        """Stops and starts it; it recovers from its log."""
        self._control("restart", "-w", "-t", "120", "-m", mode, "-l", str(self.folder / "server.log"))

    def log(self) -> str:
        """What the server wrote."""
        return (self.folder / "server.log").read_text(errors="replace")

    def _control(self, *words: str) -> None:
        _as_owner(["pg_ctl", "-D", str(self.folder / "data"), *words], self.folder)


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """Makes a server, with one superuser `USER` who needs `PASSWORD` (SCRAM) on TCP and on the socket."""
    root = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=root))
    try:
        owner = _unprivileged()
        password_file = folder / "superuser"
        password_file.touch(mode=0o600)
        password_file.write_text(PASSWORD + "\n")
        if owner is not None:
            for path in (folder, password_file):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        words = ["initdb", "-D", str(folder / "data"), "-U", USER, f"--pwfile={password_file}"]
        _as_owner([*words, "--auth=scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"], folder)
        password_file.unlink()
        server = Postgres(folder, free_port())
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write(
                f"listen_addresses = '127.0.0.1'\nport = {server.port}\nmax_connections = 50\n"
                f"unix_socket_directories = '{folder}'\nshared_buffers = 16MB\nfsync = off\n"
                # Tests run on machines with little shared memory.
                "dynamic_shared_memory_type = mmap\nmax_wal_size = 64MB\n"
            )
        passwords = Path(tempfile.mkdtemp(prefix="pgpass-")) / "pgpass"
        passwords.touch(mode=0o600)
        passwords.write_text(f"127.0.0.1:{server.port}:*:{USER}:{_escaped(PASSWORD)}\n")
        server.environment["PGPASSFILE"] = str(passwords)
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # a test may have stopped it
                server.stop()
            shutil.rmtree(passwords.parent, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")


def _unprivileged() -> pwd.struct_passwd | None:
    """The user as whom the server runs; None for this process's own."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


def _as_owner(words: Sequence[str], folder: Path) -> None:
    """Runs a program of PostgreSQL; its output is part of the error."""
    place = binaries()
    assert place is not None
    command = [str(place / words[0]), *words[1:]]
    owner = _unprivileged()
    if owner is not None:
        switch = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
        command = [*switch, *command]
    # A server inherits the pipes of the program that starts it, and would keep them open: a file instead.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}, timeout=300,
        )  # fmt: skip
        output.seek(0)
        if done.returncode != 0:
            print(output.read().decode(errors="replace"))
            raise subprocess.CalledProcessError(done.returncode, command)
