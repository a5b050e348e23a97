"""Every method on every family that can carry it: it trains, is saved for stock loaders, undone, goes on after a stop.

A sample of the pairs is in the default suite, all of them in `make test-all`. New methods and families are in them by
being in their tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.helpers.stock_images import TOKENS, draw_stock
from tests.helpers.tiny_families import RESOLUTION, TINY, make_tiny
from tests.helpers.training_runs import MakeConfig
from trainables.config.fields import ModelConfig
from trainables.data.cache import Cache
from trainables.data.subjects import resolve_subject
from trainables.methods.fit import obstacle
from trainables.methods.registry import BASE, get_method, method_names
from trainables.models.backbone import Backbone
from trainables.models.families import FAMILIES
from trainables.models.loading import load_backbone
from trainables.models.sampling import initial_noise
from trainables.run.execute import execute
from trainables.run.resident import Resident
from trainables.training.batches import Batch
from trainables.training.loop import Trainer, batch_loss, train_step
from trainables.training.trainer import build_trainer

METHODS = [name for name in method_names() if name != BASE]
NEW = [name for name in TINY if name != "sd1"]  # which the conformance suite of methods has
TRAIN_SAMPLE = {
    ("lora", "sd2", False),
    ("lora", "sdxl", True),
    ("lora", "sd3", False),
    ("lora", "flux", True),
    ("dreambooth", "sdxl", True),
    ("dreambooth", "sd3", False),
    ("dreambooth", "flux", False),
    ("hypernetwork", "sdxl", False),
    ("textual_inversion", "sdxl", False),
    ("textual_inversion", "flux", False),
    ("custom_diffusion", "sdxl", False),
    ("pivotal_tuning", "sdxl", False),
    ("pivotal_tuning", "flux", False),
    ("text_to_image", "sd3", True),
}
RESUME_SAMPLE = {
    ("lora", "sdxl"),
    ("dreambooth", "flux"),
    ("textual_inversion", "sdxl"),
    ("custom_diffusion", "sdxl"),
    ("pivotal_tuning", "flux"),
    ("text_to_image", "sd3"),
}
OWN_FIELDS: dict[str, dict[str, Any]] = {"textual_inversion": {"num_vectors": 2}}


def cases(sample: set[Any], *choices: Any) -> list[Any]:
    """All pairs that fit each other; those that are not in the sample are nightly."""
    found = []
    for method in METHODS:
        for name in NEW:
            if obstacle(get_method(method), FAMILIES[TINY[name]]) is None:
                for more in choices or ((),):
                    case = (method, name, *((more,) if choices else ()))
                    marks = () if case in sample else (pytest.mark.nightly,)
                    found.append(pytest.param(*case, marks=marks, id="-".join(map(str, case))))
    return found


# The tiny models' layers are 16 and 32 wide, and no convolution is among the targets.
KINDS: dict[str, dict[str, Any]] = {
    "rslora": {"r": 2},
    "dora": {"r": 2},
    "loha": {"r": 2},
    "lokr": {"r": 2},
    "oft": {"oft_block_size": 4},
    "boft": {"boft_block_size": 4},
    "hra": {"r": 2},
    "ia3": {},
}
KIND_SAMPLE = {("dora", "flux"), ("lokr", "sd3"), ("oft", "sdxl")}


def kinds() -> list[Any]:
    return [
        pytest.param(
            kind,
            name,
            marks=() if (kind, name) in KIND_SAMPLE else (pytest.mark.nightly,),
            id=f"{kind}-{name}",
        )
        for kind in KINDS
        for name in NEW
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("families")
    return {name: make_tiny(name, place / name) for name in TINY}


def load(folder: Path) -> Backbone:
    return load_backbone(ModelConfig(path=str(folder)))


def trainer_of(make_config: MakeConfig, method: str, backbone: Backbone, **fields: Any) -> Trainer:
    config = make_config(method, model=str(backbone.folder), resolution=RESOLUTION, **fields)
    subject = resolve_subject(config.subject, RESOLUTION)
    return build_trainer(config, backbone, subject, Cache(config.cache_dir))


def reached(trainer: Trainer) -> set[str]:
    """What trains and a gradient comes to: SDXL and SD 3 do not use the last layer of a text encoder."""
    batch_loss(trainer, trainer.batches.sample()).backward()
    found = {name for name, value in trainer.parameters.items() if value.grad is not None}
    trainer.optimizer.optimizer.zero_grad(set_to_none=True)
    return found


def frozen(backbone: Backbone, trained: set[str]) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": value.detach().clone()
        for part, module in backbone.modules.items()
        for name, value in module.named_parameters()
        if f"{part}.{name}" not in trained
    }


@pytest.mark.parametrize(("method", "name", "text_encoder"), cases(TRAIN_SAMPLE, False, True))
def test_trains_its_parameters_alone_and_is_loaded_by_the_stock_pipeline(
    method: str,
    name: str,
    text_encoder: bool,
    make_config: MakeConfig,
    folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    fields = {"learning_rate": 2e-2} | OWN_FIELDS.get(method, {})
    if text_encoder:
        fields["text_encoder_learning_rate"] = 1e-2
    fields["train_text_encoder"] = text_encoder
    train_save_and_load(method, fields, folders[name], make_config, tmp_path)


@pytest.mark.parametrize(("kind", "name"), kinds())
def test_adapters_of_every_kind_are_loaded_again(
    kind: str, name: str, make_config: MakeConfig, folders: dict[str, Path], tmp_path: Path
) -> None:
    fields = {"adapter": kind, "learning_rate": 5e-2, "text_encoder_learning_rate": 1e-2, **KINDS[kind]}
    train_save_and_load("lora", fields | {"train_text_encoder": True}, folders[name], make_config, tmp_path)


def train_save_and_load(
    method: str, fields: dict[str, Any], folder: Path, make_config: MakeConfig, tmp_path: Path
) -> None:
    """Trains three steps; the stock pipeline then draws what the model in memory does, which is undone."""
    backbone = load(folder)
    untouched = backbone.parameter_digest()
    trainer = trainer_of(make_config, method, backbone, **fields)
    chosen, family = get_method(method), backbone.family
    said = chosen.trained_parts(family, trainer.config)
    assert {key.split(".")[0] for key in trainer.parameters} == set(said)
    assert {value.dtype for value in trainer.parameters.values()} == {torch.float32}
    with_gradient = reached(trainer)
    assert {key.split(".")[0] for key in with_gradient} == set(said)
    before = {key: value.detach().clone() for key, value in trainer.parameters.items()}
    others = frozen(backbone, set(before))
    steps = max(3, trainer.stretches[-1][0] + 2)  # adapters' B begins at zero: A moves in the second
    losses = [train_step(trainer)[0] for _ in range(steps)]
    assert all(torch.isfinite(loss) for loss in losses)
    moved = {key for key, value in trainer.parameters.items() if not torch.equal(value, before[key])}
    assert moved >= with_gradient
    assert all(torch.equal(value, others[key]) for key, value in frozen(backbone, set(before)).items())

    noise = initial_noise(backbone, [1], RESOLUTION)
    prompts = [trainer.config.reword("a sks cat")]
    for module in backbone.modules.values():
        module.eval()
    ours = draw_stock(backbone.pipeline(), prompts, noise)
    chosen.save(backbone, trainer.config, tmp_path / "weights")
    stock = family.stock_pipeline().from_pretrained(str(folder), local_files_only=True)
    base = draw_stock(stock, prompts, noise)
    loaded = chosen.load(stock, tmp_path / "weights")
    assert (ours - base).abs().max() > 0.01
    torch.testing.assert_close(draw_stock(loaded, prompts, noise), ours, rtol=0, atol=2e-3)

    chosen.detach(backbone)
    backbone.restore()
    assert backbone.parameter_digest() == untouched
    assert backbone.is_base_model()


@pytest.mark.parametrize(("method", "name"), cases(RESUME_SAMPLE))
def test_a_run_that_was_stopped_ends_with_the_same_bits(
    method: str, name: str, make_config: MakeConfig, folders: dict[str, Path], resident: Resident
) -> None:
    """With all that may be on: text encoders, mirrored images, masks, low precision, recomputation, class images."""
    fields = {
        "model": str(folders[name]),
        "resolution": RESOLUTION,
        "train_text_encoder": True,
        "with_prior_preservation": True,
        "mixed_precision": "bf16",
        "gradient_checkpointing": True,
        "random_flip": True,
        "masked_loss": True,
        "max_train_steps": 4,
        **OWN_FIELDS.get(method, {}),
    }
    whole, broken = make_config(method, "whole", **fields), make_config(method, "broken", **fields)
    list(execute(whole, resident))
    run = execute(broken, resident)
    for event in run:
        if event.kind == "progress" and event.step == 3:
            break
    with pytest.raises(KeyboardInterrupt):
        run.throw(KeyboardInterrupt())
    events = list(execute(broken, resident))
    assert events[0].data["resumed_step"] == 2
    weights = [
        {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}
        for folder in (Path(config.output_dir) / "weights" for config in (whole, broken))
    ]
    assert weights[0]
    assert weights[0] == weights[1]
    assert resident._kept["backbone"][1].is_base_model()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "flux" else (pytest.mark.nightly,)) for name in NEW]
)
def test_the_base_model_is_judged(
    name: str, make_config: MakeConfig, folders: dict[str, Path], resident: Resident
) -> None:
    config = make_config(BASE, model=str(folders[name]), resolution=RESOLUTION)
    last = list(execute(config, resident))[-1]
    assert (last.kind, last.data["state"]) == ("finished", "COMPLETE")


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_kohyas_layout_is_written_where_it_has_names(
    name: str, make_config: MakeConfig, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Of SDXL it numbers the text encoders, and stock diffusers reads the same weights out of it."""
    backbone = load(folders[name])
    trainer = trainer_of(
        make_config,
        "lora",
        backbone,
        train_text_encoder=True,
        learning_rate=2e-2,
        text_encoder_learning_rate=1e-2,
        lora_alpha=1,
    )
    for _ in range(3):
        train_step(trainer)
    get_method("lora").save(backbone, trainer.config, tmp_path / "weights")
    file = tmp_path / "weights" / "lora_kohya.safetensors"
    assert file.exists() == (name == "sdxl")
    if name != "sdxl":
        return
    with safe_open(file, "pt") as opened:
        begins = {key.split("_")[1] for key in opened.keys()}  # noqa: SIM118 - it is no mapping
        assert opened.metadata()["ss_base_model_version"] == "sdxl_base_v1-0"
    assert begins == {"unet", "te1", "te2"}
    noise = initial_noise(backbone, [1], RESOLUTION)
    for module in backbone.modules.values():
        module.eval()
    ours = draw_stock(backbone.pipeline(), ["a sks cat"], noise)
    stock = backbone.family.stock_pipeline().from_pretrained(str(folders[name]), local_files_only=True)
    stock.load_lora_weights(str(file.parent), weight_name=file.name)
    torch.testing.assert_close(draw_stock(stock, ["a sks cat"], noise), ours, rtol=0, atol=2e-3)


