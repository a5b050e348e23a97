"""A short measurement of the machine with the study's own model, from which a plan's estimates follow.

Each method, in each way in which the arms train it (with and without prior preservation, ...), is run for a few steps
and a few images by the same code that a study runs, in as many processes at once as there will be workers, because
cores and memory bandwidth are shared (`study.preflight.measuring`). It happens outside this process, so that the one
that launches a study holds neither a model nor a CUDA context. The result is kept in the storage's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from study.cluster.ray_cluster import usable_cpus
from study.preflight.machine import concurrency, count_gpus
from study.spec.study_spec import StudySpec
from study.storage.layout import PROBES, Storage
from study.util.provenance import package_versions
from trainables.config.paths import is_hub_id
from trainables.errors import UserError
from trainables.methods.registry import BASE
from trainables.run_config import RunConfig
from trainables.util.files import replacing
from trainables.util.import_paths import import_settings

STEPS = 6
_TIMEOUT = 1800.0  # seconds; Stable Diffusion on a slow CPU takes long, but not for ever
_MOST_PROCESSES = 4
_WITHOUT_COST = (  # fields that say nothing of what a step takes
    "learning_rate",
    "text_encoder_learning_rate",
    "embedding_learning_rate",
    "lr_scheduler",
    "lr_num_cycles",
    "lr_power",
    "lr_end_fraction",
    "prior_loss_weight",
)
_VERSION = 4  # of the measurement: a new one makes old results in the cache void


@dataclass(frozen=True)
class Measured:
    """What an arm costs on this machine with a study's model and settings.

    Attributes:
        seconds_per_step: Of training.
        flops_per_step: Counted operations of a step.
        seconds_per_image_step: Of sampling: one image, one solver step, in the evaluation's batches.
        flops_per_image_step: Counted operations of the same.
        seconds_per_trained_image_step: The same with what a run has trained, its adapters beside the weights.
        latency_figures: How often sampling is timed at the end of a run: once more with adapters merged.
        seconds_per_image: Of decoding and judging an image.
        preparation_seconds: Before the first step, once caches are filled.
        saving_seconds: Writing the weights.
        peak_memory_bytes: Of the process (CPU) or of CUDA memory while training; None for the base model.
        artifact_bytes: Size of the weights; None for the base model.
        start_up_seconds: Loading libraries and model in a fresh process.
    """

    method: str
    seconds_per_step: float
    flops_per_step: int
    seconds_per_image_step: float
    flops_per_image_step: int
    seconds_per_trained_image_step: float
    latency_figures: int
    seconds_per_image: float
    preparation_seconds: float
    saving_seconds: float
    peak_memory_bytes: int | None
    artifact_bytes: int | None
    start_up_seconds: float

    def seconds_of_base_images(self, images: float, image_steps: float) -> float:
        """Returns the estimated wall seconds in which the base model's images are drawn and judged, by their number and
        that of all their solver steps together.
        """
        return images * self.seconds_per_image + image_steps * self.seconds_per_image_step

    def seconds_of_run(self, steps: float, images: float, image_steps: float, workers: int = 1) -> float:
        """Returns the estimated wall seconds of a run, its workers being ready; at best they share evenly."""
        training = (
            0.0 if self.method == BASE else steps * self.seconds_per_step / workers + self.saving_seconds
        )
        judging = images * self.seconds_per_image + image_steps * self.seconds_per_trained_image_step
        return self.preparation_seconds + training + judging


def probe_machine(spec: StudySpec, storage: Storage) -> dict[str, Measured]:
    """Measures every arm of a study, those that cost the same once, or takes what an earlier probe has measured.

    Returns:
        By the name of the arm.

    Raises:
        UserError: A method fails already in the probe; with its message.
    """
    files = _answer_files(spec, storage)
    missing = {file: request for file, request in files.values() if _read(file) is None}
    if missing:
        measured = _measure(list(missing.values()), _processes(spec))
        for file, one in zip(missing, measured, strict=True):
            _write(file, one)
    known = {name: _read(file) for name, (file, _) in files.items()}
    return {name: cost for name, cost in known.items() if cost is not None}


def known_probe(spec: StudySpec, storage: Storage) -> dict[str, Measured] | None:
    """Returns what an earlier probe of this machine has measured for a study, None if that is not all.

    Measures nothing.
    """
    known = {name: _read(file) for name, (file, _) in _answer_files(spec, storage).items()}
    found = {name: cost for name, cost in known.items() if cost is not None}
    return found if len(found) == len(known) else None


def _answer_files(spec: StudySpec, storage: Storage) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Where the measurement of each arm lies or would lie, and how it is asked for."""
    requests = {name: _request(spec, name) for name in spec.arms}
    folder = storage.cache / PROBES
    return {name: (folder / f"{_digest(one, spec)}.json", one) for name, one in requests.items()}


