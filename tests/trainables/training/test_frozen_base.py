"""Prior preservation without class images: for the class prompt the frozen base model's own prediction is the target.

Weights after ten steps are computed once more in plain torch, on a second model for the base, with AdamW written out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.plain_torch import Adam, check_trained, disturb
from tests.helpers.training_runs import OF_KIND, MakeConfig, MakeTrainer
from tests.helpers.worker_jobs import result
from trainables.config.fields import ModelConfig
from trainables.methods.adapter_kinds import KINDS
from trainables.models.backbone import Backbone
from trainables.models.loading import load_backbone
from trainables.run.execute import execute
from trainables.run.resident import Resident
from trainables.run_config import config_digest
from trainables.training.batches import Batch
from trainables.training.loop import Trainer, batch_loss, train_step
from trainables.training.trainer import count_step_flops
from trainables.util.flops import count_flops

ON_BASE: dict[str, Any] = {"with_prior_preservation": True, "prior_preservation_target": "base"}
STEPS, RATE, EPSILON, DECAY, LIMIT, WEIGHT, BETAS = 10, 1e-3, 1e-5, 1.0, 0.02, 0.7, (0.8, 0.9)


def same_call(backbone: Backbone) -> Callable[[], torch.Tensor]:
    """Gives what the denoiser says of some fixed latents and prompts, with gradients where it has any."""
    text = backbone.encode_prompts(["a cat", "a red dog"])
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    return lambda: backbone.denoise(latents, torch.tensor([20, 700]), text)


METHODS = [
    "dreambooth",
    "hypernetwork",
    *(
        pytest.param(
            f"lora{OF_KIND}{kind}", marks=() if kind in ("lora", "dora", "ia3") else pytest.mark.nightly
        )
        for kind in KINDS
    ),
]


@pytest.mark.parametrize("method", METHODS)
def test_what_trains_is_put_aside_and_comes_back(
    method: str, make_trainer: MakeTrainer, backbone: Backbone
) -> None:
    call = same_call(backbone)
    with torch.no_grad():
        base = call()
    trainer = make_trainer(method, **ON_BASE)
    trainer.modules[0].train()
    disturb(trainer.parameters)
    trained = call()
    modes = [module.training for module in backbone.denoiser.modules()]
    weights = {name: value.detach().clone() for name, value in trainer.parameters.items()}
    assert (trained - base).abs().max() > 1e-3
    with backbone.as_base():
        seen = call()
    assert not seen.requires_grad
    torch.testing.assert_close(seen, base, rtol=0, atol=0 if "dora" not in method else 1e-6)
    assert torch.equal(call(), trained)
    assert modes == [module.training for module in backbone.denoiser.modules()]
    assert all(torch.equal(value, weights[name]) for name, value in trainer.parameters.items())
    call().sum().backward()
    assert all(
        value.grad is not None for name, value in trainer.parameters.items() if name.startswith("unet")
    )


@pytest.mark.parametrize("beginning", ["pissa", "olora", "orthogonal"])
def test_beginnings_that_alter_base_weights(
    beginning: str, make_trainer: MakeTrainer, backbone: Backbone
) -> None:
    """Without its adapters such a model is not the base model: the weights that were altered are kept beside it."""
    call = same_call(backbone)
    with torch.no_grad():
        base = call()
    trainer = make_trainer("lora", init_lora_weights=beginning, target_modules="attention", **ON_BASE)
    disturb(trainer.parameters)
    kept = backbone.keep_base()
    assert (kept > 0) == (beginning != "orthogonal")
    with backbone.as_base():
        assert torch.equal(call(), base)


def test_the_base_takes_memory_where_all_weights_train(make_trainer: MakeTrainer, backbone: Backbone) -> None:
    whole = sum(value.nbytes for value in backbone.denoiser.parameters())
    make_trainer("dreambooth", **ON_BASE)
    assert backbone.keep_base() == whole
    make_trainer("lora", **ON_BASE)
    assert backbone.keep_base() == 0
    backbone.restore()
    with pytest.raises(ValueError, match="keep_base"), backbone.as_base():
        pass


def test_what_nobody_can_put_aside_is_refused(backbone: Backbone) -> None:
    backbone.denoiser.add_module("more", nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"2 parameters were added to unet and no Backbone\.set_aside"):
        backbone.keep_base()


def terms(trainer: Trainer, batch: Batch) -> tuple[float, float]:
    """The loss of the subject's images, and that of the class prompt."""
    assert batch.from_base is not None
    parts = []
    for wanted in (~batch.from_base, batch.from_base):
        shares = torch.where(wanted, batch.shares, torch.zeros(()))
        with trainer.accelerator.autocast():
            parts.append(float(batch_loss(trainer, Batch(**{**vars(batch), "shares": shares})).detach()))
    return parts[0], parts[1]


