"""What every trained method of the catalogue must do. A new method is tested by being in the catalogue."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from pydantic import ValidationError

from tests.helpers import added_word
from tests.helpers.training_runs import OF_KIND, WITH_PRIOR, MakeConfig, MakeTrainer
from trainables.data.cache import Cache
from trainables.data.subjects import resolve_subject
from trainables.evaluation import switching
from trainables.methods import registry
from trainables.methods.adapter_kinds import KINDS
from trainables.methods.adapters import AdapterMethod
from trainables.methods.protocol import Method
from trainables.methods.registry import get_method, method_names
from trainables.models.backbone import Backbone
from trainables.models.families import FAMILIES
from trainables.models.loading import load_backbone
from trainables.run.execute import execute
from trainables.run_config import RunConfig
from trainables.training.loop import train_step
from trainables.training.meter import Meter
from trainables.training.objective import share_of_samples
from trainables.training.trainer import build_trainer

METHODS = [name for name in method_names() if get_method(name).trains]
# Prior preservation is a factor of every method; and not every method trains weights of the denoiser.
ADDED_WORD = added_word.METHOD.name
# For which another one stands by day: LoRA with a prior; LoRA, all weights on captions being tested in
# test_text_to_image.py; and textual inversion, which adds words too.
AT_NIGHT = ("dreambooth_lora", "text_to_image", ADDED_WORD)
VARIANTS = [
    pytest.param(name, marks=pytest.mark.nightly if name in AT_NIGHT else ())
    for name in [*METHODS, f"lora{WITH_PRIOR}", ADDED_WORD]
]
# Of the kinds of adapters beside LoRA one stands for all by day, whose files two libraries load.
SAMPLE = "lokr"
ADAPTERS = [
    pytest.param(f"lora{OF_KIND}{kind}", marks=() if kind == SAMPLE else pytest.mark.nightly)
    for kind in KINDS
    if kind != "lora"
]
# Rates at which a constant batch is learnt; the adapters' differ by what they multiply.
RATES = {"lora": 1e-2, "oft": 3e-2, "boft": 3e-2, "hra": 3e-2, "ia3": 1e-1, "loha": 5e-2, "lokr": 3e-2}

pytestmark = pytest.mark.parametrize("method", [*VARIANTS, *ADAPTERS])


@pytest.fixture(autouse=True)
def with_added_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the method of the tests be found by its name, as those of the catalogue are."""
    monkeypatch.setitem(registry._MODULES, ADDED_WORD, added_word.__name__)


def method_of(variant: str) -> Method:
    return get_method(variant.removesuffix(WITH_PRIOR).partition(OF_KIND)[0])


def trains_denoiser(variant: str) -> bool:
    family, chosen = FAMILIES["StableDiffusionPipeline"], method_of(variant)
    return family.denoiser.name in chosen.trained_parts(family, chosen.config_class())


def trains_text_encoder(variant: str) -> bool:
    """Whether the method reads the field by which text encoders train too; a hypernetwork's file could not hold one."""
    return "method" not in method_of(variant).config_class.needs_of("train_text_encoder")


def digests(backbone: Backbone, trained: Collection[str] = ()) -> dict[str, str]:
    """Returns a digest of each parameter that is not among the trained ones."""
    found = {}
    for part, module in backbone.modules.items():
        for name, parameter in module.named_parameters():
            if f"{part}.{name}" not in trained:
                content = parameter.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                found[f"{part}.{name}"] = hashlib.sha256(content).hexdigest()
    return found


