"""Captioned fine-tuning: what trains, what it leaves, and ten steps of it computed once more in plain torch."""

from __future__ import annotations

import copy
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch.func import functional_call

from study.preflight.estimates import artifact_kind
from study.spec.crossing import crossed_in
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from tests.helpers.captioned_images import TWO_BUCKETS, data_set
from tests.helpers.plain_torch import Adam, check_trained, disturb, stream
from tests.helpers.training_runs import MakeConfig, MakeTrainer
from trainables.config.fields import ModelConfig
from trainables.data.cache import Cache
from trainables.methods.protocol import artifact_of
from trainables.methods.registry import get_method
from trainables.methods.text_to_image import TextToImageConfig
from trainables.models.loading import load_backbone
from trainables.run_config import RunConfig
from trainables.training.captions import caption_orders
from trainables.training.loop import Trainer, train_step
from trainables.training.trainer import average_of, build_trainer

NAME = "text_to_image"
METHOD = get_method(NAME)
STEPS, SIZE, RATE, DECAY, CLIP, EPSILON, BETAS = 10, 2, 1e-3, 1.0, 0.02, 1e-5, (0.8, 0.9)
DROPOUT, GAMMA = 0.3, 5.0


def spec(arms: dict[str, Any], **sections: Any) -> StudySpec:
    content: dict[str, Any] = {
        "name": "captions",
        "subjects": ["cat-1", "dog-1", "bird-1", "fox-1"],
        "arms": {"base": {"method": "base"}, **arms},
        "confirm": {"seeds": [1]},
    }
    return StudySpec.model_validate(content | sections)


def config_of(embedded: bool = False, **fields: Any) -> TextToImageConfig:
    model = {} if embedded else {"path": "a/model"}
    training = RunConfig.model_validate(
        {
            "method": NAME, "model": model, "subject": {"name": "cat-1"}, "training": fields, "output_dir": "",
            "cache_dir": "",
        }
    ).training  # fmt: skip
    assert isinstance(training, TextToImageConfig)
    return training


def test_defaults_are_those_of_diffusers_scripts() -> None:
    adapter, full = config_of(), config_of(trains="full")
    assert (adapter.learning_rate, adapter.use_ema, adapter.captions) == (1e-4, False, "files")
    assert (full.learning_rate, full.use_ema, full.ema_decay, full.captions) == (1e-5, True, 0.9999, "files")
    assert config_of(trains="full", learning_rate=2e-6, use_ema=False).learning_rate == 2e-6
    assert not config_of(trains="full", use_ema=False).use_ema
    assert config_of(embedded=True).learning_rate == 2e-3
    assert config_of(embedded=True, trains="full").learning_rate == 1e-4
    assert config_of(adapter="ia3").learning_rate == 1e-3


def test_what_it_leaves_depends_on_what_trains() -> None:
    assert artifact_of(METHOD, config_of()) == METHOD.artifact == "adapter"
    assert artifact_of(METHOD, config_of(trains="full")) == "pipeline"
    assert artifact_of(get_method("dreambooth"), get_method("dreambooth").config_class()) == "pipeline"
    study = spec(
        {
            "adapter": {"method": NAME},
            "full": {"method": NAME, "trains": "full"},
            "either": {
                "method": NAME,
                "search_space": {"trains": {"type": "categorical", "choices": ["full", "adapter"]}},
            },
        }
    )
    kinds = {arm: artifact_kind(study, arm) for arm in study.arms}
    assert kinds == {"base": "none", "adapter": "adapter", "full": "pipeline", "either": "pipeline"}


def test_fields_of_adapters_have_no_effect_where_all_weights_train() -> None:
    full = TextToImageConfig(trains="full", r=4, adapter="rslora")
    assert full.without_effect(["r", "adapter"]) == [
        "r has no effect without trains: adapter",
        "adapter has no effect without trains: adapter",
    ]
    assert full.effective() == TextToImageConfig(trains="full").effective()
    assert full.effective() != TextToImageConfig().effective()
    assert "scaling" in TextToImageConfig().effective()
    prior = TextToImageConfig(with_prior_preservation=True)
    assert not prior.with_prior_preservation
    (problem,) = prior.without_effect(["with_prior_preservation"])
    assert problem.endswith("this method does not read it")


def test_a_study_searches_all_weights_by_ranges_of_their_own(tmp_path: Path) -> None:
    study = spec({"adapter": {"method": NAME}, "full": {"method": NAME, "trains": "full"}})
    spaces = {arm: study.space(arm).parameters for arm in ("adapter", "full")}
    assert "r" in spaces["adapter"]
    assert "r" not in spaces["full"]
    assert spaces["full"]["learning_rate"].high < spaces["adapter"]["learning_rate"].high  # type: ignore[union-attr]
    assert study.values_of("captions") == {"files"}
    key = study.confirm_keys("full", 0)[0]
    assert study.run_config(key, {}, Storage(tmp_path, study.name)).training.captions == "files"


