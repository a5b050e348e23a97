"""Compares ways to write finished runs to MLflow: ``python -m benchmarks.tracking``.

The same trivial runs are written by `study.tracking.mirror.Mirror` straight to a database and to a real server on
loopback, from one thread and from several, and to the server through a relay that holds up each request as a network
would. All stand side by side in one run of the command, on SQLite.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import trivial
from benchmarks.scale import study
from benchmarks.support.mlflow_server import MlflowServer
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.tracking.mirror import Mirror
from study.tracking.mlflow_store import configure_client
from study.tracking.run_ids import TrackingRecord

THREADS = (1, 4, 8)


@dataclass
class Relay:
    """Forwards connections to a port and holds each request up by `seconds`; counts them in `requests`."""

    port: int
    seconds: float
    requests: int = 0

    @contextlib.contextmanager
    def open(self) -> Iterator[str]:
        """Yields the URI to use."""
        with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
            threading.Thread(target=self._accept, args=(server,), daemon=True).start()
            yield f"http://127.0.0.1:{server.getsockname()[1]}"

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                upstream = socket.create_connection(("127.0.0.1", self.port))
                asked = threading.Event()
                threading.Thread(target=self._ask, args=(client, upstream, asked), daemon=True).start()
                threading.Thread(target=self._answer, args=(client, upstream, asked), daemon=True).start()

    def _ask(self, client: socket.socket, upstream: socket.socket, asked: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while content := client.recv(65536):
                if not asked.is_set():  # the first bytes since the last answer
                    asked.set()
                    self.requests += 1
                    time.sleep(self.seconds)
                upstream.sendall(content)
            upstream.shutdown(socket.SHUT_RDWR)

    def _answer(self, client: socket.socket, upstream: socket.socket, asked: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while content := upstream.recv(65536):
                asked.clear()
                client.sendall(content)
            client.shutdown(socket.SHUT_RDWR)


def make_runs(storage: Storage, runs: int) -> None:
    """Leaves finished trivial runs, as workers do."""
    spec = study(runs, 2, None)
    for number in range(runs):
        arm = list(spec.arms)[number % len(spec.arms)]
        key = RunKey("confirm", arm, 0, "dog-1", 100 + number)
        for _ in trivial.execute(spec.run_config(key, {}, storage)):
            pass


def seconds_a_run(root: Path, name: str, uri: str, runs: int, threads: int) -> float:
    """Writes all runs of a new study; the experiment and its parents are there before the clock starts."""
    storage = Storage(root, name)
    make_runs(storage, len(study(runs, 2, None).arms))
    mirror = Mirror(storage, uri, TrackingRecord(storage), threads=threads)
    mirror.add_all()
    mirror.update()
    make_runs(storage, runs)
    mirror.add_all()
    written = mirror.counts.runs
    begun = time.perf_counter()
    mirror.update()
    seconds = time.perf_counter() - begun
    missing = mirror.pending()
    mirror.finish()
    mirror.release()
    if missing:
        raise SystemExit(f"{len(missing)} runs were not written: {mirror.first_problem()}")
    return seconds / (mirror.counts.runs - written)


def main() -> None:
    """Prints a table of medians, and the ratio of each row to the server's with one thread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=44, help="runs a measurement; a multiple of four")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds that the relay holds a request up")
    parser.add_argument("--server-workers", type=int, default=2, help="processes of the server")
    options = parser.parse_args()
    configure_client()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        server = MlflowServer(
            root / "server",
            f"sqlite:///{root}/server.db",
            options=("--workers", str(options.server_workers)),
        )
        server.start()
        direct, far = Relay(server.port, 0.0), Relay(server.port, options.delay)
        try:
            with direct.open() as near_uri, far.open() as far_uri:
                places = [("SQLite", f"sqlite:///{root}/direct.db", None, (1,))]
                places += [("server", near_uri, direct, THREADS)]
                places += [(f"server, {options.delay * 1000:.0f} ms away", far_uri, far, THREADS)]
                measure(root, places, options.runs, options.repeat)
        finally:
            server.kill()


def measure(
    root: Path, places: list[tuple[str, str, Relay | None, tuple[int, ...]]], runs: int, repeat: int
) -> None:
    """Measures every place in turn, `repeat` times, and prints a line for each."""
    found: dict[tuple[str, int], list[float]] = {}
    requests: dict[str, float] = {}
    for turn in range(repeat):
        for number, (name, uri, relay, counts) in enumerate(places):
            for threads in counts:
                before = relay.requests if relay is not None else 0
                label = f"{turn}-{number}-{threads}"
                found.setdefault((name, threads), []).append(seconds_a_run(root, label, uri, runs, threads))
                if relay is not None:
                    requests[name] = (relay.requests - before) / runs
    print("| MLflow on | threads | seconds a run | spread | ratio to one thread |\n|---|---|---|---|---|")
    for (name, threads), values in found.items():
        median, alone = statistics.median(values), statistics.median(found[name, 1])
        print(
            f"| {name} | {threads} | {median:.3f} | {min(values):.3f} to {max(values):.3f} | {median / alone:.2f} |"
        )
    asked = max(requests.values())
    print(
        f"\nabout {asked:.0f} requests a run, those of the study's own (experiment, parents) shared among them"
    )


if __name__ == "__main__":
    main()
