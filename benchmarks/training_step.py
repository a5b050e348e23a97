"""Our training step against a bare loop: same model, batch and precision, in one process, taking turns.

The bare loop is what one would write by hand: latents and text embeddings at hand, noise, the UNet, the mean squared
error, the backward pass, clipping, AdamW, a schedule; no data loader, no accelerate, no reports. The ratio is ours to
its speed, the median over the turns; the goal is at least 0.9.

    python -m benchmarks.training_step [--method lora dreambooth] [--model PATH] [--batch 4] [--steps 10] [--turns 7]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

GOAL = 0.9


def main() -> int:
    """Prints a line a method; returns 1 if one misses the goal."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--method", nargs="+", default=["lora", "dreambooth", "dreambooth_lora"])
    parser.add_argument("--model", default="embedded")
    parser.add_argument(
        "--subject", default=None, help="a subject of the embedded world; the first by default"
    )
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10, help="steps a turn")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--precision", default="no", choices=["no", "bf16", "fp16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock", default="wall", choices=["wall", "cpu"], help="cpu: on a busy machine, without a GPU"
    )
    options = parser.parse_args()

    import torch

    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{options.model} on {device}, batch {options.batch}, precision {options.precision}, ", end="")
    print(f"{options.turns} turns of {options.steps} steps")
    print(f"{'method':18}{'bare steps/s':>14}{'ours steps/s':>14}{'ratio':>8}{'lowest':>8}{'highest':>9}")
    worst = float("inf")
    for method in options.method:
        bare, ours = measure(method, options, device)
        ratios = [b / o for b, o in zip(bare, ours, strict=True)]
        ratio = statistics.median(ratios)
        worst = min(worst, ratio)
        speeds = [options.steps / statistics.median(seconds) for seconds in (bare, ours)]
        print(
            f"{method:18}{speeds[0]:14.2f}{speeds[1]:14.2f}{ratio:8.3f}{min(ratios):8.3f}{max(ratios):9.3f}",
            flush=True,
        )
    print(f"goal {GOAL}: {'reached' if worst >= GOAL else 'missed'}")
    return 0 if worst >= GOAL else 1


def measure(method: str, options: argparse.Namespace, device: str) -> tuple[list[float], list[float]]:
    """Returns the seconds of each turn, of the bare loop and of ours."""
    import torch

    from trainables.data.cache import Cache
    from trainables.data.subjects import resolve_subject
    from trainables.embedded import subject_names
    from trainables.models.loading import load_backbone
    from trainables.run_config import RunConfig
    from trainables.training.loop import train_step
    from trainables.training.trainer import build_trainer

    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig.model_validate(
            {
                "method": method,
                "model": {"path": options.model},
                "subject": {"name": options.subject or subject_names()[0]},
                "training": {
                    "train_batch_size": options.batch,
                    "mixed_precision": options.precision,
                    "num_class_images": 8,
                    "class_num_inference_steps": 2,
                },
                "output_dir": folder,
                "cache_dir": folder,
            }
        )
        backbone = load_backbone(config.model, device)
        subject = resolve_subject(config.subject, config.training.resolution or backbone.resolution)
        trainer = build_trainer(config, backbone, subject, Cache(folder))
    step = bare_step(config, device, trainer.batches.images)

    def ours() -> None:
        for _ in range(options.steps):
            loss, _ = train_step(trainer)
        float(loss)

    def bare() -> None:
        for _ in range(options.steps):
            loss = step()
        float(loss)

    def seconds(run: Callable[[], None]) -> float:
        clock = time.process_time if options.clock == "cpu" else time.perf_counter
        begin = clock()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - begin

    seconds(bare), seconds(ours)  # warm-up
    turns = [
        (seconds(bare), seconds(ours)) if turn % 2 else tuple(reversed((seconds(ours), seconds(bare))))
        for turn in range(options.turns)
    ]
    return [turn[0] for turn in turns], [turn[1] for turn in turns]


def bare_step(config, device: str, images: int):  # type: ignore[no-untyped-def]
    """Returns a function that does one step of the bare loop on `images` images and returns its loss."""
    import torch
    from diffusers import DDPMScheduler, StableDiffusionPipeline
    from diffusers.optimization import get_scheduler
    from peft import LoraConfig

    from trainables.models.folders import resolve_model

    training = config.training
    folder = str(resolve_model(config.model))
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, use_safetensors=True).to(
        device
    )
    unet = pipeline.unet
    noise_scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[training.mixed_precision]
    if config.method == "dreambooth":
        unet.requires_grad_(True)
    else:
        unet.requires_grad_(False)
        unet.to(dtype)
        unet.add_adapter(
            LoraConfig(
                r=training.r,
                lora_alpha=training.r,
                init_lora_weights="gaussian",
                target_modules=["to_k", "to_q", "to_v", "to_out.0"],
            )
        )
    parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate)
    schedule = get_scheduler("constant", optimizer)
    scaler = torch.amp.GradScaler(device, enabled=training.mixed_precision == "fp16")
    size, channels = unet.config.sample_size, unet.config.in_channels
    latents = torch.randn(images, channels, size, size, device=device)
    text = pipeline.encode_prompt(["a sks cat"] * images, device, 1, False)[0].detach().to(dtype)
    unet.train()

    def step() -> torch.Tensor:
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (images,), device=device)
        noisy = noise_scheduler.add_noise(latents, noise, timesteps)
        target = noise
        if noise_scheduler.config.prediction_type == "v_prediction":
            target = noise_scheduler.get_velocity(latents, noise, timesteps)
        with torch.autocast(device, dtype=dtype, enabled=training.mixed_precision != "no"):
            prediction = unet(noisy, timesteps, encoder_hidden_states=text, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(prediction.float(), target.float())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


if __name__ == "__main__":
    sys.exit(main())
