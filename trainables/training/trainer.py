"""From a run's configuration to a trainer that is ready for its first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch

from trainables.config.fields import TrainingConfig
from trainables.data.cache import Cache
from trainables.data.subjects import Subject, prompts_of
from trainables.distributed.fsdp import Shards, parameters_of
from trainables.distributed.worker_group import ProcessWorkerGroup, WorkerGroup
from trainables.methods.registry import get_method
from trainables.models.backbone import Backbone, enable_gradient_checkpointing, stop_dropout
from trainables.models.conditioning import Conditioning
from trainables.randomness import Streams, subject_seed
from trainables.run_config import RunConfig
from trainables.training import stages
from trainables.training.batches import Batches, Texts
from trainables.training.encoded import encode_data, share_encoded
from trainables.training.loop import SharedLoss, Trainer, batch_loss
from trainables.training.meter import Meter
from trainables.training.noise import process_of
from trainables.training.optim import build_optimizer, build_schedule
from trainables.training.stages import STAGE
from trainables.util.flops import count_flops

#: Operations of a batch of each bucket, by model in memory and kind of run.
_COUNTED: WeakKeyDictionary[Backbone, dict[str, tuple[int, ...]]] = WeakKeyDictionary()
_LOW_PRECISION = {"fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(name: str, worker_group: WorkerGroup | None = None) -> torch.device:
    """Returns the device that a configuration names; "auto" takes CUDA where there is one.

    Of a worker group, each process of a machine takes a GPU of its own, and makes it torch's current one.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and worker_group is not None and worker_group.size > 1:
        device = torch.device("cuda", worker_group.local_rank)
        torch.cuda.set_device(device)
        return device
    return torch.device(name)


def build_trainer(
    config: RunConfig,
    backbone: Backbone,
    subject: Subject | None,
    cache: Cache | None,
    worker_group: WorkerGroup | None = None,
    meter: Meter | None = None,
) -> Trainer:
    """Prepares data and parameters of a run.

    What the frozen base model computes (latents, embeddings, class images) comes first and in float32, so
    that the caches do not depend on the precision that a run trains in. Only then do parameters change. Before it
    come the words that a method adds to the base model's, for captions to hold them.

    Args:
        subject: None in a rank above 0, which gets what the leader has prepared; likewise `cache`.
        meter: Is told what the class images took; None where nobody asks.
    """
    method, worker_group = get_method(config.method), worker_group or WorkerGroup()
    training = config.training.for_subject(*prompts_of(config.subject))
    streams = Streams(subject_seed(config.seed, config.subject.name))
    method.prepare(backbone, training)
    encoded = None
    if subject is not None and cache is not None:
        meter = meter or Meter(backbone.device, 1)
        shown = subject.trained_on(training.num_training_images)
        encoded = encode_data(backbone, cache, shown, method, training, meter)
    encoded = share_encoded(worker_group, encoded, backbone.device)
    texts, base_text = encoded.texts, encoded.base_text
    groups = method.attach(backbone, training, streams["initialisation"])
    if training.mixed_precision != "no":
        backbone.lower_precision(_LOW_PRECISION[training.mixed_precision])
        dtype = _LOW_PRECISION[training.mixed_precision]
        if not texts.are_tokens:
            texts = Texts(texts.captions, _in(dtype, texts.rows), False)
        base_text = None if base_text is None else _in(dtype, base_text)
    if training.trains_on_base:
        backbone.keep_base()
    trained = [str(group["name"]) for group in groups]
    for part in trained:
        backbone.modules[part].train()
    for part in _read_alone(backbone, groups):
        stop_dropout(backbone.modules[part])
    if training.gradient_checkpointing:  # gradients pass the denoiser, whatever trains
        for part in dict.fromkeys((backbone.family.denoiser.name, *trained)):
            enable_gradient_checkpointing(backbone.modules[part])
    return Trainer(
        config=training,
        batches=Batches(
            encoded.examples,
            encoded.priors,
            streams,
            process=process_of(backbone, training),
            size=training.train_batch_size,
            scale=backbone.latent_scale,
            shift=backbone.latent_shift,
            prior_loss_weight=training.prior_loss_weight,
            noise_offset=training.noise_offset,
            priors_from_base=training.trains_on_base,
            caption_dropout=training.caption_dropout,
            empty_caption=texts.captions.index("") if training.caption_dropout else 0,
        ),
        texts=texts,
        base_text=base_text,
        streams=streams,
        worker_group=worker_group,
        **_what_trains(
            training, backbone, groups, averages=worker_group.is_main_process and not worker_group.sharded
        ),
    )


def _in(dtype: torch.dtype, rows: Conditioning) -> Conditioning:
    return {name: value.to(dtype) for name, value in rows.items()}