def test_a_stock_flux_with_a_learnt_word_pools_at_the_end_once_it_is_told(
    make_config: MakeConfig, folders: dict[str, Path], tmp_path: Path
) -> None:
    """As docs/methods.md has it; the CLIP of FLUX.1 says 2 of its end token, as that of Stable Diffusion XL does."""
    backbone = load(folders["flux"])
    trainer = trainer_of(make_config, "textual_inversion", backbone, num_vectors=2, learning_rate=2e-2)
    train_step(trainer)
    get_method("textual_inversion").save(backbone, trainer.config, tmp_path)
    prompts = [trainer.config.reword("a sks cat")]
    for module in backbone.modules.values():
        module.eval()
    ours = backbone.encode_prompts(prompts)
    stock = backbone.family.stock_pipeline().from_pretrained(str(folders["flux"]), local_files_only=True)
    state = load_file(tmp_path / "learned_embeds.safetensors")
    places = {
        "clip_l": {"text_encoder": stock.text_encoder, "tokenizer": stock.tokenizer},
        "t5xxl": {"text_encoder": stock.text_encoder_2, "tokenizer": stock.tokenizer_2},
    }
    for key, place in places.items():
        stock.load_textual_inversion(state[key], token="<sks>", **place)

    def pooled() -> torch.Tensor:
        with torch.no_grad():
            return torch.as_tensor(stock.encode_prompt(prompts, device="cpu", max_sequence_length=TOKENS)[1])

    assert not torch.allclose(pooled(), ours["pooled"], atol=1e-3)
    stock.text_encoder.eos_token_id = stock.tokenizer.eos_token_id
    torch.testing.assert_close(pooled(), ours["pooled"])