def test_adapters_and_all_weights_are_levels_of_what_is_trained() -> None:
    arms = {
        f"{trains}-{schedule}": {"method": NAME, "trains": trains, "lr_scheduler": schedule}
        for trains in ("adapter", "full")
        for schedule in ("constant", "cosine")
    }
    found = {one.factor: {one.first, one.second} for one in crossed_in(spec(arms))}
    assert found["trains"] == {"all weights", "an adapter (LoRA)"}


def test_the_saved_pipeline_is_loaded_by_diffusers(
    make_trainer: MakeTrainer, models: Path, tmp_path: Path
) -> None:
    """Of all weights; an adapter's file is held by the tests of every method."""
    trainer = make_trainer(NAME, trains="full", learning_rate=1e-2)
    before = {name: value.detach().clone() for name, value in trainer.parameters.items()}
    assert {name.split(".")[0] for name in before} == {"unet"}
    assert len(before) == len(list(trainer.backbone.denoiser.parameters()))
    for _ in range(2):
        train_step(trainer)
    assert all(not torch.equal(value, before[name]) for name, value in trainer.parameters.items())
    with METHOD.fused(trainer.backbone) as merged:
        assert not merged
    METHOD.save(trainer.backbone, trainer.config, tmp_path / "weights")
    stock = StableDiffusionPipeline.from_pretrained(str(models / "model"), safety_checker=None)
    loaded = METHOD.load(stock, tmp_path / "weights")
    for name, value in loaded.unet.named_parameters():
        assert torch.equal(value, trainer.parameters[f"unet.{name}"])
    METHOD.detach(trainer.backbone)
    trainer.backbone.restore()
    assert trainer.backbone.is_base_model()


