"""The names of everything in a storage folder, and where in it a run lies."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from study.storage.run_key import Phase, RunKey
from trainables.errors import UserError
from trainables.util.process import expanded

# What lies directly in a storage, at its URL or in the working copy of it, beside the folders of the studies. Whoever
# makes such an entry takes its name from here, and no study may be called so.
CACHE, INPUTS, PROBE, REPORTS = "cache", "inputs", "probe", "reports"
MLFLOW_DB, MLFLOW_ARTIFACTS = "mlflow.db", "mlartifacts"
_BESIDE_SQLITE = ("", "-journal", "-wal", "-shm")  # SQLite's own files beside a database
STORAGE_ENTRIES = frozenset(
    {CACHE, INPUTS, PROBE, REPORTS, MLFLOW_ARTIFACTS, *(MLFLOW_DB + end for end in _BESIDE_SQLITE)}
)
DEFAULT_STORAGE = "storage"

# In a study's folder.
STUDY_FILE = "study.json"  # as it was when the study was begun
LOCK_FILE = "lock"  # of the driver
LEDGER_FILE = "ledger.db"
DRIVER_FILE, STOP_REQUEST_FILE = "driver.json", "stop-request.json"
MARKER_FILE = "session"  # by which nodes know that they see the driver's folder
TRACKING_FILE, TRACKING_STATE_FILE, TRACKING_LOCK_FILE = "tracking.json", "mlflow-state.json", "tracking.lock"
MLFLOW_UI_LOG, OPTUNA_UI_LOG = "ui.log", "optuna-ui.log"
COPY_LOCK_FILE, LEDGER_NOTE_FILE = "copy.lock", "ledger.copy.json"  # of the working copy of a URL
RUNS = "runs"
TUNE_FOLDER = "ray"  # Ray Tune's own records of a launch
DOWNLOADS = "downloads"  # of images and scores that a report takes from MLflow
REPRODUCED_FOLDER = "reproduced"  # runs that were trained once more, to compare
PROBES = "probes"  # in the cache: what a run of each kind costs on this machine

# In a report's folder.
REPORT_HTML, REPORT_MD = "report.html", "report.md"
REBUILT = "rebuilt"  # a report that was made from the data of this one
REPORT_TABLES, REPORT_FIGURES, REPORT_DATA, REPORT_PAPER = "tables", "figures", "data", "paper"
ARMS_CSV = "arms.csv"  # of the tables that which a launch prints
RUNS_CSV, CURVES_CSV, IMAGES_CSV = "runs.csv", "curves.csv", "images.csv"  # these and the next of the data
META_JSON, SCORES_PARQUET, REPORT_IMAGES = "meta.json", "image_scores.parquet", "images"
RUNS_PARQUET, CURVES_PARQUET, IMAGES_PARQUET = "runs.parquet", "curves.parquet", "images.parquet"
DOWNSTREAM_CSV, GENERATED_CSV = (
    "downstream.csv",
    "generated.csv",
)  # of classifiers, and of what they learn from
PREDICTIONS_PARQUET = "downstream_predictions.parquet"
DICTIONARY_CSV = "dictionary.csv"  # what the columns of these tables mean

# In a run's folder, beside what the run itself writes (`trainables.events`).
ATTEMPTS_FILE, DEATHS_FILE = "attempts.jsonl", "deaths.jsonl"
WORKER_LOCK_FILE, STOP_FILE, LOG_FILE = "worker.lock", "stop.json", "log.txt"
RUN_NOTE_FILE = ".copy.json"  # how far the working copy of a run is up to date
WEIGHTS_NOTE_FILE = "weights.json"  # where weights lie that were left elsewhere

# At a URL alone.
LEASES, CLAIM_FILE = "driver", "claim.json"
LEDGER_COPIES = "ledger"
ANNOUNCEMENT_FILE = "begun.json"
MANIFEST_FILE, LAST_MANIFEST_FILE = "manifest.json", "all.json"
SEGMENTS = "s"  # where an earlier version kept what a manifest says, in numbered pieces
INPUTS_INDEX_FILE = "index.json"

# What runs write below lies up to 600 bytes deeper, and systems end paths at 4096 bytes, names at 255.
_LONGEST_FOLDER, _LONGEST_NAME = 3000, 255


def unportable(name: str) -> str | None:
    """Returns why a file server that knows Windows' rules keeps no folder of this name; None if it does."""
    if name.endswith("."):
        return "Windows drops a '.' at the end; leave it out"
    stem = name.partition(".")[0]
    if re.fullmatch(r"con|prn|aux|nul|(com|lpt)[0-9]", stem, re.IGNORECASE):
        return f"Windows takes {stem!r} for a device; choose another"
    return None


