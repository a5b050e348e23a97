"""A run's configuration as a file for ``python -m trainables``: what it states, without what is a default anyway."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from study.storage.layout import Storage
from trainables.errors import UserError
from trainables.events import RUN_FILE
from trainables.run_config import RunConfig
from trainables.util.files import replacing

_WIDTH = 110  # characters of a line
_HEAD = """\
# The configuration of {run} of study {study}: python -m trainables {file}
# It trains the subject of that run, which is to be replaced by your own: subject: {{name: mine, images: FOLDER,
# instance_prompt: a sks dog, class_prompt: a dog}}.
"""


def write_run_file(storage: Storage, run: str, out: Path, notes: Sequence[str] = ()) -> None:
    """Writes the configuration of one run; it trains into ``runs/`` beside the file.

    Args:
        run: Name of a run whose folder is there.
        out: A file that is not there yet.
        notes: Sentences for the comment at its head.

    Raises:
        UserError: The run's record is gone, or the file is there or cannot be written.
    """
    record = storage.runs / run / RUN_FILE
    try:
        config = RunConfig.model_validate_json(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the record of {run} cannot be read ({record}): {error}") from None
    if out.exists():
        raise UserError(f"--out {out} is there already; remove it, or name another file")
    content = {
        "method": config.method,
        "model": config.model.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        or config.model.path,
        "subject": config.subject.model_dump(mode="json", exclude_none=True, exclude_defaults=True),
        "training": stated_training(config),
        "seed": config.seed,
    }
    text = _HEAD.format(run=run, study=storage.study, file=out.name)
    if notes:
        text += textwrap.indent(textwrap.fill(" ".join(notes), _WIDTH), "# ") + "\n"
    text += yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=_WIDTH)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as written:
            written.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"--out {out} cannot be written ({error.strerror or error}); name another file"
        ) from None


def stated_training(config: RunConfig) -> dict[str, Any]:
    """Returns the fields of training from which all others follow, as defaults of the method on this model."""
    whole = config.training.model_dump(mode="json")
    stated: dict[str, Any] = {}
    for _ in range(
        2
    ):  # some defaults follow from other fields: what a first round leaves out wrongly, a second adds
        usual = _trained(config, stated).model_dump(mode="json")
        stated |= {name: value for name, value in whole.items() if usual.get(name) != value}
    return stated if _trained(config, stated).model_dump(mode="json") == whole else whole


def _trained(config: RunConfig, training: dict[str, Any]) -> Any:
    content = config.model_dump(
        mode="json", include={"method", "model", "subject", "output_dir", "cache_dir"}
    )
    return RunConfig.model_validate({**content, "training": training}).training