def _read_alone(backbone: Backbone, groups: list[dict[str, Any]]) -> set[str]:
    """Returns the parts of which nothing trains but embeddings of added words.

    Dropout in them (0.1 in a T5) would hold back no weight: it would teach the words under another text encoder than
    the one that reads them.
    """
    added = {id(value) for value in backbone.added_embeddings.values()}
    trained = {str(group["name"]) for group in groups for value in group["params"] if id(value) not in added}
    return {str(group["name"]) for group in groups} - trained


def _what_trains(
    training: TrainingConfig, backbone: Backbone, groups: list[dict[str, Any]], *, averages: bool
) -> dict[str, Any]:
    """Returns those attributes of a `Trainer` that depend on the parameters, as arguments for it."""
    accelerator = _accelerator(training, backbone.device)
    optimizer = build_optimizer(groups, training)
    schedule = build_schedule(optimizer, training)
    parameters = _named(backbone, groups)
    return {
        "backbone": backbone,
        "modules": [backbone.modules[part] for part in dict.fromkeys(group["name"] for group in groups)],
        "accelerator": accelerator,
        "parameters": parameters,
        "optimizer": accelerator.prepare_optimizer(optimizer, device_placement=False),
        "schedule": schedule,
        "average": average_of(training, parameters) if averages else None,
    }


def shard(trainer: Trainer) -> None:
    """Lets a worker group share the model (FSDP): each process holds a part of weights, gradients and optimizer.

    For a trainer that has done no step and was not restored; `restore` comes after it.
    """
    assert isinstance(trainer.worker_group, ProcessWorkerGroup)
    whole, texts = trainer.backbone, trainer.texts
    trained = [str(group["name"]) for group in trainer.optimizer.param_groups]
    read = [part.name for part in whole.family.text_encoders] if texts.are_tokens else []
    parts = list(dict.fromkeys([whole.family.denoiser.name, *trained, *read]))
    shards = Shards(whole, parts, trainer.worker_group)
    copies = parameters_of(shards.backbone)
    names = {id(parameter): name for name, parameter in trainer.parameters.items()}
    groups = [
        {
            "name": group["name"],
            "params": [copies[names[id(parameter)]] for parameter in group["params"]],
            "lr": group["initial_lr"],
            "weight_decay": group["weight_decay"],
            **({STAGE: group[STAGE]} if STAGE in group else {}),
        }
        for group in trainer.optimizer.param_groups
    ]
    vars(trainer).update(_what_trains(trainer.config, shards.backbone, groups, averages=True))
    trainer.modules = [shards.backbone.modules[part] for part in parts]
    trainer.shared_loss = shards.share(SharedLoss(trainer))
    trainer.shards = shards


def spread(trainer: Trainer) -> None:
    """Lets the processes of a worker group exchange gradients (accelerate, DDP); the last step of preparation.

    The leader's weights become those of all.
    """
    if trainer.worker_group.size == 1 or trainer.shards is not None:
        return
    from accelerate.utils import DistributedDataParallelKwargs

    staged = len(trainer.stretches) > 1  # all parameters exchange gradients, and in each stage some have none
    trainer.accelerator.ddp_handler = DistributedDataParallelKwargs(
        find_unused_parameters=staged or _some_are_unused(trainer)
    )
    with trainer.worker_group.collective():
        trainer.shared_loss = trainer.accelerator.prepare_model(SharedLoss(trainer), device_placement=False)
        trainer.shared_loss.register_comm_hook(
            trainer.worker_group, lambda worker_group, bucket: worker_group.all_reduce_bucket(bucket)
        )


def _some_are_unused(trainer: Trainer) -> bool:
    """Whether there are parameters that a step gives no gradient: nothing must wait for theirs."""
    with _without_traces(trainer):
        with trainer.accelerator.autocast():
            loss = batch_loss(trainer, trainer.batches.sample())
        loss.backward()
        return any(value.grad is None for value in trainer.parameters.values())


@contextmanager
def _without_traces(trainer: Trainer) -> Iterator[None]:
    """Lets gradients be computed that are thrown away; torch's random generators are put back."""
    device = trainer.backbone.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
    trainer.optimizer.optimizer.zero_grad(set_to_none=True)


@contextmanager
def _without_gradients(trainer: Trainer) -> Iterator[None]:
    """Lets every gradient be dropped as soon as it is there: all of them at once may not fit."""

    def drop(parameter: torch.Tensor) -> None:
        parameter.grad = None

    asking = [value for value in trainer.parameters.values() if value.requires_grad]
    hooks = [value.register_post_accumulate_grad_hook(drop) for value in asking]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def count_step_flops(trainer: Trainer) -> int:
    """Returns the floating-point operations of one optimizer step; of several buckets the mean over the batches of a
    long run.
    """
    return _step_flops(trainer, count_bucket_flops(trainer))


def note_flops(trainer: Trainer, meter: Meter) -> None:
    """Tells a run's meter what a step takes, and a batch of each bucket; a model in memory counts each kind of run
    once.
    """
    counted, kind = _COUNTED.setdefault(trainer.backbone, {}), _kind_of_run(trainer)
    if kind not in counted:
        counted[kind] = count_bucket_flops(trainer)
    meter.flops_by_bucket = counted[kind]
    meter.flops_per_step = _step_flops(trainer, meter.flops_by_bucket)


