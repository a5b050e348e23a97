"""One run on the embedded model, trained and judged in this process: its figures, its costs and how it ended."""

from __future__ import annotations

import functools
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.support.casts import CASTS, written_cast

if TYPE_CHECKING:
    from trainables.run.resident import Resident

#: Of a run, by which defaults and ranges are chosen.
FIGURES = (
    "quality",
    "quality_subject_prompt",
    "subject_fidelity_scaled",
    "prompt_fidelity_scaled",
    "class_kept",
)
#: How a configuration is judged where many are compared: 16 images of the subject and of its class, few solver steps.
QUICK = {"images_per_prompt": 2, "num_class_images": 16, "num_inference_steps": 8, "prompt_set": "search"}


#: Kinds of adapters that are compared beside methods, by the names of `adapter`; `lora` is the method itself.
ADAPTERS = ("loha", "lokr", "oft", "boft", "hra", "ia3", "rslora", "dora")
#: What may follow a name, and what it fixes.
VARIANTS: dict[str, dict[str, Any]] = {
    "+prior": {"with_prior_preservation": True},
    "+full": {"trains": "full"},
}


def fields_of(name: str, steps: int, **asked: Any) -> tuple[str, dict[str, Any]]:
    """Returns a method, and the fields of training in which its runs differ from its defaults.

    Batches, warm-up and class images are those of the presets, and the text encoder trains where the method can train
    it: the embedded model reads over unknown words, so that a rare word must be learned.

    Args:
        name: A method, or a kind of adapter of the method `lora`; either with one of `VARIANTS` behind it.
        asked: Further fields, each of which is left out where the method does not read it.
    """
    from trainables.methods.registry import method_config_class

    for variant, fixed in VARIANTS.items():
        if name.endswith(variant):
            name, asked = name.removesuffix(variant), {**asked, **fixed}
    method = "lora" if name in ADAPTERS else name
    config_class = method_config_class(method)
    where_read = {
        "train_batch_size": 2,
        "lr_warmup_steps": 5,
        "max_train_steps": steps,
        "train_text_encoder": True,
        "num_class_images": 16,
        "class_num_inference_steps": 8,
        **asked,
    }
    read = {
        field: value for field, value in where_read.items() if "method" not in config_class.needs_of(field)
    }
    return method, {**read, **({"adapter": name} if name in ADAPTERS else {})}


def check(names: Sequence[str], steps: int, subjects: Sequence[str]) -> None:
    """Looks at what is asked for before the first run.

    Raises:
        ValueError: A method cannot train so few steps, or a subject is not the embedded model's; with what to change.
    """
    from pydantic import ValidationError

    from trainables.embedded import load_subject
    from trainables.methods.registry import method_config_class

    for subject in subjects:
        if subject not in CASTS:
            load_subject(subject)
    for name in names:
        method, fields = fields_of(name, steps)
        config_class = method_config_class(method)
        try:
            config_class.model_validate({**config_class.defaults_beside(fields, embedded=True), **fields})
        except ValidationError as error:
            said = "; ".join(entry["msg"].removeprefix("Value error, ") for entry in error.errors())
            raise ValueError(f"{name} with --steps {steps}: {said}; take more steps") from None


def one_run(
    method: str,
    subject: str,
    training: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    *,
    seed: int,
    cache: str,
) -> dict[str, Any]:
    """Trains and judges one run on one thread; models stay in memory for the next one.

    Args:
        subject: The embedded model's, or a cast of `benchmarks.support.casts`.
        training: Fields of training that differ from the method's defaults for the embedded model.
        evaluation: Likewise, of `EvaluationConfig`.
        cache: Folder of what runs share: class images, anchors, embeddings.

    Returns:
        ``state`` (COMPLETE or FAIL), ``reason``, ``seconds`` in all, and every number of the evaluation and of the
        costs under its name; what was not measured is missing.
    """
    import torch

    from trainables.run.execute import execute
    from trainables.run_config import RunConfig

    torch.set_num_threads(1)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig.model_validate(
            {
                "method": method,
                "subject": {"name": subject, **_files_of(subject, cache)},
                "training": dict(training),
                "evaluation": dict(evaluation),
                "seed": seed,
                "device": "cpu",
                "output_dir": f"{folder}/run",
                "cache_dir": cache,
            }
        )
        for _ in execute(config, _resident()):
            pass
        result = json.loads(Path(folder, "run", "result.json").read_text())
    numbers = {
        name: value
        for name, value in {**(result["evaluation"] or {}), **(result["cost"] or {})}.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {
        "state": result["state"],
        "reason": result["reason"],
        "seconds": round(time.perf_counter() - begin, 2),
        **numbers,
    }


def _files_of(subject: str, cache: str) -> dict[str, Any]:
    return {"dataset": written_cast(subject, Path(cache))} if subject in CASTS else {}


@functools.cache
def _resident() -> Resident:
    from trainables.run.resident import Resident

    return Resident()
