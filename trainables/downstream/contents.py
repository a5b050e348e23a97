"""What the files hold that a classifier's run reads: its prepared data set and the weights that it starts from.

Nothing here needs torch.
"""

from __future__ import annotations

from pathlib import Path

from trainables.classifier_run_config import AnyRunConfig, ClassifierRunConfig
from trainables.errors import UserError
from trainables.evaluation.prepared_classes import prepared_contents
from trainables.run.contents import Contents, checked, require_as_split, sealed, weights_contents

DATA, WEIGHTS = "data", "weights"  # fields of `ClassifierRunConfig.contents`


def contents_of_classifier(data: str, weights: str | None = None) -> dict[str, Contents]:
    """Returns what lies in the folders that a classifier's run names, by the field of its `contents`.

    Raises:
        UserError: `data` is no prepared data set.
    """
    found = {DATA: prepared_contents(Path(data))}
    held = None if weights is None else weights_contents(weights)
    return found if held is None else {**found, WEIGHTS: held}


def sealed_classifier(config: ClassifierRunConfig) -> ClassifierRunConfig:
    """Returns the configuration with what it reads, as `trainables.run.contents.sealed` does.

    The images themselves are compared with what was split, too: files may have been exchanged, or added to a folder.

    Raises:
        InputsChanged: Naming the files.
        UserError: Something cannot be read.
    """
    try:
        found = contents_of_classifier(config.data, config.training.weights)
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}); change its permissions"
        ) from None
    config = checked(config, found, {DATA: config.data, WEIGHTS: config.training.weights})
    require_as_split(config.data)
    return config


def sealed_run(config: AnyRunConfig) -> AnyRunConfig:
    """Returns the configuration of a run of either kind with what it reads."""
    return sealed_classifier(config) if isinstance(config, ClassifierRunConfig) else sealed(config)
