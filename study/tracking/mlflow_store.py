"""The only module that talks to MLflow: one experiment, found or made, and the few calls that the study needs.

A tracking URI is chosen in this order: given explicitly (``--tracking-uri``), ``MLFLOW_TRACKING_URI``,
``tracking.uri`` of the study file, the storage's own SQLite file.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

from study.storage.layout import MLFLOW_DB, Storage, sqlite_path, sqlite_problem
from study.storage.study_record import frozen_spec
from study.util.redaction import without_credentials
from trainables.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

    from study.tracking.data_inputs import DataInput

# Limits of one log_batch call (MLflow 3.17), with room for tags that MLflow adds.
MAX_METRICS, MAX_PARAMS, MAX_TAGS = 1000, 100, 90
MAX_PARAM_LENGTH, MAX_TAG_LENGTH = 6000, 5000

Answer = TypeVar("Answer")

_STEP = "step"  # tag of a LoggedModel
_MOST_MODELS = 1000  # of one run
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SERVERS = ("http", "https")
_SUPPORTED = (
    f"write an absolute SQLite file (sqlite:////home/me/{MLFLOW_DB}), another database (postgresql://...) or a server "
    "(http://127.0.0.1:5000), or leave it out for the storage's own file"
)


@dataclass(frozen=True)
class Metric:
    """One point of a curve; `time` in milliseconds since the epoch.

    Attributes:
        model_id: The LoggedModel that it is of.
        data: Name and digest of the data set that it was measured on.
    """

    name: str
    value: float
    time: int
    step: int
    model_id: str | None = None
    data: tuple[str, str] | None = None


@dataclass(frozen=True)
class KnownModel:
    """A LoggedModel of a run, at the step that its tag says."""

    model_id: str
    step: int
    ready: bool


def resolve_tracking_uri(storage: Storage, explicit: str | None = None, study_file: str | None = None) -> str:
    """Returns the tracking URI of a study (see the head of this module for the order).

    Args:
        study_file: ``tracking.uri`` of the study file; without it the frozen ``study.json`` is asked.

    Raises:
        UserError: The URI is of a kind that MLflow 3 does not write, or relative.
    """
    if study_file is None:
        study_file = ((frozen_spec(storage) or {}).get("tracking") or {}).get("uri")
    origin, uri = chosen_uri(explicit, study_file) or ("storage", storage.tracking_uri)
    problem = tracking_uri_problem(uri)
    if problem:
        raise UserError(f"{origin}: {problem}")
    return uri


def chosen_uri(explicit: str | None, study_file: str | None) -> tuple[str, str] | None:
    """Returns who names a tracking URI, and the URI; None where nobody does, which means the storage's own store."""
    known = (
        ("--tracking-uri", explicit),
        ("MLFLOW_TRACKING_URI", os.environ.get("MLFLOW_TRACKING_URI")),
        ("tracking.uri", study_file),
    )
    return next(((origin, uri) for origin, uri in known if uri), None)


def tracking_command(verb: str, storage: Storage, uri: str) -> str:
    """Returns ``study VERB NAME`` for the store at `uri`, which is named where the command would take another one."""
    try:
        known = resolve_tracking_uri(storage) == uri
    except UserError:
        known = False
    return storage.command(verb, *([] if known else ["--tracking-uri", without_credentials(uri)]))


def tracking_uri_problem(uri: str) -> str | None:
    """Returns why a tracking URI cannot be used, with the remedy; None if it can."""
    shown = without_credentials(uri)
    if uri != uri.strip():
        return f"{shown!r} begins or ends with a space; leave it out"
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
        return f"{shown!r} does not say how the server is asked; write http://{shown}"
    written = uri.partition(":")[0].split("+")[0] if ":" in uri else ""
    scheme = written.lower()
    if scheme == "postgres":
        return f"{shown!r} is not what databases are called any more; write postgresql{shown[len(written) :]}"
    if uri.partition(":")[0].lower() in ("databricks", "databricks-uc", "uc"):
        return (
            f"Databricks is not supported, got {shown!r}: its experiments are named by folders of a workspace, a "
            f"study's by the study; {_SUPPORTED}"
        )
    if scheme in ("", "file") or len(scheme) == 1:  # a letter: a drive of Windows
        return f"MLflow keeps no runs in plain folders any more, got {shown!r}; {_SUPPORTED}"
    if scheme not in (*_DATABASES, *_SERVERS):
        return f"stores of the kind {written!r} are not supported, got {shown!r}; {_SUPPORTED}"
    if written != scheme:
        return f"{shown!r} has a kind in capitals, which not every part of MLflow reads; write {scheme!r}"
    if problem := sqlite_problem(uri):
        return f"{shown!r}: {problem}"
    return _address_problem(uri, shown) if scheme in _SERVERS else None


