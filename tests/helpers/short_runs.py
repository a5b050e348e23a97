"""Runs of a few steps on the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainables.run_config import RunConfig


def config_of(folder: Path, **training: Any) -> RunConfig:
    """A run of two steps on the embedded model."""
    return RunConfig.model_validate(
        {
            "method": "lora",
            "subject": {"name": "cat-1"},
            "training": {"max_train_steps": 2, "train_batch_size": 1, "r": 2, **training},
            "evaluation": {
                "num_prompts": 1,
                "images_per_prompt": 1,
                "num_inference_steps": 1,
                "anchor_images": 2,
                "num_class_images": 2,
            },
            "device": "cpu",
            "output_dir": str(folder),
            "cache_dir": str(folder.parent / "cache"),
        }
    )
