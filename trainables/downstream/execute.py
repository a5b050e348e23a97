"""The life of one run that trains a classifier: as `trainables.run.execute`, from its configuration to its result."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from trainables.classifier_run_config import ClassifierRunConfig
from trainables.classifiers.prediction import predict
from trainables.classifiers.records import Evaluation
from trainables.classifiers.scores import score
from trainables.classifiers.training import ClassifierTraining, TrainedClassifier, learning_rate
from trainables.config.fields import ModelConfig
from trainables.distributed.worker_group import WorkerGroup
from trainables.downstream.contents import sealed_classifier
from trainables.downstream.predictions import TEST, VALIDATION, Parts, metrics_of, write_predictions
from trainables.downstream.teaching import Teaching, prepare_teaching
from trainables.events import CHECKPOINTS, PREDICTIONS, RECORD, STEP, Event, EventLog, read_events
from trainables.run.earlier import spans
from trainables.run.lifecycle import finish, lead
from trainables.run.run_folder import write_json
from trainables.run.surroundings import surroundings
from trainables.training.energy import energy_counter
from trainables.training.meter import Meter
from trainables.training.trainer import choose_device
from trainables.util.checkpoint import load_latest, remove_torn
from trainables.util.files import remove_partials


def execute(
    config: ClassifierRunConfig, resident: object = None, worker_group: WorkerGroup | None = None
) -> Generator[Event]:
    """Trains and judges one classifier; yields each event after it has been written to the run's event file.

    It begins, ends and is gone on with as `trainables.run.execute.execute` says, with the same exceptions. What it
    leaves: ``predictions.csv`` (`write_predictions`) and ``record.json``, which says from the training itself how many
    steps were taken, what was drawn, and what was checked.

    Args:
        resident: Not needed; runners have it.
        worker_group: A classifier is trained by one process: the leader.
    """
    worker_group = worker_group or WorkerGroup()
    if not worker_group.is_main_process:
        return

    def attempt(config: ClassifierRunConfig, folder: Path, log: EventLog) -> _Attempt:
        return _Attempt(config, folder, log)

    yield from lead(config, sealed_classifier, attempt)


class _Attempt:
    """One try at a run."""

    def __init__(self, config: ClassifierRunConfig, folder: Path, log: EventLog) -> None:
        self.config, self.folder, self.log = config, folder, log
        self.device = choose_device(config.device)
        threads = config.cpu_threads if self.device.type == "cpu" else 1
        self.meter = Meter(
            self.device, threads, energy_counter(self.device, config.cpu_threads, config.gpu_share)
        )
        events = read_events(folder)
        self.spans = spans(events)
        self._last_cost = next((event.data for event in reversed(events) if event.kind == "cost"), {})
        checkpoint = load_latest(folder / CHECKPOINTS)
        self._resumed_step = checkpoint.step if checkpoint else 0
        self._accounted = checkpoint is None  # the meter holds the cost of earlier attempts
        self._last_step = 0
        self._training: ClassifierTraining | None = None
        self._filter_flops = 0
        self._filter_seconds = 0.0
        self._parameters = 0
        self.sound = False

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._training.tally.steps if self._training else self._last_step

    def start(self) -> Event:
        """Records where and with what the attempt runs."""
        return self.log.append(
            "started",
            attempt=len(self.spans) + 1,
            resumed_step=self._resumed_step,
            steps=self.config.training.stated_steps,
            **surroundings(WorkerGroup(), self.device, ModelConfig()),
        )

    def run(self) -> Iterator[Event]:
        """Prepares, trains, judges and writes what was found."""
        if self.device.type == "cpu":
            torch.set_num_threads(self.config.cpu_threads)
        remove_torn(self.folder / CHECKPOINTS)
        remove_partials(self.folder)
        yield self.log.append("phase", name="prepare")
        with self.meter.measure("prepare"):
            teaching = prepare_teaching(self.config, self.device, self.meter)
            training = self._begin(teaching)
        self.meter.account_for_attempts(self.spans)
        yield self.log.append("phase", self.step, name="train", steps=self.config.training.max_train_steps)
        for evaluation in training.run():
            yield from self._validated(training, evaluation)
        yield self.log.append("phase", self.step, name="evaluate")
        with self.meter.measure("evaluate"):
            trained = training.finish()
            parts, metrics = self._judged(teaching, trained)
        with self.meter.measure("save"):
            size = write_predictions(self.folder / PREDICTIONS, teaching.data.classes, parts)
            record = {**teaching.counted, "training": trained.record.as_dict()}
            record_size = write_json(self.folder / RECORD, record)
        yield self.log.append("artifact", self.step, path=PREDICTIONS, role="predictions", bytes=size)
        yield self.log.append("artifact", self.step, path=RECORD, role="record", bytes=record_size)
        yield self.log.append("evaluation", self.step, final=True, **metrics)
        yield self.record_cost()

    def record_cost(self) -> Event:
        """Records the cost so far; of several such events the last counts."""
        cost = self.meter.cost(self.step)
        cost["preparation_seconds"] += self._filter_seconds
        cost["train_flops"] += self._filter_flops
        return self.log.append(
            "cost", self.step, **cost, trainable_parameters=self._parameters, artifact_bytes=0
        )

    def record_last_cost(self) -> None:
        """Records the cost of a run that ends early, if it is known: see `trainables.run.execute`."""
        if self._accounted or self.log.last_step("cost") < 0:
            self.record_cost()

    def record_best(self, end: int | None) -> list[Event]:
        """Which step was best says ``record.json``."""
        return []

    def finish(self, outcome: dict[str, Any]) -> Event:
        """Records the end and writes the result."""
        return finish(self.folder, self.config, self.log, self.step, outcome)

    def give_back(self) -> None:
        """Lets go of network and images."""
        self._last_step, self._training = self.step, None
        if self.device.type == "cuda":
            with suppress(RuntimeError):  # a device that has failed says so again
                torch.cuda.empty_cache()

    def _begin(self, teaching: Teaching) -> ClassifierTraining:
        """Builds the network, or goes on from the newest checkpoint."""
        self._filter_seconds, self._filter_flops = teaching.filter_cost.seconds, teaching.filter_cost.flops
        training = ClassifierTraining(
            teaching.training,
            teaching.data,
            self.config.seed,
            self.folder / CHECKPOINTS,
            self.device,
            self.meter.measure,
        )
        tally = training.tally
        if tally.steps:
            self.meter.load_state_dict(
                {
                    "seconds": {"train": tally.train_seconds, "select": tally.validation_seconds},
                    "flops_per_step": tally.step_flops,
                    "peak_memory": self._last_cost.get("peak_memory_bytes") or 0,
                    "energy_joules": self._last_cost.get("energy_joules"),
                }
            )
        self.meter.flops_per_step = tally.step_flops
        self._training, self._parameters, self._accounted = training, training.parameters, True
        return training

    def _validated(self, training: ClassifierTraining, evaluation: Evaluation) -> Iterator[Event]:
        """Records a validation, unless an earlier attempt has recorded that step, and the checkpoint after it."""
        step, config = evaluation.step, self.config.training
        if step > self.log.last_step("progress"):
            seconds = training.tally.train_seconds
            yield self.log.append(
                "progress",
                step,
                loss=evaluation.train_loss,
                learning_rate=learning_rate(config, step - 1),
                gradient_norm=None,
                steps_per_second=step / seconds if seconds else None,
                validation_loss=evaluation.loss,
                validation_balanced_accuracy=evaluation.balanced_accuracy,
            )
        if step % config.checkpointing_steps == 0 or step == config.max_train_steps:
            yield self.log.append("checkpoint", step, path=f"{CHECKPOINTS}/{STEP}{step:08d}")
            yield self.record_cost()  # a run whose worker dies is charged what it had spent here

    def _judged(
        self, teaching: Teaching, trained: TrainedClassifier
    ) -> tuple[Parts, dict[str, float | None]]:
        """What the classifier says of held-out images, and the scores."""
        validation = predict(trained.classifier, teaching.data.validation)
        parts = [(VALIDATION, teaching.split.validation, validation)]
        scores = [score(validation, teaching.data.validation.labels.numpy(), teaching.data.classes)]
        if teaching.test is not None:
            probabilities = predict(trained.classifier, teaching.test)
            parts.append((TEST, teaching.split.test, probabilities))
            scores.append(score(probabilities, teaching.test.labels.numpy(), teaching.data.classes))
        test = scores[1] if len(scores) > 1 else None
        return parts, metrics_of(scores[0], test, teaching.prepared.names)