def _address_problem(uri: str, shown: str) -> str | None:
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"{shown!r} is no address ({error}); write http://127.0.0.1:5000"
    return None if host else f"a server needs a host, got {shown!r}; write http://127.0.0.1:5000"


def is_server(uri: str) -> bool:
    """Whether a store is asked over HTTP; otherwise it is a database."""
    return uri.split(":", 1)[0] in _SERVERS


def configure_client() -> None:
    """Makes MLflow in this process quiet, private and quick to give up: the event files are the spool."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "60")
    # A request that is repeated blindly after a lost answer makes a second run; we look before we repeat.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    # It prints the traceback of whatever a database says; the tracker says what is missing, and why, in a line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow  # noqa: F401
    for name in ("mlflow", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.ERROR)


def is_missing(error: Exception) -> bool:
    """Whether MLflow says that the run or experiment does not exist."""
    return getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"


def is_unknown_call(error: Exception) -> bool:
    """Whether a server says that it knows no such call: one of an earlier MLflow."""
    return getattr(error, "error_code", None) == "ENDPOINT_NOT_FOUND"


def brief(error: Exception) -> str:
    """Returns the first line of an error, without credentials."""
    return without_credentials((str(error).splitlines() or [type(error).__name__])[0])[:200]


class MlflowStore:
    """One experiment of a tracking store. Every method raises what MLflow raises while the store is away."""

    def __init__(self, uri: str, study: str, artifact_root: Path) -> None:
        self.uri = uri
        self.study = study
        self._artifact_root = artifact_root
        self._experiment_id: str | None = None
        self._client: MlflowClient | None = None
        self._lacks: set[str] = set()  # see `optionally`

    @property
    def client(self) -> MlflowClient:
        """The MLflow client; the first use opens a database and may take seconds to create it."""
        if self._client is None:
            configure_client()
            import mlflow

            path = sqlite_path(self.uri)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            # The registry of the same store, whatever MLFLOW_REGISTRY_URI says: models are known by ids of this one.
            self._client = mlflow.MlflowClient(self.uri, registry_uri=self.uri)
        return self._client

    def ping(self) -> None:
        """Raises unless the store answers."""
        self.client.search_experiments(max_results=1)

    def optionally(self, feature: str, call: Callable[[], Answer]) -> Answer | None:
        """Returns what a call does that servers of earlier versions lack; None from the first time that one says so."""
        if feature in self._lacks:
            return None
        try:
            return call()
        except Exception as error:
            if not is_unknown_call(error):
                raise
            self.ping()  # or a relay in front of a server that is away has said so
            self._lacks.add(feature)
            return None

    def find_experiment(self) -> Experiment | None:
        """Returns the study's experiment; None if there is none."""
        return self.client.get_experiment_by_name(self.study)

    def experiment_id(self) -> str:
        """Returns the id of the study's experiment, which is made if need be."""
        if self._experiment_id is None:
            self._experiment_id = self._ensure_experiment()
        return self._experiment_id

    def _ensure_experiment(self) -> str:
        found = self.find_experiment()
        if found is None:
            # A server knows where its artifacts belong; a bare database would put them in the working folder.
            location = None if is_server(self.uri) else (self._artifact_root / self.study).as_uri()
            try:
                return str(self.client.create_experiment(self.study, artifact_location=location))
            except Exception:
                found = self.find_experiment()  # another driver was faster
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def forget_experiment(self) -> None:
        """Looks the experiment up again at the next use (the store may have been emptied)."""
        self._experiment_id = None

    def tag_experiment(self, tags: Mapping[str, str]) -> None:
        """Sets tags of the experiment that differ."""
        current = self.client.get_experiment(self.experiment_id()).tags
        for name, value in tags.items():
            if current.get(name) != value[:MAX_TAG_LENGTH]:
                self.client.set_experiment_tag(self.experiment_id(), name, value[:MAX_TAG_LENGTH])

    def runs(self, tags: Mapping[str, str]) -> Iterator[Run]:
        """Yields all active runs of the experiment with these tags, oldest first."""
        condition = " and ".join(f"tags.{name} = '{_quoted(value)}'" for name, value in tags.items())
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id()],
                filter_string=condition,
                max_results=500,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def one_run(self, study_id: str, run_key: str) -> Run | None:
        """Returns the run of a key, None if there is none.

        More than one can exist only when an answer of the server was lost; the emptier ones are deleted.
        """
        found = sorted(
            self.runs({"study_id": study_id, "run_key": run_key}),
            key=lambda run: (-int(run.data.tags.get("last_event", 0)), run.info.start_time, run.info.run_id),
        )
        for spare in found[1:]:
            self.client.delete_run(spare.info.run_id)
        return found[0] if found else None

    def create_run(self, name: str, start_time: int, tags: Mapping[str, str]) -> str:
        """Creates a run and returns its id. `start_time` in milliseconds since the epoch."""
        run = self.client.create_run(
            self.experiment_id(), start_time=start_time, tags=_cut(tags, MAX_TAG_LENGTH), run_name=name
        )
        return str(run.info.run_id)

    def log(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Logs metrics (at most `MAX_METRICS`), params and tags; in one batch if they fit into one."""
        from mlflow.entities import Metric as Point
        from mlflow.entities import Param, RunTag

        pairs = [Param(name, value) for name, value in _cut(params or {}, MAX_PARAM_LENGTH).items()]
        points = [
            Point(metric.name, metric.value, metric.time, metric.step, metric.model_id, *(metric.data or ()))
            for metric in metrics
        ]
        texts = [RunTag(name, value) for name, value in _cut(tags or {}, MAX_TAG_LENGTH).items()]
        # The tags tell up to where a run is logged, so they never go before anything else.
        while pairs and (len(pairs) > MAX_PARAMS or len(pairs) + len(points) + len(texts) > MAX_METRICS):
            self.client.log_batch(run_id, params=pairs[:MAX_PARAMS])
            pairs = pairs[MAX_PARAMS:]
        if points and len(points) + len(texts) > MAX_METRICS:
            self.client.log_batch(run_id, metrics=points)
            points = []
        if points or pairs or texts:
            self.client.log_batch(run_id, metrics=points, params=pairs, tags=texts)

    def log_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Uploads one file as an artifact."""
        self.client.log_artifact(run_id, str(path), folder)

    def log_folder(self, run_id: str, path: Path, folder: str) -> None:
        """Uploads a folder's files as artifacts."""
        self.client.log_artifacts(run_id, str(path), folder)

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Uploads a text as an artifact."""
        self.client.log_text(run_id, text, name)

    def artifact_folder(self, run: Run) -> Path | None:
        """Returns the folder of a run's artifacts if it lies on this machine."""
        parts = urlsplit(run.info.artifact_uri or "")
        return Path(unquote(parts.path)) if parts.scheme in ("", "file") and parts.path else None

    def set_status(self, run_id: str, status: str, end_time: int | None = None) -> None:
        """Sets RUNNING, FINISHED, FAILED or KILLED; `end_time` in milliseconds since the epoch."""
        if status == "RUNNING":
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status=status, end_time=end_time)

    # Data sets and models

    def log_inputs(self, run_id: str, inputs: Sequence[DataInput]) -> None:
        """Says which data sets a run has; saying it again changes nothing."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        self.client.log_inputs(
            run_id,
            [
                DatasetInput(
                    Dataset(one.name, one.digest, one.source_type, one.source),
                    [InputTag(MLFLOW_DATASET_CONTEXT, one.context)],
                )
                for one in inputs
            ],
        )

    def create_model(
        self,
        name: str,
        run_id: str,
        step: int,
        kind: str,
        params: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> str:
        """Creates a LoggedModel of a run, pending, and returns its id."""
        model = self.client.create_logged_model(
            self.experiment_id(),
            name,
            run_id,
            _cut({**tags, _STEP: str(step)}, MAX_TAG_LENGTH),
            _cut(params, MAX_PARAM_LENGTH),
            kind,
        )
        return str(model.model_id)

    def models_of(self, run_id: str) -> list[KnownModel]:
        """Returns the LoggedModels of a run that bear a step."""
        found = self.client.search_logged_models(
            [self.experiment_id()], f"source_run_id = '{_quoted(run_id)}'", max_results=_MOST_MODELS
        )
        return [
            KnownModel(str(model.model_id), int(model.tags[_STEP]), str(model.status) == "READY")
            for model in found
            if _STEP in model.tags
        ]

    def linked_models(self, run_id: str) -> set[str]:
        """Returns the ids of the models that stand at a step of a run."""
        outputs = self.client.get_run(run_id).outputs
        return {str(output.model_id) for output in (outputs.model_outputs if outputs else ())}

    def link_models(self, run_id: str, steps: Mapping[str, int]) -> None:
        """Puts models, by their ids, at their steps of a run; refused for one that is there."""
        from mlflow.entities import LoggedModelOutput

        self.client.log_outputs(run_id, [LoggedModelOutput(one, step) for one, step in steps.items()])

    def finish_model(self, model_id: str) -> None:
        """Says that nothing more comes of a model."""
        self.client.finalize_logged_model(model_id, "READY")


def _cut(texts: Mapping[str, str], limit: int) -> dict[str, str]:
    return {name: text if len(text) <= limit else text[: limit - 1] + "…" for name, text in texts.items()}


def _quoted(value: str) -> str:
    if "'" in value:
        raise ValueError(f"{value!r} cannot stand in a search of MLflow")
    return value
