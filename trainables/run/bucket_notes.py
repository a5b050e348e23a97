"""How the training images of a data set come to lie in aspect-ratio buckets, told before a run."""

from __future__ import annotations

from collections import Counter

from trainables.config.fields import ModelConfig, SubjectConfig
from trainables.data.buckets import Size, buckets_of, nearest_bucket
from trainables.models.folders import bucket_step, local_folder, native_resolution
from trainables.run.data_set import training_sizes


def bucket_notes(
    config: SubjectConfig, model: ModelConfig, resolution: int | None, batch_size: int
) -> list[str]:
    """Returns which buckets a data set's training images fall into, and which of them have less than a batch.

    Nothing is said of a model that is not on this machine, nor of images of which none can be read.

    Args:
        resolution: Pixels; None: the model's own.
        batch_size: Images of a batch, all of which come from one bucket.
    """
    folder = local_folder(model)
    if folder is None:
        return []
    resolution = resolution or native_resolution(folder)
    sizes = training_sizes(config, resolution)
    if not sizes:
        return []
    buckets = buckets_of(resolution, bucket_step(folder))
    found = Counter(nearest_bucket(size, buckets) for size in sizes)
    begin = f"data set {config.name!r}: "
    if set(found) == {buckets[0]}:
        return [
            f"{begin}all images that are trained on are nearest to a square, so that aspect_ratio_buckets: true "
            "changes nothing; leave it out"
        ]
    listed = ", ".join(f"{_words(size)}: {count}" for size, count in found.most_common())
    notes = [f"{begin}images in each aspect-ratio bucket at {resolution} pixels (width x height): {listed}"]
    few = [f"{_words(size)} ({count})" for size, count in found.most_common() if count < batch_size]
    if few:
        notes.append(
            f"{begin}fewer images than a batch of {batch_size} (train_batch_size) in the buckets {', '.join(few)}: "
            "their batches show an image several times, so that such steps are noisier; crop these images to the ratio "
            "of others, leave them out, or take smaller batches with gradient_accumulation_steps"
        )
    return notes


def _words(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
