"""Training one classifier for a fixed number of steps, and keeping the step that is best on real validation images.

On one thread of a CPU a training is the same bit by bit when it is repeated, and when it goes on from a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from trainables.classifiers.augmentation import augment
from trainables.classifiers.images import LabelledImages, TrainingData, data_problems
from trainables.classifiers.losses import build_loss
from trainables.classifiers.networks import Classifier, build_classifier
from trainables.classifiers.prediction import predict
from trainables.classifiers.records import Evaluation, Tally, TrainingRecord
from trainables.classifiers.sampling import Drawn, Draws
from trainables.classifiers.scores import balanced_accuracy, confusion_matrix
from trainables.config.classifiers import ClassifierConfig
from trainables.errors import TrainingFailure, UserError
from trainables.randomness import Streams, global_seed, stream_seed
from trainables.util.checkpoint import (
    Checkpoint,
    join_state,
    load_latest,
    remove_torn,
    save_checkpoint,
    split_state,
    to_host,
)
from trainables.util.flops import count_flops

#: Random streams of a training: one does not move when another is drawn from more often.
STREAMS = ("initialisation", "dropout", "sampling", "augmentation")

#: Measures a stretch of a training: of its steps, its validations, its checkpoints.
Measure = Callable[[Literal["train", "select", "save"]], AbstractContextManager[None]]

_STATE = "classifier"  # how names of tensors in checkpoints begin


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier with the weights of its best step, and what its training did."""

    classifier: Classifier
    record: TrainingRecord


def train_classifier(
    config: ClassifierConfig,
    data: TrainingData,
    seed: int,
    folder: Path | None = None,
    device: torch.device | str = "cpu",
) -> TrainedClassifier:
    """Trains a classifier to its end; see `ClassifierTraining` for arguments and errors."""
    training = ClassifierTraining(config, data, seed, folder, device)
    for _ in training.run():
        pass
    return training.finish()


