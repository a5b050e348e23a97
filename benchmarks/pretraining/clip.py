"""The CLIP of the sprite world: an image tower and a text tower (Radford et al. 2021)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, ViTModel

from benchmarks.pretraining.common import Budget, Stage, cosine, stream, to_tensor
from benchmarks.pretraining.judge import augment
from benchmarks.pretraining.pool import PART_NAMES, PARTS, Pool, load_pool
from benchmarks.pretraining.tokens import MAX_LENGTH, write_tokenizer
from trainables.embedded.captions import attributes, full_caption, random_caption


def build(vocabulary: int, tiny: bool = False) -> CLIPModel:
    """An untrained CLIP; the image tower has the shape of the image encoder."""
    vision = {
        "hidden_size": 32 if tiny else 160,
        "num_hidden_layers": 1 if tiny else 6,
        "num_attention_heads": 2 if tiny else 5,
        "intermediate_size": 64 if tiny else 480,
        "image_size": 64,
        "patch_size": 8,
        "hidden_act": "gelu",
    }
    text = {
        "vocab_size": vocabulary,
        "hidden_size": 32 if tiny else 128,
        "num_hidden_layers": 1 if tiny else 3,
        "num_attention_heads": 2 if tiny else 4,
        "intermediate_size": 64 if tiny else 384,
        "max_position_embeddings": MAX_LENGTH,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


@torch.no_grad()
def start_from(model: CLIPModel, encoder: ViTModel) -> None:
    """Copy the image encoder's weights into the image tower where the two agree."""
    tower = model.vision_model
    source = encoder.state_dict()
    tower.embeddings.patch_embedding.weight.copy_(source["embeddings.patch_embeddings.projection.weight"])
    tower.embeddings.class_embedding.copy_(source["embeddings.cls_token"].flatten())
    tower.embeddings.position_embedding.weight.copy_(source["embeddings.position_embeddings"][0])
    pairs = {
        "attention.q_proj": "self_attn.q_proj", "attention.k_proj": "self_attn.k_proj",
        "attention.v_proj": "self_attn.v_proj", "attention.o_proj": "self_attn.out_proj",
        "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
        "layernorm_before": "layer_norm1", "layernorm_after": "layer_norm2",
    }  # fmt: skip
    target = dict(tower.named_parameters())
    for index in range(encoder.config.num_hidden_layers):
        for theirs, ours in pairs.items():
            for kind in ("weight", "bias"):
                key = f"encoder.layers.{index}.{ours}.{kind}"
                target[key].copy_(source[f"layers.{index}.{theirs}.{kind}"])


def named(captions: list[str]) -> np.ndarray:
    """int64 [n, 4]: what each caption names, as indices into `PARTS`, -1 for what it leaves out."""
    table = np.full((len(captions), 4), -1)
    for row, caption in enumerate(captions):
        found = attributes(caption)
        for column, (kind, part) in enumerate(zip(PART_NAMES, PARTS, strict=True)):
            if kind in found:
                table[row, column] = part.index(found[kind])
    return table


def matches(captions: np.ndarray, labels: np.ndarray) -> torch.Tensor:
    """bool [images, captions]: whether all that a caption names is true of an image."""
    agree = (captions[None] == labels[:, None]) | (captions[None] < 0)
    return torch.from_numpy(agree.all(2))


def _captions(rng: np.random.Generator, pool: Pool, rows: np.ndarray) -> list[str]:
    texts = []
    for row in rows:
        names = pool.names(int(row))
        full = rng.random() < 0.6
        texts.append(full_caption(*names) if full else random_caption(rng, *names, p_empty=0.0))
    return texts


def train(budget: Budget, encoder: ViTModel) -> CLIPModel:
    """Train both towers with the contrastive loss, every true caption of an image a positive."""
    torch.manual_seed(budget.seed + 3)
    pool = load_pool(budget.work, budget.identities, budget.seed)
    tokenizer = write_tokenizer(budget.work / "tokenizer")
    model = build(len(tokenizer), budget.tiny)
    start_from(model, encoder)
    stage = Stage("clip", {"clip": model}, budget, 1e-3, cosine, weight_decay=0.05)

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = stream(budget.seed, "clip", step)
        rows = rng.integers(len(pool.images), size=budget.batch)
        x = augment(to_tensor(pool.images[rows]), rng)
        texts = _captions(rng, pool, rows)
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            out = model(pixel_values=x, **tokens)
        images, captions = (F.normalize(e.float(), dim=1) for e in (out.image_embeds, out.text_embeds))
        logits = images @ captions.T * model.logit_scale.exp().clamp(max=50)
        true = matches(named(texts), pool.labels[rows]).float()
        value = -(
            (logits.log_softmax(1) * true).sum(1) / true.sum(1)
            + (logits.log_softmax(0) * true).sum(0) / true.sum(0)
        ).mean() / 2  # fmt: skip
        right = true.gather(1, logits.argmax(1, keepdim=True)).mean()
        return value, {"right": float(right)}

    stage.run(loss)
    return model.eval()


def save(model: CLIPModel, folder: Path) -> None:
    """Write model, tokenizer and image processor so that Auto classes load them."""
    from transformers import CLIPImageProcessorPil, CLIPProcessor

    model.save_pretrained(folder)
    processor = CLIPProcessor(
        CLIPImageProcessorPil(
            do_resize=True,
            size={"shortest_edge": 64},
            do_center_crop=True,
            crop_size={"height": 64, "width": 64},
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        ),
        write_tokenizer(folder),
    )
    processor.save_pretrained(folder)
