"""Make the embedded model's weights from nothing: `python -m benchmarks.pretrain --out DIR`.

Each stage prints its progress and checkpoints into `DIR/state`; running the same command again
goes on where it stopped. Finished stages are not run again unless given more steps.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.pretraining import autoencoder, clip, grading, image_encoder, judge, unet
from benchmarks.pretraining.common import IDENTITIES, STAGES, Budget

# Steps and pictures a step of the shipped weights, and minutes on one core of a 2-core machine.
SHIPPED: dict[str, tuple[int, int, float]] = {
    "autoencoder": (3200, 8, 15),
    "judge": (1600, 64, 4),
    "image_encoder": (700, 128, 15),
    "clip": (320, 96, 6),
    "unet": (4000, 48, 59),
    "decoder": (1200, 8, 4),
    "grading": (240, 128, 5),
}


def budget_for(stage: str, base: Budget, minutes: float | None) -> Budget:
    """The shipped steps of a stage, or all stages shortened or lengthened alike to take `minutes`."""
    steps, batch, _ = SHIPPED[stage]
    if minutes is not None:
        steps = max(1, round(steps * minutes / sum(cost for _, _, cost in SHIPPED.values())))
    return replace(base, steps=steps, batch=batch)


def _autoencoder(budget: Budget) -> None:
    autoencoder.train(budget).save_pretrained(budget.work / "vae")


def _judge(budget: Budget) -> None:
    judge.train(budget).save_pretrained(budget.work / "judge")


def _image_encoder(budget: Budget) -> None:
    image_encoder.train(budget).save_pretrained(budget.work / "image_encoder")


def _clip(budget: Budget) -> None:
    from transformers import ViTModel

    start = ViTModel.from_pretrained(budget.work / "image_encoder", add_pooling_layer=False)
    clip.train(budget, start).save_pretrained(budget.work / "clip")


def _load_vae(budget: Budget, name: str = "vae") -> autoencoder.AutoencoderKL:
    model = autoencoder.AutoencoderKL.from_pretrained(budget.work / name)
    return model.to(memory_format=torch.channels_last)


def _unet(budget: Budget) -> None:
    denoiser, text_encoder, _ = unet.train(budget, _load_vae(budget))
    denoiser.save_pretrained(budget.work / "unet")
    text_encoder.save_pretrained(budget.work / "text_encoder")


def _decoder(budget: Budget) -> None:
    model = autoencoder.train_decoder(budget, _load_vae(budget))
    model.save_pretrained(budget.work / "vae-final")


def _grading(budget: Budget) -> None:
    from transformers import ViTModel

    start = ViTModel.from_pretrained(budget.work / "image_encoder", add_pooling_layer=False)
    grading.train(budget, start).save_pretrained(budget.work / "image_encoder-final")


RUN: dict[str, Callable[[Budget], None]] = {
    "autoencoder": _autoencoder,
    "judge": _judge,
    "image_encoder": _image_encoder,
    "clip": _clip,
    "unet": _unet,
    "decoder": _decoder,
    "grading": _grading,
}


def export(state: Path, out: Path) -> int:
    """Write the four float16 folders from what the stages left in `state`; returns their bytes."""
    from transformers import (
        AutoModel,
        CLIPTextModel,
        ResNetForImageClassification,
        ViTConfig,
        ViTModel,
    )

    part = out.parent / f"{out.name}.part"
    shutil.rmtree(part, ignore_errors=True)

    def latest(name: str) -> Path:
        final = state / f"{name}-final"
        return final if final.exists() else state / name

    unet.save_generator(
        part / "generator",
        autoencoder.AutoencoderKL.from_pretrained(latest("vae")),
        unet.UNet2DConditionModel.from_pretrained(state / "unet"),
        CLIPTextModel.from_pretrained(state / "text_encoder"),
    )
    clip.save(AutoModel.from_pretrained(state / "clip").half(), part / "clip")
    # An unused pooler, so that AutoModel finds every weight that it looks for.
    encoder = ViTModel(ViTConfig.from_pretrained(latest("image_encoder")))
    trained = ViTModel.from_pretrained(latest("image_encoder"), add_pooling_layer=False)
    encoder.load_state_dict(trained.state_dict(), strict=False)
    torch.nn.init.eye_(encoder.pooler.dense.weight)
    reader = ResNetForImageClassification.from_pretrained(state / "judge")
    for model, name in ((encoder, "image_encoder"), (reader, "judge")):
        model.half().save_pretrained(part / name)
        judge.save_processor(part / name)
    for name in ("clip", "image_encoder", "judge"):
        unet.declare_float32(part / name)
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: train the stages asked for, then export what exists."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretrain", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for state/ and weights/")
    parser.add_argument("--stage", action="append", choices=STAGES, help="default: all, in order")
    parser.add_argument("--minutes", type=float, help="about how long all stages take together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--identities", type=int, default=IDENTITIES, help="size of the pool / 4")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to test the script")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    base = Budget(
        work=given.out / "state", steps=0, batch=0, seed=given.seed, identities=given.identities,
        tiny=given.tiny,
    )  # fmt: skip
    base.work.mkdir(parents=True, exist_ok=True)
    for stage in given.stage or STAGES:
        RUN[stage](budget_for(stage, base, given.minutes))
    if all((base.work / name).exists() for name in ("vae", "judge", "image_encoder", "clip", "unet")):
        size = export(base.work, given.out / "weights")
        print(f"weights: {size / 1e6:.1f} MB in {given.out / 'weights'}")


if __name__ == "__main__":
    main()