class Plain:
    """The run once more: data, loss and weights by the papers' formulas."""

    def __init__(self, folder: Path) -> None:
        base = load_backbone(ModelConfig(path=str(folder)))
        self.unet = base.denoiser.double()
        self.subject = data_set()
        self.sizes = sorted(TWO_BUCKETS)
        self.images = {
            size: [number for number, image in enumerate(self.subject.images) if image.size == size]
            for size in self.sizes
        }
        with torch.no_grad():
            self.moments = [self._encode(base, image) for image in self.subject.images]
            self.states = {
                text: self._read(base, text)
                for caption in self.subject.captions
                for text in ("", *caption_orders(caption, self.subject.instance_prompt, 1))
            }
        self.scale = base.vae.config.scaling_factor
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        config = base.scheduler.config
        assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.012, "scaled_linear")
        self.signal = (1 - betas).cumprod(0).float()
        names = ("order", "latents", "noise", "timesteps", "captions", "caption_dropout")
        self.streams = {name: stream(name) for name in names}
        self.epoch: list[int] = []
        self.waiting: dict[tuple[int, int], list[int]] = {size: [] for size in self.sizes}
        self.drawn: Counter[tuple[int, int]] = Counter()

    @staticmethod
    def _encode(base: Any, image: Any) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = torch.from_numpy(numpy.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        posterior = base.vae.encode(pixels).latent_dist
        return posterior.mean[0], posterior.std[0]

    @staticmethod
    def _read(base: Any, text: str) -> torch.Tensor:
        tokenizer, text_encoder = base.tokenizers[0], base.text_encoders[0]
        length = tokenizer.model_max_length
        tokens = tokenizer(
            text, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        states: torch.Tensor = text_encoder(tokens.input_ids)[0][0]
        return states

    def next_images(self) -> list[int]:
        """Images of an epoch wait until their size has enough of them."""
        numbering = [number for size in self.sizes for number in self.images[size]]
        while True:
            if not self.epoch:
                self.epoch = torch.randperm(len(numbering), generator=self.streams["order"]).tolist()
            number = numbering[self.epoch.pop(0)]
            size = self.subject.images[number].size
            self.waiting[size].append(number)
            if len(self.waiting[size]) == SIZE:
                taken, self.waiting[size] = self.waiting[size], []
                self.drawn[size] += 1
                return taken

    def batch(self) -> tuple[torch.Tensor, ...]:
        """Noisy latents, steps, text, target and weights."""
        numbers = self.next_images()
        mean, std = (torch.stack(values) for values in zip(*(self.moments[n] for n in numbers), strict=True))
        sample = torch.randn(mean.shape, generator=self.streams["latents"])
        latents = (mean + std * sample) * self.scale
        noise = torch.randn(mean.shape, generator=self.streams["noise"])
        steps = torch.randint(1000, (SIZE,), generator=self.streams["timesteps"])
        chosen = torch.randint(24, (SIZE, 1), generator=self.streams["captions"]).flatten().tolist()
        dropped = torch.rand(SIZE, generator=self.streams["caption_dropout"]) < DROPOUT
        texts = []
        for number, place, empty in zip(numbers, chosen, dropped.tolist(), strict=True):
            orders = caption_orders(self.subject.captions[number], self.subject.instance_prompt, 1)
            texts.append("" if empty else orders[place % len(orders)])
        states = torch.stack([self.states[text] for text in texts])
        a = self.signal[steps].reshape(-1, 1, 1, 1)
        ratio = self.signal[steps] / (1 - self.signal[steps])
        weights = torch.minimum(ratio, torch.tensor(GAMMA)) / ratio
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        return noisy.double(), steps, states.double(), noise.double(), weights


def trainer_of(make_config: MakeConfig, folder: Path, **fields: Any) -> Trainer:
    backbone = load_backbone(ModelConfig(path=str(folder)))
    config = make_config(
        NAME,
        model=str(folder),
        learning_rate=RATE,
        max_train_steps=STEPS,
        train_batch_size=SIZE,
        adam_weight_decay=DECAY,
        adam_epsilon=EPSILON,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=CLIP,
        snr_gamma=GAMMA,
        aspect_ratio_buckets=True,
        shuffle_captions=True,
        keep_tokens=1,
        caption_dropout=DROPOUT,
        **fields,
    )
    trainer = build_trainer(config, backbone, data_set(), Cache(config.cache_dir))
    disturb(trainer.parameters)
    return trainer


def compare(
    trainer: Trainer, plain: Plain, trained: dict[str, torch.Tensor], predict: Any, decay: float | None = None
) -> None:
    """Trains both side by side; `trained` are the plain run's parameters, in float64, by the project's names."""
    values = [value.requires_grad_(True) for value in trained.values()]
    adam = Adam(values, RATE, DECAY, CLIP, BETAS, EPSILON)
    began = {name: value.detach().clone() for name, value in trained.items()}
    kept = {} if decay is None else dict(zip(trained, trainer.average.shadow_params, strict=True))
    average = {name: value.double() for name, value in kept.items()}
    kept_first = {name: value.clone() for name, value in average.items()}
    for step in range(STEPS):
        noisy, steps, states, target, weights = plain.batch()
        errors = (predict(noisy, steps, states) - target).pow(2).mean((1, 2, 3))
        expected = (weights * errors).mean()
        loss, norm = train_step(trainer)
        assert norm > CLIP
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
        adam.update(list(torch.autograd.grad(expected, values, allow_unused=True)))
        if decay is not None:
            share = min(decay, (1 + step) / (10 + step))  # diffusers' EMAModel, as its script has it
            for name, mean in average.items():
                mean.sub_((1 - share) * (mean - trained[name].detach()))
    assert set(plain.drawn) == set(plain.sizes), "both buckets were trained on"
    check_trained(trainer.parameters, trained, began)
    if decay is not None:
        check_trained(kept, average, kept_first)


def test_ten_steps_of_an_adapter_on_two_buckets(make_config: MakeConfig, models: Path) -> None:
    trainer, plain = trainer_of(make_config, models / "model", r=4, lora_alpha=2.0), Plain(models / "model")
    trained = {name: value.detach().double() for name, value in trainer.parameters.items()}
    base = {name: value.detach() for name, value in plain.unet.named_parameters()}

    def predict(noisy: torch.Tensor, steps: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        weights = dict(base)
        for name, a in trained.items():
            layer, found, _ = name.removeprefix("unet.").partition(".lora_A.")
            if found:
                b = trained[name.replace(".lora_A.", ".lora_B.")]
                weights[f"{layer}.weight"] = base[f"{layer}.weight"] + 2.0 / 4 * b @ a
        assert len([name for name in weights if weights[name] is not base[name]]) == len(trained) // 2
        output: torch.Tensor = functional_call(plain.unet, weights, (noisy, steps, states)).sample
        return output

    compare(trainer, plain, trained, predict)


def test_ten_steps_of_all_weights_on_two_buckets(make_config: MakeConfig, models: Path) -> None:
    """With the moving average that is kept."""
    trainer, plain = trainer_of(make_config, models / "model", trains="full"), Plain(models / "model")
    unet = copy.deepcopy(plain.unet)
    trained: dict[str, torch.Tensor] = {f"unet.{name}": value for name, value in unet.named_parameters()}
    with torch.no_grad():
        for name, value in trained.items():
            value.copy_(trainer.parameters[name])
    assert trainer.config.use_ema
    assert math.isclose(trainer.config.ema_decay, 0.9999)

    def predict(noisy: torch.Tensor, steps: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = unet(noisy, steps, states).sample
        return output

    compare(trainer, plain, trained, predict, decay=0.9999)


@pytest.mark.parametrize("steps", [20, 200, 2000])
def test_the_average_of_a_short_run_is_near_its_end_and_not_at_the_base_model(steps: int) -> None:
    """A weight that goes from 0 to 1 evenly is kept as it was about a tenth of the steps before."""
    weight = torch.nn.Parameter(torch.zeros(1))
    average = average_of(config_of(trains="full"), {"w": weight})
    expected = 0.0
    for step in range(1, steps + 1):
        with torch.no_grad():
            weight.fill_(step / steps)
        average.step([weight])
        decay = step / (9 + step) if step > 1 else 0.0  # counted from the step before
        expected = decay * expected + (1 - decay) * step / steps
    (kept,) = average.shadow_params
    assert kept.item() == pytest.approx(expected, abs=1e-5)
    assert 0.05 < 1 - kept.item() < 0.11
