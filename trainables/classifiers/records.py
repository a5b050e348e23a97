"""What one training of a classifier did, counted on the way: steps, images by source and class, cost, validations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Evaluation:
    """One validation, on real images that are not trained on.

    Attributes:
        step: Optimizer steps done.
        balanced_accuracy: Mean recall of the classes, by which the step is chosen.
        loss: Mean cross entropy of an image in nats, whatever loss is trained on.
        train_loss: Mean of the trained loss over the steps since the validation before.
    """

    step: int
    balanced_accuracy: float
    loss: float
    train_loss: float

    @property
    def rank(self) -> tuple[float, float]:
        """What is higher for a better step: balanced accuracy and, where it is equal, less loss.

        Of few validation images many steps have all right; the first of them may have hardly begun to learn.
        """
        return self.balanced_accuracy, -self.loss


@dataclass
class Tally:
    """Counts of a training so far; all are kept in its checkpoints.

    Attributes:
        steps: Optimizer steps that were taken.
        real: Images of each class that were drawn from the real ones, with repeats; likewise `generated`.
        train_seconds: Without validations and checkpoints; likewise `validation_seconds`. Of steps that a checkpoint
            has kept: what was trained twice counts once.
        step_flops: Operations of one step's matrix products and convolutions, forwards and backwards.
    """

    real: list[int]
    generated: list[int]
    steps: int = 0
    train_seconds: float = 0.0
    validation_seconds: float = 0.0
    step_flops: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Returns the counts as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Tally:
        """Inverse of `as_dict`."""
        evaluations = [Evaluation(**each) for each in content["evaluations"]]
        return cls(**{**content, "evaluations": evaluations})


@dataclass(frozen=True)
class TrainingRecord:
    """What a training did in the end; see `Tally` for the counts.

    Attributes:
        real: By the name of the class; likewise `generated`.
        train_flops: Of all steps.
        best_step: The step whose weights are kept: of the highest balanced accuracy on validation (`Evaluation.rank`).
        parameters: Number of the network's weights.
        notes: What is to be known of the network (`networks.BuiltClassifier`).
        config: As it was stated, with defaults.
        data_digest: Names the content of all images.
    """

    seed: int
    steps: int
    real: dict[str, int]
    generated: dict[str, int]
    train_seconds: float
    validation_seconds: float
    train_flops: int
    best_step: int
    best_balanced_accuracy: float
    evaluations: tuple[Evaluation, ...]
    parameters: int
    notes: tuple[str, ...]
    config: dict[str, Any]
    data_digest: str

    @property
    def images(self) -> int:
        """Images that were drawn, with repeats."""
        return sum(self.real.values()) + sum(self.generated.values())

    @property
    def generated_share(self) -> float:
        """Share of generated images among all that were drawn."""
        return sum(self.generated.values()) / self.images

    def as_dict(self) -> dict[str, Any]:
        """Returns the record as JSON values."""
        content = asdict(self)
        content["evaluations"] = [asdict(each) for each in self.evaluations]
        return content | {"notes": list(self.notes)}


def unequal_lengths(records: Mapping[str, TrainingRecord]) -> list[str]:
    """Returns a message for each kind of length in which trainings differ that are to be compared; none if all agree.

    Args:
        records: By the name of the training.
    """
    lengths = {
        "optimizer steps": {name: record.steps for name, record in records.items()},
        "images drawn": {name: record.images for name, record in records.items()},
    }
    return [
        f"{kind} differ: " + ", ".join(f"{name} {count}" for name, count in counts.items())
        for kind, counts in lengths.items()
        if len(set(counts.values())) > 1
    ]