def is_storage_entry(name: str) -> bool:
    """Whether the storage itself uses a name, on a file system that knows no upper and lower case either."""
    return name.lower() in STORAGE_ENTRIES


@dataclass(frozen=True)
class Storage:
    """Where everything of a study lies, under one root folder (``--storage``).

    Attributes:
        root: A folder of this machine, or of a network file system; with a `url` it is this machine's working
            copy of what lies there.
        url: ``s3://bucket/prefix`` or ``gs://bucket/prefix``: the storage itself, if it is an object store.
    """

    root: Path
    study: str
    url: str | None = None

    @property
    def uri(self) -> str:
        """What ``--storage`` takes to name it: the URL, or the absolute folder."""
        return self.url or str(self.root)

    @property
    def folder(self) -> Path:
        """The study's own folder."""
        return self.root / self.study

    @property
    def runs(self) -> Path:
        """The folder of all its runs: phase, arm, run."""
        return self.folder / RUNS

    @property
    def cache(self) -> Path:
        """Content-addressed caches, shared by all studies of the storage."""
        return self.root / CACHE

    @property
    def ledger_url(self) -> str:
        """Default URL of the Optuna storage."""
        return f"sqlite:///{self.folder / LEDGER_FILE}"

    @property
    def tracking_uri(self) -> str:
        """Default MLflow tracking URI: one absolute SQLite file for all studies of the storage."""
        return f"sqlite:///{self.root / MLFLOW_DB}"

    @property
    def artifact_root(self) -> Path:
        """Where the default MLflow store keeps its artifacts."""
        return self.root / MLFLOW_ARTIFACTS

    def arm_folder(self, phase: Phase, arm: str) -> Path:
        """The folder of an arm's runs in one phase."""
        return self.runs / phase / arm

    def run_folder(self, key: RunKey) -> Path:
        """The folder of one run."""
        return self.runs / key.name

    def command(self, verb: str, *arguments: str) -> str:
        """Returns ``study VERB NAME ...`` as it can be typed where this process runs, with ``--storage`` if need be."""
        return shlex.join(["study", verb, self.study, *arguments, *self._option()])

    def lasting_command(self, verb: str, *arguments: str) -> str:
        """Returns ``study VERB NAME ...`` as it can be typed in any folder of this machine: to be kept."""
        return shlex.join(["study", verb, self.study, *arguments, "--storage", self.uri])

    def _option(self) -> list[str]:
        if self.url is not None:
            return ["--storage", self.url]
        if self.root == Path(DEFAULT_STORAGE).absolute() and not os.environ.get("STUDY_STORAGE"):
            return []
        near = self.root.is_relative_to(Path.cwd())
        return ["--storage", os.path.relpath(self.root) if near else str(self.root)]


_SQLITE = b"SQLite format 3\0"  # how such a file begins


def is_url(location: str | Path) -> bool:
    """Whether a ``--storage`` is a URL and not a folder."""
    return isinstance(location, str) and "://" in location


def storage_at(location: str | Path, study: str) -> Storage:
    """Returns the storage of a study at a folder or a URL, with an absolute root; asks no server.

    Raises:
        UserError: See `root_and_url`.
    """
    root, url = root_and_url(location)
    return Storage(root, study, url)


