"""SGM's names of a UNet's modules, against diffusers' reader of published checkpoints and the known names of SDXL."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainables.models.sgm_names import sgm_name

#: From the published checkpoint of SDXL.
KNOWN = {
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": "input_blocks.4.1.transformer_blocks.0.attn1.to_q",
    "down_blocks.2.attentions.1.proj_in": "input_blocks.8.1.proj_in",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
    "mid_block.attentions.0.transformer_blocks.9.ff.net.2": "middle_block.1.transformer_blocks.9.ff.net.2",
    "up_blocks.0.attentions.2.transformer_blocks.0.attn2.to_v": "output_blocks.2.1.transformer_blocks.0.attn2.to_v",
    "up_blocks.1.upsamplers.0.conv": "output_blocks.5.2.conv",
    "up_blocks.2.resnets.0.conv_shortcut": "output_blocks.6.0.skip_connection",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_out": "out.2",
}


@pytest.fixture(scope="module")
def unet() -> Any:
    """SDXL's UNet without weights, with one transformer a block."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(
            block_out_channels=(32, 64, 128),
            layers_per_block=2,
            cross_attention_dim=2048,
            attention_head_dim=(5, 10, 20),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
            use_linear_projection=True,
        )


def test_names_are_those_of_the_published_checkpoint(unet: Any) -> None:
    assert {module: sgm_name(module, unet.config) for module in KNOWN} == KNOWN


def test_diffusers_reads_every_name_back(unet: Any) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    layers = [
        name for name, module in unet.named_modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    ]
    state = {f"{name}.weight": torch.tensor([float(number)]) for number, name in enumerate(layers)}
    published = {
        f"model.diffusion_model.{sgm_name(key.removesuffix('.weight'), unet.config)}.weight": value
        for key, value in state.items()
    }
    assert len(published) == len(layers) > 100
    # Its reader asks for biases, which have no part in the names.
    biases = {key.replace(".weight", ".bias"): value for key, value in published.items()}
    read = convert_ldm_unet_checkpoint(published | biases, dict(unet.config) | {"class_embed_type": None})
    assert {key: value for key, value in read.items() if key.endswith(".weight")} == state


def test_a_module_without_a_name_is_an_error(unet: Any) -> None:
    with pytest.raises(ValueError, match=r"no name for the module 'mid_block\.attentions\.1\.proj_in'"):
        sgm_name("mid_block.attentions.1.proj_in", unet.config)