def _request(spec: StudySpec, arm: str) -> dict[str, Any]:
    """A short run of an arm in its most demanding configuration, with the numbers to scale it up by."""
    method = spec.arms[arm].method
    largest = {} if method == BASE else list(spec.space(arm).corners())[-1]
    training = spec.method_config(arm, largest)
    training = {name: value for name, value in training.items() if name not in _WITHOUT_COST}
    training |= {
        "max_train_flops": None,
        "max_train_seconds": None,
        "budget_share": 1.0,
        "max_train_steps": STEPS,
        "lr_warmup_steps": 0,
        "checkpointing_steps": 10 * STEPS,
        "num_class_images": 1,
        "class_num_inference_steps": 1,
    }
    subject = (spec.search.subjects or spec.confirm.subjects or ())[0]
    evaluation = spec.evaluation.of_phase("confirm")
    config = RunConfig(
        method=method,
        model=spec.model,
        subject=spec.subject(subject),
        training=training,
        evaluation=evaluation,
        device="cuda" if spec.resources.worker_gpus > 0 else "cpu",
        cpu_threads=spec.resources.worker_cpus,
        output_dir="",
        cache_dir="",
    )
    return {"config": config.model_dump(mode="json"), "evaluation": evaluation.model_dump(mode="json")}


def _digest(request: Mapping[str, Any], spec: StudySpec) -> str:
    """Identifies a measurement: the machine, the versions, the model and what is run."""
    versions = package_versions()
    machine = {
        "host": platform.node(),
        "processor": platform.machine(),
        "cores": usable_cpus(),
        "gpus": count_gpus(),
        "versions": {name: versions[name] for name in ("torch", "diffusers", "peft") if name in versions},
        "processes": _processes(spec),
        "model": _model_stamp(spec),
        "version": _VERSION,
    }
    text = json.dumps({"machine": machine, "request": request}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _processes(spec: StudySpec) -> int:
    """How many processes measure at once: as many as will train, up to a point."""
    return min(concurrency(spec.resources) * spec.resources.num_workers, _MOST_PROCESSES)


def _model_stamp(spec: StudySpec) -> list[Any]:
    """Sizes and times of a model folder's weights: enough to notice that it was replaced."""
    from trainables.models.folders import resolve_model

    if is_hub_id(spec.model.path) and not Path(spec.model.path).exists():
        return [spec.model.path, spec.model.revision]
    files = sorted(resolve_model(spec.model).rglob("*.safetensors"))
    return [[path.name, path.stat().st_size, int(path.stat().st_mtime)] for path in files]


def _measure(requests: Sequence[Mapping[str, Any]], processes: int) -> list[Measured]:
    """Runs the requests one after another in each of several processes at once; returns the means."""
    with tempfile.TemporaryDirectory(prefix="study-probe-") as folder:
        running = []
        for number in range(processes):
            work = Path(folder) / str(number)
            work.mkdir()
            (work / "request.json").write_text(json.dumps(list(requests)))
            with (work / "log").open("wb") as log:
                command = [
                    sys.executable,
                    "-m",
                    "study.preflight.measuring",
                    str(work / "request.json"),
                    str(work / "answer.json"),
                ]
                process = subprocess.Popen(
                    command, stdout=log, stderr=subprocess.STDOUT, env=_environment(requests)
                )
                running.append((process, work))
        try:
            deadline = time.monotonic() + _TIMEOUT
            for process, _ in running:
                process.wait(max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise UserError(
                f"the probe took more than {_TIMEOUT / 60:.0f} minutes; plan with --no-probe"
            ) from None
        finally:
            for process, _ in running:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        return _means([_result(work) for _, work in running])


def _environment(requests: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    config = requests[0]["config"]
    environment = {
        **os.environ,
        **import_settings(),
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": str(config["cpu_threads"]),
    }
    if config["device"] == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment


def _result(work: Path) -> list[Measured]:
    try:
        content = json.loads((work / "answer.json").read_text())
    except (OSError, ValueError):
        tail = (work / "log").read_text(errors="replace").strip().splitlines()[-3:]
        raise UserError(
            f"the probe of this machine died: {' '.join(tail) or 'no message'}; plan with --no-probe"
        ) from None
    if "problems" in content:
        raise UserError(*content["problems"])
    return [Measured(**entry) for entry in content["measured"]]


def _means(results: Sequence[Sequence[Measured]]) -> list[Measured]:
    means = []
    for same in zip(*results, strict=True):
        values: dict[str, Any] = {"method": same[0].method}
        for field in fields(Measured)[1:]:
            numbers = [getattr(measured, field.name) for measured in same]
            known = [number for number in numbers if number is not None]
            mean = statistics.fmean(known) if known else None
            whole = mean is not None and field.name.endswith(("_bytes", "flops_per_step", "figures"))
            values[field.name] = int(mean) if whole and mean is not None else mean
        means.append(Measured(**values))
    return means


def _read(file: Path) -> Measured | None:
    try:
        return Measured(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write(file: Path, measured: Measured) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, durable=False) as partial:
        partial.write_text(json.dumps(asdict(measured)))