def root_and_url(location: str | Path) -> tuple[Path, str | None]:
    """Returns the absolute folder of a ``--storage`` and, if it is a URL, the URL as it is known everywhere.

    The working copy of a URL lies under ``STUDY_WORKING_COPIES``, by default in the user's data folder, and is
    named after the URL's digest, so that every command on this machine finds the same one.

    Raises:
        UserError: The URL cannot be one of a storage, or no storage can lie in a folder of that name.
    """
    if not is_url(location):
        if str(location) == "":
            raise UserError("--storage is empty; name a folder, such as --storage storage")
        if mistyped := re.match(r"([a-z][a-z0-9+.-]+):/?(?=[^/])", str(location)):
            scheme = mistyped[1]
            raise UserError(
                f"--storage {str(location)!r} is neither a URL nor, by its looks, a folder: write {scheme}:// for a "
                f"URL, or ./{location} for a folder of that name"
            )
        root = expanded(location).absolute()
        if problem := folder_problem(root):
            raise UserError(f"--storage {str(location)[:_LONGEST_NAME]!r}: {problem}; choose another folder")
        if ".." in root.parts:  # or a folder that is left again by it would be made
            root = Path(os.path.realpath(root))
        return root, None
    from study.storage.urls import sound_url

    url = sound_url(str(location))
    named = os.environ.get("STUDY_WORKING_COPIES")
    data = Path(os.environ.get("XDG_DATA_HOME") or expanded("~/.local/share")) / "diffusion-study"
    copies = expanded(named or data).absolute()
    if problem := folder_problem(copies) or _unwritable(copies):
        raise UserError(
            f"the working copies of storages at a URL cannot lie in {copies}: {problem}; set STUDY_WORKING_COPIES to "
            "another folder"
        )
    return copies / hashlib.sha256(url.encode()).hexdigest()[:16], url


def folder_problem(folder: Path) -> str | None:
    """Returns why a storage cannot lie in a folder of that name: its databases are addressed by URLs."""
    text = str(folder)
    found = re.search(r"\?|%[0-9A-Fa-f]{2}", text)
    if found is not None:
        meaning = "ends" if found[0] == "?" else "stands for another character in"
        return f"the path {text!r} holds {found[0]!r}, which {meaning} the URL of a database file"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if _is_utf8(os.fsencode(folder)):
            how = "set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
            return f"this process reads file names as {sys.getfilesystemencoding()}, and {text!r} is UTF-8: {how}"
        return (
            f"the path {text!r} is not UTF-8 at {text[error.start]!r}, which neither databases nor Ray take"
        )
    longest = max(len(part.encode()) for part in folder.parts)
    if longest > _LONGEST_NAME or len(text.encode()) > _LONGEST_FOLDER:
        return (
            f"its path is {len(text.encode())} bytes long, one name in it {longest}; {_LONGEST_FOLDER} and "
            f"{_LONGEST_NAME} are the most"
        )
    return None


def sqlite_problem(url: str) -> str | None:
    """Returns why the URL of a SQLite file would not mean the file that it seems to; None for other databases."""
    scheme, _, rest = url.partition(":")
    if scheme.partition("+")[0] != "sqlite":
        return None
    path, _, query = rest.partition("?")
    if not path.startswith("////"):
        return f"a relative path means another file in every folder; write sqlite:////...{path.lstrip('/')}"
    if query and not all("=" in option for option in query.split("&")):
        return f"'?' ends the path of a file in a URL, and {query!r} is no option; choose a path without it"
    if found := re.search(r"%[0-9A-Fa-f]{2}", path):
        return f"{found[0]!r} stands for another character in a URL; choose a path without it"
    return None


def sqlite_path(url: str) -> Path | None:
    """Returns the file of a SQLite URL; None for other databases."""
    return Path(url.partition(":///")[2].partition("?")[0]) if url.startswith("sqlite") else None


def sqlite_file_problem(url: str) -> str | None:
    """Returns why the file of a SQLite URL cannot be such a database; None for others, and where there is none yet."""
    path = sqlite_path(url)
    if path is None:
        return None
    if path.exists() and not path.is_file():
        return f"{path} is no file"
    try:
        with path.open("rb") as file:
            begin = file.read(len(_SQLITE))
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return f"{path} is no SQLite database" if begin and begin != _SQLITE else None


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _unwritable(folder: Path) -> str | None:
    """Returns why nothing can be written below a folder that exists or not, or None."""
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        return f"{folder} is a file"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"{folder} cannot be written"