def _kind_of_run(trainer: Trainer) -> str:
    """What the operations of a run's batches depend on, and more: all fields but those that scale numbers."""
    batches, texts = trainer.batches, trainer.texts
    fields = trainer.config.model_dump(
        exclude={name for name in type(trainer.config).model_fields if _scales(name)}
    )
    return repr(
        (
            type(trainer.config).__name__,
            fields,
            [(name, tuple(value.shape)) for name, value in trainer.parameters.items()],
            trainer.stretches,
            trainer.steps,
            batches.images,
            batches.bucket_images,
            [tuple(batches.sample(bucket).latents.shape) for bucket in range(len(batches.bucket_images))],
            (
                texts.are_tokens,
                len(texts.captions),
                [(name, tuple(rows.shape)) for name, rows in texts.rows.items()],
            ),
        )
    )


def _scales(field: str) -> bool:
    return field.endswith("learning_rate") or field in (
        "prior_loss_weight",
        "lr_scheduler",
        "lr_warmup_steps",
    )


def _step_flops(trainer: Trainer, batches: Sequence[int]) -> int:
    """Returns the operations of one optimizer step, given those of a batch of each bucket."""
    images = trainer.batches.bucket_images
    total = sum(number * flops for number, flops in zip(images, batches, strict=True))
    return total * trainer.config.gradient_accumulation_steps // sum(images)


def count_bucket_flops(trainer: Trainer) -> tuple[int, ...]:
    """Returns the floating-point operations of one batch of each bucket, counted on smaller ones that are thrown
    away.

    Where the method has stages it is the mean over the run's steps. Neither parameters nor random streams nor the
    position in the data change.
    """
    totals = [0] * len(trainer.batches.bucket_images)
    try:
        for first, end in trainer.stretches:
            stages.enter(trainer.groups, trainer.windows, first)
            for bucket in range(len(totals)):
                totals[bucket] += (end - first) * _count_batch(trainer, bucket)
    finally:
        stages.enter_all(trainer.groups)
    return tuple(total // trainer.steps for total in totals)


def _count_batch(trainer: Trainer, bucket: int) -> int:
    """Returns the operations of a batch with the parameters that ask for gradients now.

    Some adapters compute on weights once for all images of a batch (rotations, norms, dense differences), so that the
    operations are a constant and a share for each image: both are known from two batches, of one image of each kind and
    of two. So it is with captions.
    """
    texts = trainer.texts
    kinds, wanted = len(trainer.batches.sample(bucket).latents), trainer.batches.images

    def counted_batch(each: int) -> int:
        batch = trainer.batches.sample(bucket, each)

        def whole() -> None:
            with trainer.accelerator.autocast():
                loss = batch_loss(trainer, batch)
            loss.backward()

        return count_flops(whole)

    def counted_captions(count: int) -> int:
        rows = {name: value[:1].expand(count, *value.shape[1:]) for name, value in texts.rows.items()}

        def encode() -> None:
            with trainer.accelerator.autocast():
                encoded = trainer.backbone.encode(rows)
            total = torch.stack([value.float().sum() for value in encoded.values()]).sum()
            if total.requires_grad:
                total.backward()

        return count_flops(encode)

    with _without_traces(trainer), _without_gradients(trainer):
        caption = counted_captions(1) if texts.are_tokens else 0
        further = counted_captions(2) - caption if texts.are_tokens else 0

        def captions_of(images: int) -> int:
            return caption + (min(len(texts.captions), images) - 1) * further

        one = counted_batch(1) - captions_of(kinds)
        another = counted_batch(2) - captions_of(2 * kinds) - one if wanted > kinds else 0
    return one + (wanted - kinds) * another // kinds + captions_of(wanted)


def _named(backbone: Backbone, groups: list[dict[str, Any]]) -> dict[str, torch.nn.Parameter]:
    """Returns what trains by name, in the order of the optimizer's groups."""
    names = {id(parameter): name for name, parameter in parameters_of(backbone).items()}
    return {names[id(parameter)]: parameter for group in groups for parameter in group["params"]}


def _accelerator(training: TrainingConfig, device: torch.device) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    # accelerate keeps precision and accumulation in process-wide singletons; a warm process runs one
    # configuration after another.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return Accelerator(
        mixed_precision=training.mixed_precision,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        cpu=device.type == "cpu",
    )


def average_of(training: TrainingConfig, parameters: dict[str, torch.nn.Parameter]) -> Any:
    """Returns the moving average of parameters as they are now, or None where none is wanted."""
    if not training.use_ema:
        return None
    from diffusers.training_utils import EMAModel

    return EMAModel(parameters.values(), decay=training.ema_decay, foreach=True)