@pytest.mark.parametrize(
    "fields",
    [{}, {"train_text_encoder": True}, {"snr_gamma": 5.0, "masked_loss": True}, {"mixed_precision": "bf16"}],
    ids=["plain", "text encoder", "min-SNR and masks", "bf16"],
)
@pytest.mark.parametrize("method", ["lora", "dreambooth", "hypernetwork"])
def test_the_class_has_nothing_to_lose_before_the_first_step(
    method: str, fields: dict[str, Any], make_trainer: MakeTrainer
) -> None:
    if method == "hypernetwork":
        fields = {name: value for name, value in fields.items() if name != "train_text_encoder"}
    trainer = make_trainer(method, learning_rate=3e-3, **ON_BASE, **fields)
    batch = trainer.batches.draw()
    subject, prior = terms(trainer, batch)
    assert subject > 0.1
    # Two forward passes of other sizes: equal but for rounding, of bfloat16 where that is the precision.
    assert prior < (1e-3 if "mixed_precision" in fields else 1e-9)
    train_step(trainer)
    train_step(trainer)
    assert terms(trainer, batch)[1] > 10 * prior + 1e-9


def test_no_gradient_is_lost_in_the_cache_of_autocast(make_trainer: MakeTrainer) -> None:
    """In bfloat16 the base's pass casts the same parameters, with other values and without a gradient, just before."""
    trainer = make_trainer("dreambooth", mixed_precision="bf16", **ON_BASE)
    disturb(trainer.parameters)
    batch, found = trainer.batches.draw(), []
    for cached in (True, False):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            loss = batch_loss(trainer, batch)
        loss.backward()
        found.append([value.grad.clone() for value in trainer.parameters.values() if value.grad is not None])
        trainer.optimizer.zero_grad(set_to_none=True)
    with_cache, without = found
    assert len(with_cache) == len(without) == len(trainer.parameters)
    assert all(torch.equal(one, other) for one, other in zip(with_cache, without, strict=True))


@pytest.mark.parametrize("method", ["lora", "dreambooth"])
def test_ten_steps_in_plain_torch(method: str, make_trainer: MakeTrainer, models: Path) -> None:
    fields = {"target_modules": ["to_q", "to_v", "ff.net.2"], "lora_alpha": 3.0} if method == "lora" else {}
    trainer = make_trainer(
        method,
        learning_rate=RATE,
        adam_epsilon=EPSILON,
        adam_weight_decay=DECAY,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=LIMIT,
        prior_loss_weight=WEIGHT,
        max_train_steps=STEPS,
        **fields,
        **ON_BASE,
    )
    disturb(trainer.parameters)
    frozen = load_backbone(ModelConfig(path=str(models / "model")))  # another one, in its own memory
    of_class = frozen.encode_prompts(["a cat"])["encoder_hidden_states"].double().expand(2, -1, -1)
    of_subject = frozen.encode_prompts(["a sks cat"])["encoder_hidden_states"].double().expand(2, -1, -1)
    unet = frozen.denoiser.double()
    base = dict(unet.named_parameters())
    batches = [trainer.batches.draw() for _ in range(STEPS)]
    queue = iter(batches)
    trainer.batches.draw = lambda: next(queue)  # type: ignore[method-assign]
    numbers = {name: value.detach().double().requires_grad_() for name, value in trainer.parameters.items()}
    began = {name: value.detach().clone() for name, value in numbers.items()}
    adam = Adam(list(numbers.values()), RATE, DECAY, LIMIT, BETAS, EPSILON)
    losses, norms, last_prior = [], [], 0.0
    for batch in batches:
        weights = {name.removeprefix("unet."): value for name, value in numbers.items()}
        if method == "lora":
            weights = {
                f"{layer}.weight": base[f"{layer}.weight"]
                + 3.0
                / 2
                * weights[f"{layer}.lora_B.default.weight"]
                @ weights[f"{layer}.lora_A.default.weight"]
                for layer in {name.split(".lora_")[0] for name in weights}
            }
        alphas = frozen.alphas_cumprod.double()[batch.timesteps].reshape(-1, 1, 1, 1)
        noisy = alphas.sqrt() * batch.latents.double() + (1 - alphas).sqrt() * batch.noise.double()
        with torch.no_grad():
            target = unet(noisy[2:], batch.timesteps[2:], of_class).sample
        texts = torch.cat([of_subject, of_class])
        output = torch.func.functional_call(unet, weights, (noisy, batch.timesteps, texts)).sample
        prior = (output[2:] - target).square().mean()
        loss = (output[:2] - batch.noise[:2]).square().mean() + WEIGHT * prior
        gradients = torch.autograd.grad(loss, list(numbers.values()))
        adam.update(gradients)
        losses.append(float(loss.detach()))
        norms.append(float(torch.cat([gradient.reshape(-1) for gradient in gradients]).norm()))
        last_prior = float(prior.detach())
    told = [tuple(map(float, train_step(trainer))) for _ in range(STEPS)]

    assert last_prior > 1e-6  # it had something to do
    assert min(norms) > LIMIT
    assert [loss for loss, _ in told] == pytest.approx(losses, rel=1e-5)
    assert [norm for _, norm in told] == pytest.approx(norms, rel=1e-4)
    check_trained(trainer.parameters, numbers, began)


