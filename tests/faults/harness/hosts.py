"""A cluster of several hosts on this machine: network namespaces behind a bridge, each with a Ray node of its own.

Unlike the processes of `tests.faults.harness.nodes`, hosts have addresses and names of their own, and whatever they
say to each other crosses a cable, which can be pulled out: packets are then lost without a word, as between machines
that the network has parted. The study's folder is seen by all, cable or not. Needs root, ``ip`` and ``nsenter``.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.faults.harness.nodes import IMPATIENT
from tests.helpers.waiting import wait_gone

ROOT = Path(__file__).resolve().parents[3]
# Of the range for benchmarks of networks (RFC 2544), which nobody routes; sessions beside each other have their own.
NETWORK = f"198.18.{os.getpid() % 256}"
PORT = 6379
START_SECONDS = 240.0
OBJECT_STORE_BYTES = 80_000_000


def reason_to_skip() -> str | None:
    """Why there can be no hosts here; None if there can."""
    if os.geteuid() != 0:
        return "hosts need root, for network namespaces"
    missing = [name for name in ("ip", "nsenter", "unshare") if shutil.which(name) is None]
    if missing:
        return f"hosts need {', '.join(missing)} (Debian: iproute2, util-linux)"
    name = f"probe{os.getpid() % 10000}"
    trials = [
        ["unshare", "--net", "--mount", "--uts", "true"],
        ["ip", "link", "add", name, "type", "bridge"],
        ["ip", "link", "add", f"{name}-a", "type", "veth", "peer", "name", f"{name}-b"],
    ]
    try:
        for words in trials:
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode:
                return f"no network namespaces here: {' '.join(words[:5])}: {done.stderr.strip()}"
        return None
    finally:
        for link in (name, f"{name}-a"):
            _ip("link", "del", link, check=False)


@dataclass(eq=False)
class Host:
    """One host; `node_id` is Ray's, hexadecimal."""

    number: int
    holder: subprocess.Popen[bytes]
    node_id: str = ""

    @property
    def address(self) -> str:
        """Of its only network card."""
        return f"{NETWORK}.{self.number}"

    @property
    def prefix(self) -> list[str]:
        """The words before a command that shall run there, in the project's folder."""
        return [
            "nsenter",
            f"--target={self.holder.pid}",
            "--net",
            "--mount",
            "--uts",
            "--",
            "env",
            f"--chdir={ROOT}",
        ]

    def workers(self) -> list[psutil.Process]:
        """Ray's node there and the workers of runs, not what only looks after logs: that stays when a node ends."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if process.name().startswith(("raylet", "ray::")):
                    found.append(process)
        return found

    def processes(self) -> list[psutil.Process]:
        """All that runs there, but for what keeps the host itself."""
        here = os.stat(f"/proc/{self.holder.pid}/ns/net").st_ino
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if os.stat(f"/proc/{process.pid}/ns/net").st_ino == here and process.pid != self.holder.pid:
                    found.append(process)
        return found


@dataclass
class Hosts:
    """A head without CPUs, where the driver runs, and hosts with one CPU each."""

    folder: Path
    bridge: str
    head: Any = None
    workers: list[Host] = field(default_factory=list)
    _made: int = 0

    @property
    def address(self) -> str:
        """What a driver joins."""
        return f"{self.head.address}:{PORT}"

    @property
    def prefix(self) -> list[str]:
        """The words before a driver's command."""
        words: list[str] = self.head.prefix
        return words

    def worker_nodes(self) -> list[Host]:
        """Hosts that may be hit."""
        return list(self.workers)

    def begin(self) -> None:
        """The head comes."""
        self.head = self._host()
        self._ray(self.head, "--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false")

    def add(self) -> None:
        """A host comes."""
        host = self._host()
        self._ray(host, f"--address={self.address}", "--num-cpus=1")
        self.workers.append(host)

    def remove(self, host: Host) -> None:
        """A host goes with all that runs there."""
        self.workers.remove(host)
        self._end(host)

    def unplug(self, host: Host) -> None:
        """Nothing that is sent to the host or by it arrives any more."""
        _ip("link", "set", self._cable(host), "down")

    def plug_in(self, host: Host) -> None:
        """It does again; nothing if it does already."""
        _ip("link", "set", self._cable(host), "up")

    def is_alive(self, host: Host) -> bool:
        """Whether the head believes that a host's node lives."""
        return any(node["NodeID"] == host.node_id and node["Alive"] for node in self._nodes())

    def end(self) -> None:
        """Ends all hosts."""
        for host in [*self.workers, self.head]:
            if host is not None:
                self._end(host)
        _ip("link", "del", self.bridge, check=False)

    def _host(self) -> Host:
        self._made += 1
        own = self.folder / f"host-{self._made}"
        own.mkdir()
        # Its own name, and its own place for Ray's session: nodes of one machine would share it.
        begin = 'hostname "$1" && mount --bind "$2" "$3" && echo up && exec sleep infinity'
        holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--uts", "sh", "-c", begin, "host", f"host-{self._made}", str(own),
             str(self.folder / "ray")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert holder.stdout is not None
        if holder.stdout.readline() != b"up\n":
            raise RuntimeError("a host could not be made")
        host = Host(self._made, holder)
        cable, card = self._cable(host), f"card{host.number}"
        _ip("link", "add", cable, "type", "veth", "peer", "name", card)
        _ip("link", "set", card, "netns", str(holder.pid))
        _ip("link", "set", cable, "master", self.bridge, "up")
        inside = [*host.prefix, "ip"]
        for words in (
            ["link", "set", "lo", "up"],
            ["addr", "add", f"{host.address}/24", "dev", card],
            ["link", "set", card, "up"],
        ):
            subprocess.run([*inside, *words], check=True, capture_output=True)
        return host

    def _ray(self, host: Host, *words: str) -> None:
        """Starts a Ray node on a host and waits until the head knows it."""
        command = [
            *host.prefix,
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            *words,
            "--disable-usage-stats",
        ]
        command += [f"--node-ip-address={host.address}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        command += [f"--temp-dir={self.folder / 'ray'}"] if "--head" in words else []
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS)
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        until = time.monotonic() + START_SECONDS
        while not host.node_id:
            if time.monotonic() > until:
                raise RuntimeError(f"the head does not know the node of {host.address}")
            found = [
                node for node in self._nodes() if node["NodeManagerAddress"] == host.address and node["Alive"]
            ]
            host.node_id = found[0]["NodeID"] if found else ""
            time.sleep(0.2)

    def _nodes(self) -> list[dict[str, Any]]:
        """What the head knows of all nodes; asked from outside, over the bridge."""
        from ray._private.state import GlobalState
        from ray._raylet import GcsClientOptions

        state = GlobalState()
        try:
            state._initialize_global_state(
                GcsClientOptions.create(
                    self.address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False
                )
            )
            return list(state.node_table())
        except Exception:  # the head is cut off, or does not listen yet
            return []
        finally:
            with contextlib.suppress(Exception):
                state.disconnect()

    def _end(self, host: Host) -> None:
        family = host.processes()
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        wait_gone(family, 30)
        host.holder.send_signal(signal.SIGKILL)
        host.holder.wait()
        _ip("link", "del", self._cable(host), check=False)

    def _cable(self, host: Host) -> str:
        return f"{self.bridge}-{host.number}"


@contextlib.contextmanager
def hosts(folder: Path) -> Iterator[Hosts]:
    """Starts a head and two hosts, with little patience for silent ones, whose workers obey the study in `folder`."""
    from study.cluster.ray_cluster import SETTINGS as RAY_SETTINGS
    from study.cluster.ray_cluster import environment
    from study.cluster.ray_private import reread_settings
    from tests.faults.harness.runner import FOLDER

    own = Path(tempfile.mkdtemp(prefix="hosts-", dir="/tmp"))
    (own / "ray").mkdir()
    token = own / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    settings = {
        **RAY_SETTINGS,
        **IMPATIENT,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        FOLDER: str(folder / "control"),
    }
    with environment(settings):
        reread_settings()
        made = Hosts(own, f"study{os.getpid() % 10000}")
        _ip("link", "add", made.bridge, "type", "bridge")
        try:
            _ip("addr", "add", f"{NETWORK}.254/24", "dev", made.bridge)
            _ip("link", "set", made.bridge, "up")
            made.begin()
            made.add()
            made.add()
            yield made
        finally:
            made.end()
            shutil.rmtree(own, ignore_errors=True)
    reread_settings()


def _ip(*words: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
