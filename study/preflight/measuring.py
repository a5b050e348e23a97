"""One of the processes that measure a machine: ``python -m study.preflight.measuring REQUEST RESULT``.

It takes the turns that `study.preflight.probe` asks for, one after another, by the code that a study runs.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from study.preflight.probe import STEPS, Measured
from study.storage.layout import CACHE
from trainables.config.fields import EvaluationConfig
from trainables.errors import UserError
from trainables.run_config import RunConfig

_WARM_UP = 2  # steps that are not counted: allocation, caches of the compiler
_IMAGES = 8  # drawn at once to time sampling
_SOLVER_STEPS = 3


@dataclass(frozen=True)
class _Sampling:
    """Drawing and judging images: one batch of the subject, again and again.

    Attributes:
        draw: Draws the batch in so many solver steps; returns the seconds and the images.
        count: Images of a batch.
        per_image_step, flops: Seconds and counted operations of one step of one image, of the base model.
        per_image: Seconds of decoding and judging an image; the same for every method.
    """

    draw: Callable[[int], tuple[float, Any]]
    count: int
    per_image_step: float = 0.0
    per_image: float = 0.0
    flops: int = 0

    def seconds_per_step(self) -> float:
        """Times a solver step of one image with the model as it is now."""
        self.draw(1)  # the first is slower
        short, _ = self.draw(1)
        long, _ = self.draw(1 + _SOLVER_STEPS)
        return max(0.0, long - short) / _SOLVER_STEPS / self.count


def main(request_file: str, result_file: str) -> None:
    """Measures every request of a file and writes the results."""
    place = Path(result_file)
    try:
        measured = _measure_here(json.loads(Path(request_file).read_text()), place.parent)
        content: dict[str, Any] = {"measured": [asdict(entry) for entry in measured]}
    except UserError as error:
        content = {"problems": list(error.problems)}
    place.write_text(json.dumps(content))


def _measure_here(requests: Sequence[Mapping[str, Any]], folder: Path) -> list[Measured]:
    begin = time.perf_counter()
    import torch

    from trainables.run.resident import Resident
    from trainables.training.trainer import choose_device

    places = {"output_dir": str(folder), "cache_dir": str(folder / CACHE)}
    configs = [RunConfig.model_validate({**request["config"], **places}) for request in requests]
    device = choose_device(configs[0].device)
    if device.type == "cpu":
        torch.set_num_threads(configs[0].cpu_threads)
    resident = Resident()
    backbone = resident.backbone(configs[0].model, device)
    models = resident.metric_models(configs[0].evaluation, device)
    start_up = time.perf_counter() - begin
    evaluation = EvaluationConfig.model_validate(requests[0]["evaluation"])
    sampling = _measure_sampling(configs[0], evaluation, backbone, models)
    return [_measure_method(config, backbone, sampling, start_up, folder) for config in configs]


def _measure_sampling(
    config: RunConfig, evaluation: EvaluationConfig, backbone: Any, models: Any
) -> _Sampling:
    from trainables.data.subjects import resolve_subject
    from trainables.models.sampling import generate
    from trainables.util.flops import count_flops

    resolution = config.training.resolution or backbone.resolution
    prompt = resolve_subject(config.subject, resolution).instance_prompt
    count = min(_IMAGES, evaluation.batch_size)

    def draw(steps: int) -> tuple[float, Any]:
        begin = time.perf_counter()
        drawn = generate(
            backbone,
            [prompt] * count,
            seeds=range(count),
            num_inference_steps=steps,
            guidance_scale=evaluation.guidance_scale,
            batch_size=count,
            resolution=resolution,
        )
        return time.perf_counter() - begin, drawn

    sampling = _Sampling(draw, count)
    per_step = sampling.seconds_per_step()
    short, drawn = draw(1)
    begin = time.perf_counter()
    models.image_encoder.embed(drawn)
    models.clip.embed_images(drawn)
    judging = time.perf_counter() - begin
    flops = count_flops(lambda: draw(2)) - count_flops(lambda: draw(1))
    per_image = max(0.0, short / count - per_step) + judging / count
    return replace(sampling, per_image_step=per_step, per_image=per_image, flops=flops // count)


def _measure_method(
    config: RunConfig, backbone: Any, sampling: _Sampling, start_up: float, folder: Path
) -> Measured:
    """Trains a few steps; raises UserError if that fails, which it would in the study too."""
    from trainables.data.cache import Cache
    from trainables.data.subjects import resolve_subject
    from trainables.errors import TrainingFailure
    from trainables.methods.registry import get_method
    from trainables.models.folders import image_buckets
    from trainables.training.loop import train_step
    from trainables.training.meter import Meter, folder_bytes
    from trainables.training.trainer import build_trainer, count_step_flops

    found: dict[str, Any] = {
        "method": config.method,
        "seconds_per_step": 0.0,
        "flops_per_step": 0,
        "seconds_per_image_step": sampling.per_image_step,
        "flops_per_image_step": sampling.flops,
        "seconds_per_trained_image_step": sampling.per_image_step,
        "latency_figures": 1,
        "seconds_per_image": sampling.per_image,
        "preparation_seconds": 0.0,
        "saving_seconds": 0.0,
        "peak_memory_bytes": None,
        "artifact_bytes": 0,
        "start_up_seconds": start_up,
    }
    method, meter = get_method(config.method), Meter(backbone.device, 1)
    if not method.trains:
        return Measured(**found)
    resolution = config.training.resolution or backbone.resolution
    training = config.training
    buckets = image_buckets(backbone.folder, resolution) if training.aspect_ratio_buckets else ()
    subject = resolve_subject(
        config.subject,
        resolution,
        training.captions,
        masked=training.masked_loss,
        buckets=buckets,
        count=training.num_training_images,
    )
    try:
        build_trainer(config, backbone, subject, Cache(config.cache_dir))  # fills the caches
        method.detach(backbone)
        backbone.restore()
        begin = time.perf_counter()
        trainer = build_trainer(config, backbone, subject, Cache(config.cache_dir))
        found["flops_per_step"] = count_step_flops(trainer)
        found["preparation_seconds"] = time.perf_counter() - begin
        found["seconds_per_step"] = 0.0
        for first, end in trainer.stretches:  # of a method with stages the mean over the run's steps
            for of_bucket in trainer.batches.each_bucket():
                seconds = []
                for _ in range(STEPS):
                    trainer.step = first
                    begin = time.perf_counter()
                    with meter.measure("train"):
                        train_step(trainer)
                    seconds.append(time.perf_counter() - begin)
                share = (end - first) / trainer.steps * of_bucket
                found["seconds_per_step"] += share * statistics.median(seconds[_WARM_UP:])
        backbone.restore_frozen()
        found["seconds_per_trained_image_step"] = sampling.seconds_per_step()
        with method.fused(backbone) as merged:
            found["latency_figures"] += bool(merged)
        begin = time.perf_counter()
        method.save(backbone, config.training, folder / config.method)
        found["saving_seconds"] = time.perf_counter() - begin
    except UserError:
        raise
    except (TrainingFailure, RuntimeError, MemoryError, ValueError, OSError) as error:
        reason = str(error).strip() or type(error).__name__
        raise UserError(
            f"method {config.method} failed in a short trial on this machine: {reason}"
        ) from error
    finally:
        method.detach(backbone)
        backbone.restore()
    found["peak_memory_bytes"] = meter.peak_memory or None
    found["artifact_bytes"] = folder_bytes(folder / config.method, without=method.copies)
    return Measured(**found)


if __name__ == "__main__":
    main(*sys.argv[1:])