def test_a_text_encoder_that_is_read_alone_draws_no_dropout(
    make_config: MakeConfig, folders: dict[str, Path]
) -> None:
    """The words are taught under the T5 that reads them, which has dropout in training mode; it still recomputes."""
    backbone = load(folders["flux"])
    t5 = backbone.modules["text_encoder_2"]
    assert t5.config.dropout_rate > 0
    trainer = trainer_of(make_config, "textual_inversion", backbone, gradient_checkpointing=True)
    calls: list[int] = []
    hook = t5.encoder.block[0].layer[0].register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    first = backbone.encode(trainer.texts.rows)
    assert len(calls) == 1
    torch.stack([rows.float().sum() for rows in first.values()]).sum().backward()
    assert len(calls) == 2  # once more in the backward pass
    hook.remove()
    again = backbone.encode(trainer.texts.rows)
    assert all(torch.equal(again[name], rows) for name, rows in first.items())
    backbone.restore()
    assert backbone.is_base_model()


def test_a_text_encoder_that_trains_is_in_training_mode(
    make_config: MakeConfig, folders: dict[str, Path]
) -> None:
    backbone = load(folders["flux"])
    trainer_of(make_config, "lora", backbone, train_text_encoder=True)
    modes = {
        name: all(part.training for part in module.modules()) for name, module in backbone.modules.items()
    }
    assert modes == {"transformer": True, "vae": False, "text_encoder": True, "text_encoder_2": False}


@pytest.mark.parametrize(
    ("method", "name"), cases({("lora", "sdxl"), ("dreambooth", "sd3"), ("lora", "flux")})
)
def test_the_frozen_base_is_asked_of_every_family(
    method: str, name: str, folders: dict[str, Path], make_config: MakeConfig
) -> None:
    """Its prediction for the class is what the model itself says before the first step, and not after it."""
    if "method" in get_method(method).config_class.needs_of("with_prior_preservation"):
        pytest.skip("the method changes nothing of a class")
    base = {"with_prior_preservation": True, "prior_preservation_target": "base"}
    trainer = trainer_of(make_config, method, load(folders[name]), learning_rate=1e-2, **base)
    batch = trainer.batches.draw()
    assert batch.from_base is not None
    shares = torch.where(batch.from_base, batch.shares, torch.zeros(()))
    of_class = Batch(**{**vars(batch), "shares": shares})
    assert float(batch_loss(trainer, of_class).detach()) < 1e-9
    for _ in range(4):  # the second half of them trains pivotal tuning's weights
        train_step(trainer)
    assert float(batch_loss(trainer, of_class).detach()) > 1e-7
