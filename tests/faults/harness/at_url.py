"""What lies at a storage's URL, read from there: for the checker, and for faults that must know what is kept."""

from __future__ import annotations

from dataclasses import dataclass

from study.cluster.ray_cluster import environment
from study.remote.object_store import ObjectStore
from study.remote.run_manifest import FileRef, read_view, relative, run_prefix
from study.remote.run_upload import checkpoints
from study.remote.working_copy import fetch_weights
from study.spec.launched import readable_storage
from study.storage.layout import RUNS, Storage
from tests.faults.harness.driving import Driven
from trainables.errors import UserError
from trainables.events import RESULT_FILE


@dataclass(frozen=True)
class Kept:
    """A run that has not ended, as an attempt would find it now.

    Attributes:
        events: How many events are there.
        checkpoints: Step -> objects of the checkpoint, by their place in the run's folder; oldest first.
    """

    events: int
    checkpoints: dict[int, dict[str, FileRef]]

    @property
    def newest(self) -> int:
        """The step of the newest checkpoint, 0 if there is none."""
        return max(self.checkpoints, default=0)


def kept_runs(driven: Driven) -> dict[str, Kept]:
    """Returns what is kept of all runs that have begun and have not ended, by name."""
    assert driven.url is not None
    store = ObjectStore(driven.url)
    found = {}
    for run, names in _by_run(store, driven.name).items():
        view = read_view(store, run_prefix(driven.name, run), names)
        if view is not None and not view.ended:
            steps = {
                int(folder.rpartition("step-")[2]): {path: view.files[path] for path in paths}
                for folder, paths in checkpoints(view.files)
            }
            found[run] = Kept(len(view.events), steps)
    return found


def note_floors(driven: Driven) -> None:
    """Notes at which step every attempt that begins from now on must go on, or later."""
    for run, found in kept_runs(driven).items():
        driven.floors.setdefault(run, []).append((found.events, found.newest))


def brought_down(driven: Driven) -> tuple[Storage, list[str], list[str]]:
    """Brings a whole study, with its weights, from the URL into a folder where nothing of it is.

    Returns:
        The folder as a storage; what is lost at the URL; what is there twice.
    """
    assert driven.url is not None
    store = ObjectStore(driven.url)
    with environment({"STUDY_WORKING_COPIES": str(driven.folder / "brought-down")}):
        storage = readable_storage(driven.url, driven.name)
    lost, doubled = [], []
    for run, names in _by_run(store, driven.name).items():
        ends = [name for name in names if name.endswith(f"/{RESULT_FILE}")]
        if len(ends) > 1:
            doubled.append(f"{run} has ended {len(ends)} times at the URL")
        try:
            fetch_weights(storage, run)
        except UserError as error:
            lost.append(str(error))
    return storage, lost, doubled


def _by_run(store: ObjectStore, study: str) -> dict[str, set[str]]:
    """The keys of each run, relative to it."""
    found: dict[str, set[str]] = {}
    prefix = f"{study}/{RUNS}"
    for name in relative(store.list(prefix), prefix):
        parts = name.split("/", 3)
        found.setdefault("/".join(parts[:3]), set()).add(parts[3])
    return found
