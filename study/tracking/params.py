"""A run's configuration as MLflow's params: flattened, and without what is no parameter of the experiment."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from trainables.config.fields import names_data_set
from trainables.run_config import WITHOUT_EFFECT

# Where a run keeps its files and how it uses the machine: no parameters of the experiment.
# The share of a GPU has always been shown.
# Names of generated images' files are long, and follow from the generator's run.
_NO_PARAMS = {*WITHOUT_EFFECT, "contents", "generated"} - {"gpu_share"}
# What MLflow takes in a parameter's name; patterns for modules may hold more.
_NAME = re.compile(r"[\w./ :-]+")


def flat_params(document: Mapping[str, Any]) -> dict[str, str]:
    """Flattens a run's configuration to MLflow params: dotted names, texts as they are, the rest as JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in flat_fields(document).items()
    }


def flat_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens a run's configuration: dotted names, values as they are; what is None is left out.

    So is `holdout` of a data set, which has no effect: ``dataset.holdout`` says what is held out.
    """
    fields: dict[str, Any] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and all(_NAME.fullmatch(str(name)) for name in value):
            for name, item in value.items():
                visit(f"{prefix}.{name}" if prefix else str(name), item)
        elif value is not None:
            fields[prefix] = value

    visit("", {name: value for name, value in document.items() if name not in _NO_PARAMS})
    if names_data_set(document.get("subject")):
        fields.pop("subject.holdout", None)
    return fields
