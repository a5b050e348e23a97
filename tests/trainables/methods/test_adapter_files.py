"""Files of adapters: stock tools load each kind again with the same output; a base that adapters alter comes back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.helpers.training_runs import MakeConfig, MakeTrainer
from trainables.config.fields import ModelConfig
from trainables.errors import UserError
from trainables.methods.adapter_kinds import KINDS
from trainables.methods.adapters import KOHYA_FILE, WEIGHTS_FILE
from trainables.methods.registry import get_method
from trainables.models.backbone import Backbone
from trainables.models.loading import load_backbone
from trainables.run.execute import execute
from trainables.training.loop import Trainer, train_step

LORA, CONV = get_method("lora"), ["to_q", "to_v", "conv1", "proj_in", "time_emb_proj"]
PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")
PEFT = {f"{part}/{name}" for part in ("unet", "text_encoder") for name in PEFT_FILES}
WITHOUT_TEXT = {WEIGHTS_FILE, *(f"text_encoder/{name}" for name in PEFT_FILES)}
DIFFUSERS = {WEIGHTS_FILE, KOHYA_FILE}
#: Fields, the files, and whether every bit of the output must come back (a scale that is multiplied in rounds).
CASES: dict[str, tuple[dict[str, Any], set[str], bool]] = {
    "lora": ({"target_modules": CONV}, DIFFUSERS, True),
    "lora-patterns": (
        {"rank_pattern": {"to_q": 4, "attn2.to_v": 1}, "alpha_pattern": {"to_k": 3}, "lora_alpha": 1},
        DIFFUSERS,
        False,
    ),
    "lora-rank-pattern": ({"rank_pattern": {r"attn1\.to_(q|k)": 4}}, DIFFUSERS, True),
    "rslora": ({"adapter": "rslora", "r": 4}, DIFFUSERS, True),
    "dora": ({"adapter": "dora", "target_modules": CONV}, WITHOUT_TEXT, True),
    "loha": ({"adapter": "loha", "target_modules": CONV, "lora_alpha": 3}, PEFT, True),
    "loha-tucker": ({"adapter": "loha", "target_modules": CONV, "use_effective_conv2d": True}, PEFT, True),
    "lokr": (
        {"adapter": "lokr", "target_modules": CONV, "decompose_factor": 2, "rank_pattern": {"to_q": 1}},
        WITHOUT_TEXT,
        True,
    ),
    "lokr-scaled": (
        {"adapter": "lokr", "lora_alpha": 3, "alpha_pattern": {"to_q": 1}, "decompose_both": True},
        WITHOUT_TEXT,
        False,
    ),
    "oft": ({"adapter": "oft", "oft_block_size": 8, "target_modules": ["to_q", "proj_in"]}, PEFT, True),
    "oft-cayley": ({"adapter": "oft", "oft_block_size": 8, "use_cayley_neumann": False}, PEFT, True),
    "boft": ({"adapter": "boft", "target_modules": CONV}, PEFT, True),
    "hra": ({"adapter": "hra", "target_modules": CONV}, PEFT, True),
    "ia3": ({"adapter": "ia3", "target_modules": [*CONV, "ff.net.2"]}, PEFT, True),
    "pissa": ({"init_lora_weights": "pissa", "rank_pattern": {"to_q": 4}}, DIFFUSERS, False),
    "pissa-rslora": ({"init_lora_weights": "pissa_niter_16", "adapter": "rslora", "r": 4}, DIFFUSERS, False),
    "olora": ({"init_lora_weights": "olora", "lora_alpha": 4}, DIFFUSERS, False),
}  # fmt: skip


def outputs(backbone: Backbone) -> dict[str, torch.Tensor]:
    """What the denoiser and the text encoder give, in evaluation mode."""
    for module in backbone.modules.values():
        module.eval()
    inputs = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        texts = backbone.encode_prompts(["a photo of a cat", "a sks cat"])
        return {"unet": backbone.denoise(inputs, torch.tensor([500, 20]), texts), **texts}


def trained(make_trainer: MakeTrainer, **fields: Any) -> Trainer:
    trainer = make_trainer(
        "lora", train_text_encoder=True, text_encoder_learning_rate=1e-2, learning_rate=3e-2, **fields
    )
    for _ in range(3):
        train_step(trainer)
    return trainer


@pytest.mark.parametrize("case", CASES)
def test_stock_tools_load_what_was_trained(
    case: str, make_trainer: MakeTrainer, models: Path, tmp_path: Path
) -> None:
    fields, files, exact = CASES[case]
    trainer = trained(make_trainer, **fields)
    folder = tmp_path / "weights"
    trainer.backbone.restore_frozen()
    LORA.save(trainer.backbone, trainer.config, folder)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == files
    ours = outputs(trainer.backbone)

    again = load_backbone(ModelConfig(path=str(models / "model")))
    base = outputs(again)
    assert LORA.load(again.pipeline(), folder) is again.pipeline()
    for name, value in outputs(again).items():
        assert float((value - base[name]).abs().max()) > 1e-3, name
        tolerance = 0.0 if exact else 2e-5
        torch.testing.assert_close(value, ours[name], rtol=0, atol=tolerance, msg=name)
    for config in folder.rglob("adapter_config.json"):
        assert str(models) not in config.read_text()


def test_no_pickle_is_loaded_in_place_of_safetensors(
    make_trainer: MakeTrainer, models: Path, tmp_path: Path
) -> None:
    trainer = make_trainer("lora", adapter="ia3")
    LORA.save(trainer.backbone, trainer.config, tmp_path / "weights")
    weights = tmp_path / "weights" / "unet" / "adapter_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    again = load_backbone(ModelConfig(path=str(models / "model")))
    with pytest.raises(UserError, match=r"but no adapter_model\.safetensors"):
        LORA.load(again.pipeline(), tmp_path / "weights")
    assert again.is_base_model()


def test_equal_weights_are_equal_files(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    found = []
    for number in range(2):
        trainer = trained(make_trainer, adapter="lokr")
        LORA.save(trainer.backbone, trainer.config, tmp_path / str(number))
        folder = tmp_path / str(number)
        found.append(
            {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        )
    assert found[0] == found[1]


def test_kohyas_layout_has_the_strength_of_each_layer(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = trained(make_trainer, **CASES["lora-patterns"][0])
    LORA.save(trainer.backbone, trainer.config, tmp_path / "weights")
    state = load_file(tmp_path / "weights" / KOHYA_FILE)
    diffusers = load_file(tmp_path / "weights" / WEIGHTS_FILE)  # with the scale in B
    ranks = {}
    for layer in ("attn1.to_q", "attn2.to_v", "attn1.to_v", "attn1.to_k"):
        name = f"mid_block.attentions.0.transformer_blocks.0.{layer}"
        down, up, alpha = (
            state[f"lora_unet_{name.replace('.', '_')}.{part}"]
            for part in ("lora_down.weight", "lora_up.weight", "alpha")
        )
        ranks[layer] = len(down)
        product = float(alpha) / len(down) * up @ down
        expected = diffusers[f"unet.{name}.lora_B.weight"] @ diffusers[f"unet.{name}.lora_A.weight"]
        torch.testing.assert_close(product, expected)
    assert ranks == {"attn1.to_q": 4, "attn2.to_v": 1, "attn1.to_v": 2, "attn1.to_k": 2}
    alphas = {float(value) for key, value in state.items() if key.endswith(".alpha")}
    assert alphas == {1.0}, "one a file: diffusers' reader takes the most common for all layers of attention"


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16", "olora"])
def test_an_altered_base_is_kept_while_it_trains_and_comes_back(
    start: str, make_trainer: MakeTrainer, backbone: Backbone
) -> None:
    before, base = backbone.parameter_digest(), outputs(backbone)
    trainer = make_trainer("lora", init_lora_weights=start, mixed_precision="bf16", train_text_encoder=True)
    layer = backbone.denoiser.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    altered = layer.get_base_layer().weight.detach().clone()
    with backbone.in_full_precision():  # the base weight stays without what the adapter has taken out
        for name, value in outputs(backbone).items():
            torch.testing.assert_close(value, base[name], rtol=1e-4, atol=1e-5)
        full = layer.get_base_layer().weight.detach().clone()
    assert torch.equal(full.to(torch.bfloat16), altered)
    train_step(trainer)
    backbone.restore_frozen()
    assert torch.equal(layer.get_base_layer().weight, full)
    with LORA.fused(backbone) as merged:
        assert merged
        fused = outputs(backbone)
    for name, value in outputs(backbone).items():
        torch.testing.assert_close(fused[name], value, rtol=1e-4, atol=1e-5)
    assert torch.equal(layer.get_base_layer().weight, full)
    LORA.detach(backbone)
    backbone.restore()
    assert backbone.parameter_digest() == before
    assert backbone.is_base_model()


@pytest.mark.parametrize("adapter", [kind for kind in KINDS if kind != "lora"])
def test_on_the_models_own_layers_merged_is_unmerged_and_leaves_no_trace(
    adapter: str, make_trainer: MakeTrainer, backbone: Backbone
) -> None:
    """For BOFT and HRA PEFT views convolutions as rows, which the memory layout of the loaded model does not allow."""
    before = backbone.parameter_digest()
    targets = ["to_q", "proj_in"] if adapter == "oft" else ["to_q", "proj_in", "conv1"]
    trainer = make_trainer(
        "lora",
        adapter=adapter,
        target_modules=targets,
        oft_block_size=8,
        mixed_precision="bf16",
        learning_rate=3e-2,
    )
    for _ in range(2):
        train_step(trainer)
        with backbone.in_full_precision():
            beside = outputs(backbone)
    backbone.restore_frozen()
    with LORA.fused(backbone) as merged:
        assert merged
        fused = outputs(backbone)
    torch.testing.assert_close(fused, beside, rtol=1e-3, atol=1e-4)
    for name, value in outputs(backbone).items():
        assert torch.equal(value, beside[name])
    LORA.detach(backbone)
    backbone.restore()
    assert backbone.is_base_model()
    assert backbone.parameter_digest() == before


def test_a_run_that_alters_the_base_is_resumed_with_the_same_bits(
    make_config: MakeConfig, resident: Any
) -> None:
    fields = {
        "init_lora_weights": "pissa",
        "max_train_steps": 4,
        "loraplus_lr_ratio": 4.0,
        "train_text_encoder": True,
    }
    whole = make_config("lora", "whole", **fields)
    broken = make_config("lora", "broken", **fields)
    list(execute(whole, resident))
    run = execute(broken, resident)
    for event in run:
        if event.kind == "progress" and event.step == 3:
            break
    with pytest.raises(KeyboardInterrupt):
        run.throw(KeyboardInterrupt())
    resumed = list(execute(broken, resident))
    assert resumed[0].data["resumed_step"] == 2
    results = []
    for config in (whole, broken):
        folder = Path(config.output_dir)
        result = json.loads((folder / "result.json").read_text())
        assert result["cost"]["artifact_bytes"] == (folder / "weights" / WEIGHTS_FILE).stat().st_size
        results.append(
            (result["state"], result["evaluation"], (folder / "weights" / WEIGHTS_FILE).read_bytes())
        )
    assert results[0] == results[1]
    assert results[0][0] == "COMPLETE"


def test_lora_plus_gives_b_another_rate(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        "lora", adapter="dora", loraplus_lr_ratio=8.0, learning_rate=1e-3, train_text_encoder=True
    )
    groups = trainer.optimizer.param_groups
    assert [(group["name"], group["lr"]) for group in groups] == [
        ("unet", 1e-3), ("unet", 8e-3), ("text_encoder", 1e-3), ("text_encoder", 8e-3),
    ]  # fmt: skip
    named = {id(value): name for name, value in trainer.parameters.items()}
    for group in groups:
        kinds = {named[id(value)].rsplit(".default", 1)[0].rsplit(".", 1)[-1] for value in group["params"]}
        assert kinds == ({"lora_A"} if group["lr"] == 1e-3 else {"lora_B", "lora_magnitude_vector"})
    before = {name: value.detach().clone() for name, value in trainer.parameters.items()}
    train_step(trainer)
    largest = {
        matrix: max(
            float((value - before[name]).detach().abs().max())
            for name, value in trainer.parameters.items()
            if matrix in name
        )
        for matrix in ("lora_B", "lora_magnitude_vector")
    }
    assert largest == pytest.approx({"lora_B": 8e-3, "lora_magnitude_vector": 8e-3}, rel=0.05)


WHOLE_NAME = r"encoder\.layers\.0\.self_attn\.(q|v)_proj"  # a regular expression


@pytest.mark.parametrize("targets", [["q_proj", "fc1"], WHOLE_NAME])
def test_files_nest_text_encoders_as_other_readers_expect_it(
    targets: Any, make_trainer: MakeTrainer, models: Path, tmp_path: Path
) -> None:
    """ComfyUI, and diffusers with transformers before 5.6, look for the layers inside `text_model`."""
    trainer = trained(make_trainer, text_encoder_target_modules=targets)
    LORA.save(trainer.backbone, trainer.config, tmp_path / "weights")
    file = tmp_path / "weights" / WEIGHTS_FILE
    with safe_open(file, "pt") as opened:
        names = [name for name in opened.keys() if name.startswith("text_encoder.")]  # noqa: SIM118
        config = json.loads(opened.metadata()["lora_adapter_metadata"])
    assert names
    assert all(name.startswith("text_encoder.text_model.encoder.layers.") for name in names)
    said = config["text_encoder.target_modules"]
    for name in names:
        module = name.removeprefix("text_encoder.").rsplit(".lora_", 1)[0]
        flat = module.removeprefix("text_model.")
        for each in (module, flat):
            assert re.fullmatch(said, each) if isinstance(said, str) else each.endswith(tuple(said))


@pytest.mark.parametrize("targets", [["q_proj", "fc1"], WHOLE_NAME])
def test_files_that_nest_nothing_are_loaded_too(
    targets: Any, make_trainer: MakeTrainer, models: Path, tmp_path: Path
) -> None:
    """Earlier versions wrote them, and such runs may be gone on with."""
    trainer = trained(make_trainer, text_encoder_target_modules=targets)
    trainer.backbone.restore_frozen()
    LORA.save(trainer.backbone, trainer.config, tmp_path / "weights")
    ours = outputs(trainer.backbone)
    file = tmp_path / "weights" / WEIGHTS_FILE
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    config = json.loads(metadata["lora_adapter_metadata"]) | {"text_encoder.target_modules": targets}
    earlier = {name.replace(".text_model.", "."): value for name, value in load_file(file).items()}
    for state, said in (
        (load_file(file), metadata),
        (earlier, metadata | {"lora_adapter_metadata": json.dumps(config)}),
    ):
        save_file(state, file, said)
        again = load_backbone(ModelConfig(path=str(models / "model")))
        LORA.load(again.pipeline(), tmp_path / "weights")
        for name, value in outputs(again).items():
            assert torch.equal(value, ours[name])