@pytest.mark.parametrize("text_encoder", [False, True])
def test_attach_makes_exactly_its_parameters_trainable_in_float32(
    method: str, text_encoder: bool, make_trainer: MakeTrainer
) -> None:
    trainer = make_trainer(method, train_text_encoder=text_encoder, text_encoder_learning_rate=1e-5)
    trains = {
        f"{part}.{name}"
        for part, module in trainer.backbone.modules.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    assert trains == set(trainer.parameters)
    assert {value.dtype for value in trainer.parameters.values()} == {torch.float32}
    groups = trainer.optimizer.param_groups
    said = method_of(method).trained_parts(trainer.backbone.family, trainer.config)
    assert tuple(group["name"] for group in groups) == said
    assert {name.split(".")[0] for name in trains} == set(said)
    assert trainer.texts.are_tokens == ("text_encoder" in said)
    rates = [group["initial_lr"] for group in groups]
    if not trains_denoiser(method):
        assert rates == [trainer.config.learning_rate] * len(rates)
        return
    # Embeddings of words train in the text encoder, with a rate of their own.
    words = bool(trainer.config.added_words)
    text_encoder = words or (text_encoder and trains_text_encoder(method))
    assert said == (("unet", "text_encoder") if text_encoder else ("unet",))
    second = trainer.config.rate_of_embeddings if words else 1e-5
    assert rates == [trainer.config.learning_rate, second][: len(rates)]


@pytest.mark.parametrize("text_encoder", [False, True])
def test_training_changes_its_parameters_and_no_other_and_detach_undoes_it(
    method: str, text_encoder: bool, make_trainer: MakeTrainer, backbone: Backbone
) -> None:
    untouched = backbone.parameter_digest()
    names = [name for module in backbone.modules.values() for name, _ in module.named_modules()]
    trainer = make_trainer(
        method, train_text_encoder=text_encoder, mixed_precision="bf16", gradient_checkpointing=True
    )
    before = {name: value.detach().clone() for name, value in trainer.parameters.items()}
    frozen = digests(backbone, set(before))
    for _ in range(trainer.stretches[-1][0] + 2):  # two of the last stage, as adapters' B starts at zero
        train_step(trainer)
    assert digests(backbone, set(before)) == frozen
    moved = {name for name, value in trainer.parameters.items() if not torch.equal(value, before[name])}
    assert moved == set(before)
    method_of(method).detach(backbone)
    backbone.restore()
    assert backbone.parameter_digest() == untouched
    assert backbone.is_base_model()
    assert names == [name for module in backbone.modules.values() for name, _ in module.named_modules()]


def test_a_fresh_method_gives_the_base_models_output(
    method: str, make_trainer: MakeTrainer, backbone: Backbone
) -> None:
    inputs = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    text = backbone.encode_prompts(["a photo of a cat"])

    @torch.no_grad()
    def output() -> torch.Tensor:
        return backbone.denoise(inputs, torch.tensor(500), text)

    before = output()
    make_trainer(method)
    torch.testing.assert_close(output(), before, rtol=1e-4, atol=1e-5)
    text = backbone.encode_prompts(["a photo of a cat"])  # nor has the text encoder changed
    torch.testing.assert_close(output(), before, rtol=1e-4, atol=1e-5)


def test_the_loss_of_a_constant_batch_falls(method: str, make_trainer: MakeTrainer) -> None:
    _, _, kind = method.partition(OF_KIND)
    usual = 1e-2 if method_of(method).artifact == "adapter" else 2e-3
    rate, left = (RATES.get(kind, RATES["lora"]) if "lora" in method else usual), 0.9
    if not trains_denoiser(method):  # one word among the noise cannot do much
        rate, left = 1e-1, 0.999
    trainer = make_trainer(method, learning_rate=rate, max_train_steps=40, adam_weight_decay=0.0)
    batch = trainer.batches.draw()
    trainer.batches.draw = lambda: batch  # type: ignore[method-assign]
    losses = [float(train_step(trainer)[0]) for _ in range(25)]
    assert losses[-1] < left * losses[0]


def test_initialisation_depends_on_the_seed_alone(method: str, make_trainer: MakeTrainer) -> None:
    # One vector begins as a word; of several some noise tells apart those that begin as the same one.
    fields = {"num_vectors": 2} if "num_vectors" in method_of(method).config_class.model_fields else {}

    def initial(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(torch.seed())  # whatever happened in the process before
        trainer = make_trainer(method, seed=seed, **fields)
        return {name: value.detach().clone() for name, value in trainer.parameters.items()}

    first, second, other = initial(0), initial(0), initial(1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    if fields or (method_of(method).artifact == "adapter" and trains_denoiser(method)):
        differs = any(not torch.equal(first[name], other[name]) for name in first)
        assert differs == (
            method not in ("lora:oft", "lora:boft", "lora:ia3")
        )  # these begin as no rotation, or as 1


@pytest.mark.parametrize("text_encoder", [False, True])
def test_stock_pipeline_with_the_saved_weights_draws_our_image(
    method: str, text_encoder: bool, make_trainer: MakeTrainer, models: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(
        method, train_text_encoder=text_encoder, learning_rate=3e-2, text_encoder_learning_rate=1e-2
    )
    stock = StableDiffusionPipeline.from_pretrained(str(models / "model"), safety_checker=None)

    def draw(pipeline: Any, prompt: str) -> torch.Tensor:
        pipeline.set_progress_bar_config(disable=True)
        for part in (pipeline.unet, pipeline.text_encoder):
            part.eval()
        noise = torch.Generator().manual_seed(1)
        image = pipeline(
            prompt, num_inference_steps=3, guidance_scale=3.0, generator=noise, output_type="pt"
        ).images
        return torch.as_tensor(image)

    # A method with a word of its own begins with it as the class noun.
    taught = trainer.config.reword("a sks cat")
    base = draw(stock, "a sks cat" if taught == "a sks cat" else "a cat")
    for _ in range(4):
        train_step(trainer)
    ours = draw(trainer.backbone.pipeline(), taught)
    folder = tmp_path / "weights"
    chosen = method_of(method)
    chosen.save(trainer.backbone, trainer.config, folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]
    loaded_pipeline = chosen.load(stock, folder)
    loaded = draw(loaded_pipeline, taught)
    assert (ours - base).abs().max() > 0.01
    torch.testing.assert_close(loaded, ours, rtol=0, atol=2e-3)
    if chosen.stock_loader:  # nothing of ours is in what it has made
        libraries = {
            type(part).__module__.split(".")[0]
            for module in loaded_pipeline.components.values()
            if isinstance(module, torch.nn.Module)
            for part in module.modules()
        }
        assert libraries <= {"diffusers", "transformers", "peft", "torch"}
    if isinstance(chosen, AdapterMethod) and OF_KIND not in method:  # of other kinds: test_adapter_files.py
        assert sorted(path.name for path in files) == [
            "lora_kohya.safetensors",
            "pytorch_lora_weights.safetensors",
        ]
    else:
        assert (folder / "model_index.json").exists() == (chosen.artifact == "pipeline")
        assert [path for path in files if path.suffix == ".safetensors"]


def test_trained_weights_go_on_and_off_a_loaded_pipeline(
    method: str, make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(
        method, train_text_encoder=True, learning_rate=3e-2, text_encoder_learning_rate=1e-2
    )
    backbone, chosen, folder = trainer.backbone, method_of(method), tmp_path / "weights"
    taught = trainer.config.reword("a sks cat")

    def draw(pipeline: Any) -> torch.Tensor:
        noise = torch.Generator().manual_seed(1)
        pipeline.set_progress_bar_config(disable=True)
        return torch.as_tensor(
            pipeline(taught, num_inference_steps=2, generator=noise, output_type="pt").images
        )

    for _ in range(4):
        train_step(trainer)
    for module in backbone.modules.values():
        module.eval()
    ours, drawn, load = draw(backbone.pipeline()), [], type(chosen).load
    chosen.save(backbone, trainer.config, folder)
    chosen.detach(backbone)
    backbone.restore()
    untouched = backbone.parameter_digest()

    def spied(self: Any, pipeline: Any, weights: Path) -> Any:
        assert backbone.is_base_model()
        loaded = load(self, pipeline, weights)
        drawn.append(draw(loaded))
        return loaded

    monkeypatch.setattr(type(chosen), "load", spied)
    monkeypatch.setattr(switching, "ENOUGH_SECONDS", 1e-9)
    switching.measure_switch(backbone, chosen, folder)
    assert len(drawn) == 2
    for image in drawn:
        torch.testing.assert_close(image, ours, rtol=0, atol=2e-3)
    assert backbone.parameter_digest() == untouched
    assert backbone.is_base_model()
    for name in backbone.family.tokenizers:
        assert getattr(backbone.pipeline(), name) is backbone.others[name]


def final_weights(config: RunConfig) -> dict[str, bytes]:
    folder = Path(config.output_dir) / "weights"
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))
    }


def test_interrupted_and_resumed_is_bit_identical(
    method: str, make_config: MakeConfig, resident: Any
) -> None:
    known = method_of(method).config_class.model_fields
    fields = {name: 0.2 for name in ("lora_dropout", "dropout") if name in known}
    fields |= {
        "max_train_steps": 5,
        "lr_scheduler": "cosine",
        "use_ema": True,
        "random_flip": True,
        "noise_offset": 0.1,
        "masked_loss": True,
        "gradient_accumulation_steps": 2,
        "train_text_encoder": True,
    }
    whole = make_config(method, "whole", **fields)
    list(execute(whole, resident))
    for kill_at in (1, 3):
        broken = make_config(method, f"broken-{kill_at}", **fields)
        run = execute(broken, resident)
        for event in run:
            if event.kind == "progress" and event.step == kill_at:
                break
        with pytest.raises(KeyboardInterrupt):
            run.throw(KeyboardInterrupt())
        assert not (Path(broken.output_dir) / "result.json").exists()
        events = list(execute(broken, resident))
        assert events[0].data["resumed_step"] == (kill_at - 1)
        assert final_weights(broken) == final_weights(whole)
        results = [
            json.loads((Path(config.output_dir) / "result.json").read_text()) for config in (whole, broken)
        ]
        assert results[0]["evaluation"] == results[1]["evaluation"]
        assert [result["attempts"] for result in results] == [1, 2]


@pytest.fixture(scope="module")
def trained_before() -> set[str]:
    """Methods that the models in memory have been trained by; of this module, as the models are."""
    return set()


def test_a_warm_process_gives_what_a_fresh_one_gives(
    method: str, make_config: MakeConfig, resident: Any, trained_before: set[str]
) -> None:
    """Other methods before it in the same process change nothing."""
    for other in sorted({*METHODS, ADDED_WORD} - trained_before):
        list(execute(make_config(other, f"before-{other}", mixed_precision="bf16"), resident))
        trained_before.add(other)
    warm, fresh = make_config(method, "warm"), make_config(method, "fresh")
    list(execute(warm, resident))
    list(execute(fresh))
    assert final_weights(warm) == final_weights(fresh)
    assert len(final_weights(warm)) >= 1


def test_checkpoint_of_another_memory_layout_is_taken_over(
    method: str, make_config: MakeConfig, make_trainer: MakeTrainer
) -> None:
    """Files hold rows in order; the UNet's convolutions are channels last. Fused kernels pair by address."""
    config = make_config(method)
    trainer = make_trainer(method)
    meter = Meter(torch.device("cpu"), 1)
    train_step(trainer)
    checkpoint = trainer.checkpoint(meter)
    train_step(trainer)
    expected = {name: value.detach().clone() for name, value in trainer.parameters.items()}
    backbone = load_backbone(config.model)
    subject = resolve_subject(config.subject, 16, config.training.captions)
    again = build_trainer(config, backbone, subject, Cache(config.cache_dir))
    again.restore(checkpoint, meter)
    assert again.step == 1
    train_step(again)
    assert all(torch.equal(again.parameters[name], value) for name, value in expected.items())


def test_equal_shares_whatever_the_method(method: str, make_trainer: MakeTrainer) -> None:
    batch = make_trainer(method, prior_loss_weight=0.5).batches.draw()
    priors = len(batch.latents) - 2
    wanted = method.endswith(WITH_PRIOR) or method_of(method).config_class().with_prior_preservation
    assert priors == (2 if wanted else 0)
    assert torch.equal(batch.shares, share_of_samples(2, priors, 0.5))


@pytest.mark.parametrize(
    "fields",
    [
        {"learning_rate": 0},
        {"learning_rate": -1e-4},
        {"learning_rate": float("nan")},
        {"lr_scheduler": "cosin"},
        {"max_train_steps": 0},
        {"train_batch_size": 0},
        {"lr_warmup_steps": 200, "max_train_steps": 200},
        {"mixed_precision": "fp8"},
        {"ema_decay": 1.0},
        {"snr_gamma": 0},
        {"adam_beta1": 1.0},
        {"unknown_field": 1},
    ],
)
def test_nonsense_is_refused(method: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        method_of(method).config_class.model_validate(fields)