def test_examples_of_the_class_are_the_subjects_images_with_draws_of_their_own(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> Any:
        raise AssertionError("class images were asked for")

    monkeypatch.setattr("trainables.training.encoded.make_class_images", none)
    trainer = make_trainer("lora", masked_loss=True, **ON_BASE)
    batch = trainer.batches.draw()
    assert batch.from_base is not None
    assert batch.from_base.tolist() == [False, False, True, True]
    captions = [trainer.texts.captions[row] for row in batch.captions.tolist()]
    assert captions == ["a sks cat"] * 2 + ["a cat"] * 2
    assert batch.areas is not None
    assert torch.equal(batch.areas[2:], torch.ones_like(batch.areas[2:]))  # the whole picture is to stay
    assert not torch.equal(batch.noise[:2], batch.noise[2:])
    assert batch.geometry is not None
    assert torch.equal(batch.geometry[2:], batch.geometry[:2])  # photographs of one size
    parts = [batch.part(rank, 2) for rank in range(2)]
    assert [part.from_base.tolist() for part in parts if part.from_base is not None] == [[False, True]] * 2
    other = make_trainer("lora", masked_loss=True, with_prior_preservation=False).batches.draw()
    assert torch.equal(batch.latents[:2], other.latents)  # nothing of the subject's draws has moved
    assert torch.equal(batch.noise[:2], other.noise)


def test_a_part_of_a_batch_without_the_class_asks_the_base_nothing(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("lora", train_batch_size=1, **ON_BASE)
    batch = trainer.batches.draw()
    subject, prior = (batch.part(rank, 2) for rank in range(2))
    trainer.backbone.as_base = None  # type: ignore[assignment, method-assign]
    assert float(batch_loss(trainer, subject).detach()) > 0
    with pytest.raises(TypeError):
        batch_loss(trainer, prior)


def test_the_base_reads_the_prompt_by_its_own_text_encoder(make_trainer: MakeTrainer, models: Path) -> None:
    trainer = make_trainer("dreambooth", train_text_encoder=True, text_encoder_learning_rate=1e-2, **ON_BASE)
    for _ in range(2):
        train_step(trainer)
    frozen = load_backbone(ModelConfig(path=str(models / "model"))).encode_prompts(["a cat"])
    now = trainer.backbone.encode_prompts(["a cat"])
    assert trainer.base_text is not None
    for name, rows in frozen.items():
        torch.testing.assert_close(trainer.base_text[name], rows, rtol=0, atol=1e-6)
        assert (now[name] - rows).abs().max() > 1e-2


@pytest.mark.parametrize("method", ["lora", "dreambooth"])
def test_a_step_counts_the_base_models_pass(method: str, make_trainer: MakeTrainer) -> None:
    def step(**fields: Any) -> int:
        return count_step_flops(make_trainer(method, train_batch_size=2, **fields))

    more = step(**ON_BASE) - step(with_prior_preservation=True)
    backbone = load_backbone(ModelConfig(path=str(make_trainer(method).backbone.folder)))
    call = same_call(backbone)
    with torch.no_grad():
        assert more == count_flops(call)  # of two images


def test_a_run_is_charged_no_class_images_and_resumes_to_the_bit(
    make_config: MakeConfig, resident: Resident
) -> None:
    fields = {
        **ON_BASE,
        "train_text_encoder": True,
        "use_ema": True,
        "random_flip": True,
        "max_train_steps": 4,
    }

    def weights(name: str) -> dict[str, bytes]:
        folder = Path(make_config("dreambooth", name).output_dir) / "weights"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}

    whole = make_config("dreambooth", "whole", **fields)
    list(execute(whole, resident))
    cost = result(whole)["cost"]
    assert (cost["class_image_seconds"], cost["class_image_flops"]) == (0, 0)
    run = execute(make_config("dreambooth", "broken", **fields), resident)
    for event in run:
        if event.kind == "progress" and event.step == 3:
            break
    with pytest.raises(KeyboardInterrupt):
        run.throw(KeyboardInterrupt())
    events = list(execute(make_config("dreambooth", "broken", **fields), resident))
    assert events[0].data["resumed_step"] == 2
    assert weights("broken") == weights("whole") != {}


def test_digests_of_runs_on_class_images_are_those_of_versions_without_the_field(
    make_config: MakeConfig,
) -> None:
    config = make_config("dreambooth")
    document = config.model_dump(mode="json")
    assert document["training"].pop("prior_preservation_target") == "images"
    assert config_digest(document) == config.digest()
    assert "prior_preservation_target" not in config.training.effective()
    other = make_config("dreambooth", **ON_BASE)
    assert other.digest() != config.digest()
    assert other.comes_to() != config.comes_to()
    known = other.training.effective()
    assert known["prior_preservation_target"] == "base"
    assert not {"num_class_images", "class_num_inference_steps", "class_guidance_scale"} & set(known)