class ClassifierTraining:
    """One training, which can be watched, broken off and gone on with.

    Args:
        seed: Of all its random streams. Trainings with one seed begin with the same weights, and draw the same real
            images and augmentations where they draw real ones.
        folder: For its checkpoints, and for nothing else; a training that is there already goes on. None: no
            checkpoints.
        device: Where it computes.
        measure: Told of each stretch, around it.

    Raises:
        UserError: With a message for each thing that is wrong with configuration and data, or the folder is another
            training's.
    """

    def __init__(
        self,
        config: ClassifierConfig,
        data: TrainingData,
        seed: int,
        folder: Path | None = None,
        device: torch.device | str = "cpu",
        measure: Measure = lambda _: nullcontext(),
    ) -> None:
        problems = data_problems(config, data)
        if problems:
            raise UserError(*problems)
        self.config, self.data, self.seed = config, data, seed
        self._folder, self._device, self._measure = folder, torch.device(device), measure
        self._streams = Streams(stream_seed(seed, _STATE), STREAMS)
        built = build_classifier(
            config.network,
            len(data.classes),
            data.train.size,
            config.weights,
            generator=self._streams["initialisation"],
        )
        self.classifier, self._notes = built.classifier.to(self._device), built.notes
        self._parameters = built.parameters
        self._draws = Draws(data, config.generated_probability, config.sampling, self._streams["sampling"])
        self._loss = build_loss(config, self._draws.class_shares, self._device)
        self._optimizer = build_optimizer(config, self.classifier)
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self._device)
        self._best: dict[str, torch.Tensor] = {}
        self._tally = Tally([0] * len(data.classes), [0] * len(data.classes))
        if not self._resume():
            self._tally.step_flops = count_step_flops(
                self.classifier, config.train_batch_size, data.train.size
            )

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """All validations so far, also those before the training was gone on with."""
        return tuple(self._tally.evaluations)

    @property
    def tally(self) -> Tally:
        """What was done so far; not to be changed."""
        return self._tally

    @property
    def parameters(self) -> int:
        """Number of the network's weights."""
        return self._parameters

    def run(self) -> Iterator[Evaluation]:
        """Trains to the end, and yields each new validation; what is no more iterated over stops.

        Raises:
            TrainingFailure: The loss is no number any more.
        """
        self.classifier.train()
        last = self.config.max_train_steps
        while self._tally.steps < last:
            with self._measure("train"), self._timed("train_seconds"):
                for _ in range(self._steps_to_next_stop()):
                    self._step()
            step, evaluation = self._tally.steps, None
            if step % self.config.validation_steps == 0 or step == last:
                evaluation = self._validate()
            if step % self.config.checkpointing_steps == 0 or step == last:
                self._save()
            if evaluation is not None:
                yield evaluation

    def finish(self) -> TrainedClassifier:
        """Returns the classifier with the weights of its best step, in evaluation mode; after `run`."""
        if self._tally.steps < self.config.max_train_steps:
            raise ValueError(
                f"{self._tally.steps} of {self.config.max_train_steps} steps are done; run() first"
            )
        self.classifier.load_state_dict(self._best)
        self.classifier.eval()
        return TrainedClassifier(self.classifier, self._record())

    def _steps_to_next_stop(self) -> int:
        step = self._tally.steps
        every = (self.config.validation_steps, self.config.checkpointing_steps)
        return min(self.config.max_train_steps - step, *(each - step % each for each in every))

    def _step(self) -> None:
        drawn = self._draws.take(self.config.train_batch_size)
        images = self._images(drawn)
        if self.config.augmentation is not None:
            images = augment(images, self.config.augmentation, self._streams["augmentation"])
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self._tally.steps)
        with global_seed(self._streams["dropout"]):
            loss = self._loss(self.classifier(images.to(self._device)), drawn.labels.to(self._device))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._loss_sum += loss.detach()
        self._count(drawn)

    def _images(self, drawn: Drawn) -> torch.Tensor:
        side = self.data.train.size
        images = torch.empty(len(drawn.labels), 3, side, side)
        sources: tuple[tuple[LabelledImages | None, torch.Tensor], ...]
        sources = ((self.data.train, ~drawn.generated), (self.data.generated, drawn.generated))
        for source, chosen in sources:
            if source is not None and bool(chosen.any()):
                images[chosen] = source.take(drawn.indices[chosen])
        return images

    def _count(self, drawn: Drawn) -> None:
        tally = self._tally
        tally.steps += 1
        for counts, chosen in ((tally.real, ~drawn.generated), (tally.generated, drawn.generated)):
            new = torch.bincount(drawn.labels[chosen], minlength=len(counts)).tolist()
            counts[:] = [before + more for before, more in zip(counts, new, strict=True)]

    def _validate(self) -> Evaluation:
        before = self._tally.evaluations[-1].step if self._tally.evaluations else 0
        step = self._tally.steps
        mean = float(self._loss_sum) / (step - before)
        self._loss_sum.zero_()
        with self._measure("select"), self._timed("validation_seconds"):
            probabilities = predict(self.classifier, self.data.validation)
        labels = self.data.validation.labels
        right = torch.from_numpy(probabilities)[torch.arange(len(labels)), labels]
        loss = float(-right.clamp(min=torch.finfo(right.dtype).tiny).log().mean())
        if not math.isfinite(mean) or math.isnan(loss):
            raise TrainingFailure(
                "nan_loss",
                f"loss {mean} in steps {before + 1} to {step}, {loss} on validation images; a lower learning_rate "
                f"than {self.config.learning_rate:g} may help",
            )
        value = balanced_accuracy(confusion_matrix(labels, probabilities.argmax(1), len(self.data.classes)))
        evaluation = Evaluation(step, value, loss, mean)
        if all(evaluation.rank > other.rank for other in self._tally.evaluations):
            self._best = {name: to_host(tensor) for name, tensor in self.classifier.state_dict().items()}
        self._tally.evaluations.append(evaluation)
        return evaluation

    def _record(self) -> TrainingRecord:
        tally, names = self._tally, self.data.classes
        best = max(tally.evaluations, key=lambda each: each.rank)  # the first of equal ones
        return TrainingRecord(
            seed=self.seed,
            steps=tally.steps,
            real=dict(zip(names, tally.real, strict=True)),
            generated=dict(zip(names, tally.generated, strict=True)),
            train_seconds=tally.train_seconds,
            validation_seconds=tally.validation_seconds,
            train_flops=tally.step_flops * tally.steps,
            best_step=best.step,
            best_balanced_accuracy=best.balanced_accuracy,
            evaluations=self.evaluations,
            parameters=self._parameters,
            notes=self._notes,
            config=self.config.model_dump(mode="json"),
            data_digest=self.data.digest,
        )

    @contextmanager
    def _timed(self, field: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        setattr(self._tally, field, getattr(self._tally, field) + time.perf_counter() - begin)

    # Checkpoints

    def _digest(self) -> str:
        """Names the training: what changes its results."""
        content = self.config.model_dump(mode="json", exclude={"checkpointing_steps"})
        parts = [json.dumps(content, sort_keys=True), str(self.seed), self.data.digest]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _save(self) -> None:
        if self._folder is None:
            return
        state = {
            "network": self.classifier.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "streams": self._streams.state_dict(),
            "best": self._best,
            "loss_sum": self._loss_sum,
        }
        tensors, content = split_state(state, _STATE)
        kept = {"digest": self._digest(), "tally": self._tally.as_dict(), "content": content}
        with self._measure("save"):
            save_checkpoint(self._folder, Checkpoint(self._tally.steps, tensors, kept))

    def _resume(self) -> bool:
        """Goes on from the newest checkpoint; returns whether there is one."""
        found = None if self._folder is None else load_latest(self._folder)
        if found is None or self._folder is None:
            return False
        if found.state.get("digest") != self._digest():
            raise UserError(
                f"{self._folder} holds checkpoints of a training with another configuration, seed or other images; "
                "name another folder, or remove them"
            )
        remove_torn(self._folder)
        state: dict[str, Any] = join_state(found.tensors, found.state["content"])
        self.classifier.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._streams.load_state_dict(state["streams"])
        self._best = state["best"]
        self._loss_sum = state["loss_sum"].to(self._device)
        self._tally = Tally.from_dict(found.state["tally"])
        return True


def build_optimizer(config: ClassifierConfig, classifier: Classifier) -> torch.optim.Optimizer:
    """Returns the configured optimizer of all weights of a classifier."""
    weights, rate, decay = classifier.parameters(), config.learning_rate, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=rate, momentum=config.momentum, weight_decay=decay)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(weights, lr=rate, weight_decay=decay)


def learning_rate(config: ClassifierConfig, step: int) -> float:
    """Returns the rate of the step after `step` steps; cosine is that of Loshchilov and Hutter 2017, one period."""
    if config.lr_scheduler == "constant":
        return config.learning_rate
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.max_train_steps))


def count_step_flops(classifier: Classifier, batch_size: int, image_size: int) -> int:
    """Returns the operations of one step, forwards and backwards, without computing it and without a copy of weights.

    The loss and the optimizer have no matrix products.
    """
    tensors = {name: tensor.detach().to("meta") for name, tensor in classifier.named_buffers()}
    for name, parameter in classifier.named_parameters():
        tensors[name] = parameter.detach().to("meta").requires_grad_(parameter.requires_grad)
    images = torch.empty(batch_size, 3, image_size, image_size, device="meta")

    def step() -> None:
        torch.func.functional_call(classifier, tensors, (images,)).sum().backward()

    return count_flops(step)
