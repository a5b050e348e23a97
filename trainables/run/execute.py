"""The life of one run: from its configuration to its result, through crashes, as a stream of events.

`execute` is a generator. It knows nothing of who consumes it: a Ray actor, a script or a test.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from trainables.data.cache import Cache
from trainables.data.subjects import Subject, resolve_subject
from trainables.distributed.worker_group import WorkerGroup
from trainables.evaluation.choice import evaluations_of
from trainables.evaluation.evaluator import evaluate_at_steps
from trainables.evaluation.grids import save_samples
from trainables.evaluation.image_scores import write_image_scores
from trainables.events import (
    CHECKPOINTS,
    EVALUATION_FILE,
    IMAGE_SCORES,
    SAMPLES,
    WEIGHTS,
    Event,
    EventLog,
    read_events,
)
from trainables.methods.registry import get_method
from trainables.models.backbone import Backbone
from trainables.models.folders import image_buckets
from trainables.run.best_step import BestStep
from trainables.run.contents import sealed
from trainables.run.earlier import length_of, spans
from trainables.run.generation import prepare_generation
from trainables.run.inference import UNMEASURED, drawing_costs, switching_cost
from trainables.run.judged_weights import averaged, judged_weights
from trainables.run.lifecycle import finish, lead
from trainables.run.prompt_checks import refuse_cut_prompts
from trainables.run.resident import Resident
from trainables.run.run_evaluation import RunEvaluation, prepare_run_evaluation
from trainables.run.run_folder import write_json
from trainables.run.surroundings import surroundings
from trainables.run.worker_loop import run_rank, share_checkpoint, undoing
from trainables.run_config import RunConfig
from trainables.training.energy import energy_counter
from trainables.training.length import Spent, settle_length
from trainables.training.loop import Trainer, train
from trainables.training.meter import Meter, folder_bytes
from trainables.training.trainer import build_trainer, choose_device, note_flops, shard, spread
from trainables.util.checkpoint import load_latest, remove_checkpoints, remove_torn
from trainables.util.files import remove_partials


def execute(
    config: RunConfig, resident: Resident | None = None, worker_group: WorkerGroup | None = None
) -> Generator[Event]:
    """Trains and evaluates one run; yields each event after it has been written to the run's event file.

    Called again for the same folder it goes on from the newest checkpoint; a run that has its result yields
    nothing. The result (``result.json``) is written when the run has ended: complete, failed for a reason of
    its own (NaN loss, out of memory, any exception), or stopped early by closing the generator, which makes
    it PRUNED. What is no Exception, such as KeyboardInterrupt thrown into the generator, leaves the run to be
    resumed.

    Args:
        config: The run; its folder must be its own.
        resident: Models that stay in memory from run to run.
        worker_group: The processes that train the run together, each of which calls this; None: this one alone. The
            leader alone touches the folder and yields events; a rank above 0 returns when the run is over.

    Raises:
        InputsChanged: Images, captions or models are not those that the run was begun with.
        UserError: The folder belongs to another configuration.
        OSError: The storage failed (`trainables.storage_errors.storage_failure`); the run is left to be resumed.
        RuntimeError: Another process is working in the folder.
        WorkerGroupLost: A member of the worker group died; the run is left to be resumed.
    """
    worker_group = worker_group or WorkerGroup()
    if not worker_group.is_main_process:
        run_rank(config, resident or Resident(), worker_group)
        return
    kept = resident or Resident()

    def attempt(config: RunConfig, folder: Path, log: EventLog) -> _Attempt:
        return _Attempt(config, folder, log, kept, worker_group)

    try:
        yield from lead(config, sealed, attempt, worker_group.failure_reason)
    finally:
        if not sys.is_finalizing():
            worker_group.end()


class _Attempt:
    """One try at a run, in the process that leads it."""

    def __init__(
        self, config: RunConfig, folder: Path, log: EventLog, resident: Resident, worker_group: WorkerGroup
    ) -> None:
        self.config = config
        self.folder = folder
        self.log = log
        self.resident = resident
        self.worker_group = worker_group
        self.method = get_method(config.method)
        self.installs = getattr(self.method, "install", None)  # weights that were trained elsewhere
        self.training = config.training  # settled for the subject when that is loaded
        self.device = choose_device(config.device, worker_group)
        each = config.cpu_threads if self.device.type == "cpu" else 1
        counter = energy_counter(self.device, config.cpu_threads, config.gpu_share)
        self.meter = Meter(self.device, each * worker_group.size, counter)
        events = read_events(folder)
        self.spans, self.known_steps = spans(events), length_of(events, config.training)
        self.backbone: Backbone | None = None
        self.evaluation: RunEvaluation | None = None
        self.trainer: Trainer | None = None
        self.sound = False  # it has ended, in a way that is provided for
        self._last_step = 0
        self.facts: dict[str, Any] = {}  # cost figures that are known once and do not add up
        # Read before the attempt starts: where it goes on decides what the first event says.
        self.checkpoint = load_latest(folder / CHECKPOINTS) if self.method.trains else None
        restored_by = config.evaluation.restore_best if self.method.trains else None
        self.best = BestStep(folder, restored_by, events)
        # Without the best weights so far, which are damaged: they come again.
        self._begins_anew = self.checkpoint is not None and not self.best.can_go_on_from(self.checkpoint.step)
        if self._begins_anew:
            self.checkpoint = None
        self.accounted = self.checkpoint is None  # the meter holds the cost of earlier attempts

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.trainer.step if self.trainer else self._last_step

    def start(self) -> Event:
        """Records where and with what the attempt runs."""
        return self.log.append(
            "started",
            attempt=len(self.spans) + 1,
            resumed_step=self.checkpoint.step if self.checkpoint else 0,
            steps=self.known_steps,
            **surroundings(self.worker_group, self.device, self.config.model),
        )

    def run(self) -> Iterator[Event]:
        """Prepares, trains, saves and evaluates."""
        if self.device.type == "cpu":
            torch.set_num_threads(self.config.cpu_threads)
        self.worker_group.broadcast("begin")
        remove_torn(self.folder / CHECKPOINTS)
        remove_partials(self.folder)
        if self._begins_anew:
            remove_checkpoints(self.folder / CHECKPOINTS)
        yield self.log.append("phase", name="prepare")
        with self.meter.measure("start"):  # what the first run of a process pays for all
            self.backbone = self.resident.backbone(self.config.model, self.device)
            models = self.resident.metric_models(self.config.evaluation, self.device)
        with self.meter.measure("prepare"):
            subject, cache = self._load()
        with self.meter.measure("evaluate"):  # while the model is the base model
            self.evaluation = prepare_run_evaluation(
                self.backbone,
                subject,
                self.config,
                self.training,
                models,
                cache,
                chooses=self.method.trains,
            )
        with self.meter.measure("prepare"):
            self._prepare(subject, cache)
            generation = prepare_generation(self.config, self.training, subject, self.backbone, models, cache)
        self.meter.account_for_attempts(self.spans)
        if self.trainer is not None:
            checkpoints = self.folder / CHECKPOINTS
            for event in train(
                self.trainer,
                self.log,
                self.meter,
                checkpoints,
                self._evaluation_steps(),
                self._evaluate_between,
            ):
                yield event
                if event.kind == "checkpoint":  # a run whose worker dies is charged what it had spent here
                    yield self.record_cost()
        with averaged(self.trainer, self.meter):
            if self.trainer is not None:
                yield from self._restore_best()
                yield self.log.append("phase", self.step, name="save")
                with self.meter.measure("save"):
                    size = self._save()
                yield self.log.append("artifact", self.step, path=WEIGHTS, role="weights", bytes=size)
            yield from self._evaluate(self.step, final=True)
            yield from self._evaluate_at_steps()
            if generation is not None:
                yield from generation.draw(self.log, self.step, self.meter, self.facts)
            self._measure_drawing()
        self._measure_switch()
        yield from self.record_best(self.step)
        yield self.record_cost()

    def finish(self, outcome: dict[str, Any]) -> Event:
        """Records the end and writes the result."""
        return finish(self.folder, self.config, self.log, self.step, outcome)

    def record_cost(self) -> Event:
        """Records the cost so far; of several such events the last counts."""
        nothing: dict[str, Any] = {"trainable_parameters": 0, "artifact_bytes": 0, **UNMEASURED}
        cost = self.meter.cost(self.step) | nothing | self.facts
        return self.log.append("cost", self.step, **cost)

    def record_best(self, end: int | None) -> list[Event]:
        """Records which step was best, where there is more than one to compare.

        Args:
            end: The last step, if training has come to it.
        """
        line = self.best.line(end)
        return [] if line is None else [self.log.append("best", self.step, **line)]

    def record_last_cost(self) -> None:
        """Records the cost of a run that ends early.

        An attempt that has not come as far as its checkpoint knows nothing of what the run had spent before, and what
        was recorded with the checkpoint stands.
        """
        if self.accounted or self.log.last_step("cost") < 0:
            self.record_cost()

    def give_back(self) -> None:
        """Makes the resident model the base model again, or lets it go; fails neither this run nor the next."""
        self._last_step = self.step
        self.trainer = self.evaluation = None
        backbone, self.backbone = self.backbone, None
        if backbone is not None:
            self.resident.take_back(
                backbone, undoing(backbone, self.method, self.worker_group), sound=self.sound
            )
        if self.device.type == "cuda":
            with suppress(RuntimeError):  # a device that has failed says so again
                torch.cuda.empty_cache()

    def _load(self) -> tuple[Subject, Cache]:
        assert self.backbone is not None
        training = self.config.training
        resolution = training.resolution or self.backbone.resolution
        buckets = image_buckets(self.backbone.folder, resolution) if training.aspect_ratio_buckets else ()
        subject = resolve_subject(
            self.config.subject,
            resolution,
            training.captions,
            masked=training.masked_loss,
            buckets=buckets,
            count=training.num_training_images,
        )
        tokenizer = self.backbone.prompt_tokenizer
        for asked, settings in evaluations_of(subject, self.config.evaluation):
            refuse_cut_prompts(asked, settings, tokenizer, self.config.model.path, training)
        self.training = training.for_subject(subject.instance_prompt, subject.class_prompt)
        return subject, Cache(self.config.cache_dir)

    def _prepare(self, subject: Subject, cache: Cache) -> None:
        assert self.backbone is not None
        if not self.method.trains:
            if self.installs is not None:
                self.installs(self.backbone, self.training)
            return
        self.trainer = build_trainer(
            self.config, self.backbone, subject, cache, self.worker_group, self.meter
        )
        self.facts["trainable_parameters"] = sum(value.numel() for value in self.trainer.parameters.values())
        if self.worker_group.sharded:
            if self.checkpoint is None:  # while the model is whole
                note_flops(self.trainer, self.meter)
            shard(self.trainer)
        take = self.trainer.own_part
        checkpoint, self.checkpoint = share_checkpoint(self.worker_group, self.checkpoint, take), None
        if checkpoint is not None:
            self.trainer.restore(checkpoint, self.meter)
            self.accounted = True
        if not self.meter.flops_per_step:
            note_flops(self.trainer, self.meter)
        spread(self.trainer)
        spent = Spent(self.meter.class_image_flops, self.meter.class_image_seconds)
        settle_length(self.trainer, self.meter.flops_per_step, self.known_steps, spent)

    def _evaluation_steps(self) -> set[int]:
        assert self.trainer is not None
        last = self.trainer.steps
        return {max(1, round(fraction * last)) for fraction in self.config.evaluation.at} - {last}

    def _evaluate_between(self, step: int) -> Iterator[Event]:
        assert self.backbone is not None
        # In the precision of the last evaluation, so that a curve is one of training and not of rounding.
        with averaged(self.trainer, self.meter), self.backbone.in_full_precision():
            yield from self._evaluate(step, final=False)

    def _evaluate(self, step: int, final: bool) -> Iterator[Event]:
        """Scores the model as it is now, unless an earlier attempt has recorded this step."""
        assert self.backbone is not None
        assert self.evaluation is not None
        if self.log.last_step("evaluation") >= step and not final:
            self.best.keep_again(step, judged_weights(self.trainer, self.backbone))
            return
        yield self.log.append("phase", step, name="evaluate")
        with self.meter.measure("evaluate"):
            is_base = not self.method.trains and self.installs is None
            result = self.evaluation.measure(
                self.backbone, is_base=is_base, final=final, choosing=lambda: self.meter.measure("select")
            )
            evaluator = self.evaluation.evaluator_of(final=final)
            pictures = save_samples(evaluator, result, self.folder / SAMPLES, step, final=final)
        for key, path in pictures.items():
            yield self.log.append("image", step, key=key, path=f"{SAMPLES}/{path.name}")
        if final:
            size = write_image_scores(result.image_scores, self.folder / IMAGE_SCORES)
            yield self.log.append("artifact", step, path=IMAGE_SCORES, role="scores", bytes=size)
            size = write_json(self.folder / EVALUATION_FILE, self.evaluation.provenance())
            yield self.log.append("artifact", step, path=EVALUATION_FILE, role="provenance", bytes=size)
        yield self._record_evaluation(step, result.metrics, final=final)

    def _evaluate_at_steps(self) -> Iterator[Event]:
        """Scores the result as it is drawn in other numbers of solver steps, if that is asked for."""
        assert self.backbone is not None
        assert self.evaluation is not None
        for steps in self.config.evaluation.inference_steps:
            with self.meter.measure("evaluate"):
                found = evaluate_at_steps(self.evaluation.evaluator, self.backbone, steps)
            yield self.log.append("inference", self.step, inference_steps=steps, **found)

    def _restore_best(self) -> Iterator[Event]:
        """Evaluates the end as one of the steps to choose from, and puts the weights of the best in its place."""
        if not self.best.restores:
            return
        assert self.backbone is not None
        assert self.evaluation is not None
        step = self.step
        if self.log.last_step("evaluation") < step:
            yield self.log.append("phase", step, name="evaluate")
            with self.meter.measure("select"), self.backbone.in_full_precision():
                metrics = self.evaluation.measure_for_choice(self.backbone)
            yield self._record_evaluation(step, metrics, final=False)
        with self.meter.measure("select"):
            self.best.restore(step, judged_weights(self.trainer, self.backbone))

    def _record_evaluation(self, step: int, metrics: dict[str, float | None], *, final: bool) -> Event:
        """Keeps the weights of the best step on the way, before anything tells that there are such."""
        if not final and self.trainer is not None and step < self.trainer.steps:
            with self.meter.measure("save"):
                self.best.keep_if_best(step, metrics, judged_weights(self.trainer, self.backbone))
        chosen_by = None if final or self.evaluation is None else self.evaluation.chosen_by
        choice = {} if chosen_by is None else {"choice": chosen_by}
        event = self.log.append("evaluation", step, final=final, **choice, **metrics)
        self.best.note(step, metrics, final=final)
        return event

    def _measure_drawing(self) -> None:
        assert self.backbone is not None
        assert self.evaluation is not None
        with self.meter.measure("evaluate"):
            self.facts |= drawing_costs(self.backbone, self.method, self.evaluation.evaluator.protocol)

    def _measure_switch(self) -> None:
        """Makes the model the base model again, which nothing of this run needs any more, and times loading onto it.

        Not in runs of a search: nothing is chosen by it, and there are many of them.
        """
        assert self.backbone is not None
        if not self.method.trains or self.config.evaluation.prompt_set == "search":
            return
        self._last_step = self.step
        self.trainer = None  # with the optimizer's memory
        with self.meter.measure("evaluate"):
            undo = undoing(self.backbone, self.method, self.worker_group)
            self.facts |= switching_cost(self.backbone, self.method, self.folder / WEIGHTS, undo)

    def _save(self) -> int:
        """Writes the weights in one step and returns their size in bytes."""
        assert self.backbone is not None
        target, partial = self.folder / WEIGHTS, self.folder / f"{WEIGHTS}.partial"
        for path in (partial, target):
            shutil.rmtree(path, ignore_errors=True)
        self.backbone.restore_frozen()
        self.method.save(self.backbone, self.training, partial)
        os.replace(partial, target)
        self.facts["artifact_bytes"] = folder_bytes(target, without=self.method.copies)
        return self.facts["artifact_bytes"]
