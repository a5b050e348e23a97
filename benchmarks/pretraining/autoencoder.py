"""The autoencoder: 64x64x3 pictures to 8x8x16 latents (a KL autoencoder as in Rombach et al. 2022)."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL

from benchmarks.pretraining.common import Budget, Stage, cosine, stream, to_tensor
from benchmarks.pretraining.latents import Latents
from benchmarks.pretraining.norms import speed_up_group_norms
from benchmarks.pretraining.pool import load_pool

KL_WEIGHT = 5e-5


def build(tiny: bool = False) -> AutoencoderKL:
    """An untrained autoencoder; no attention, so it is fast and translation-equivariant."""
    widths = (8, 8, 8, 8) if tiny else (16, 32, 64, 128)
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=64,
    )
    # Start almost without noise (sigma 0.08): from sigma 1 the first minutes go into drowning it.
    torch.nn.init.constant_(model.quant_conv.bias[16:], -5.0)
    with torch.no_grad():
        model.quant_conv.weight[16:].mul_(0.1)
    return model.to(memory_format=torch.channels_last)


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 plus squared error: L1 keeps edges sharp, the square is what PSNR counts."""
    error = output.float() - target
    return error.abs().mean() + 2 * error.square().mean()


def train(budget: Budget) -> AutoencoderKL:
    """Train the autoencoder and set `scaling_factor` so that latents have unit variance."""
    torch.manual_seed(budget.seed)
    pool = load_pool(budget.work, budget.identities, budget.seed)
    model = build(budget.tiny)
    speed_up_group_norms(model)
    stage = Stage(
        "autoencoder", {"vae": model}, budget, 2.5e-3, cosine, muon_rate=0.03,
        not_matrices=("conv_in", "conv_out", "quant_conv"),
    )  # fmt: skip

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = stream(budget.seed, "autoencoder", step)
        x = to_tensor(pool.images[rng.integers(len(pool.images), size=budget.batch)])
        noise = torch.from_numpy(rng.standard_normal((budget.batch, 16, 8, 8), dtype="float32"))
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(x).latent_dist
            z = posterior.mean.float() + posterior.std.float() * noise
            output = model.decode(z.contiguous(memory_format=torch.channels_last)).sample
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        mse = (output.float() - x).detach().square().mean()
        psnr = float(10 * torch.log10(4 / mse))
        value = reconstruction_loss(output, x) + KL_WEIGHT * kl
        return value, {"psnr": psnr, "kl": float(kl.detach())}

    stage.run(loss)
    model.eval()
    model.register_to_config(scaling_factor=latent_scale(model, pool.images[:2048]))
    return model


def train_decoder(budget: Budget, model: AutoencoderKL) -> AutoencoderKL:
    """Go on with the decoder alone: the latents stay as they are, so a denoiser of them stays valid.

    Half of each batch has a little noise on its latents, because a denoiser's latents have some.
    """
    torch.manual_seed(budget.seed + 5)
    pool = load_pool(budget.work, budget.identities, budget.seed)
    latents = Latents(model, pool)
    model.requires_grad_(False)
    model.decoder.requires_grad_(True)
    speed_up_group_norms(model.decoder)
    stage = Stage(
        "decoder", {"decoder": model.decoder}, budget, 1e-3, cosine, muon_rate=0.01,
        not_matrices=("conv_in", "conv_out"),
    )  # fmt: skip

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = stream(budget.seed, "decoder", step)
        rows = rng.integers(len(pool.images), size=budget.batch)
        x = to_tensor(pool.images[rows])
        z = latents.sample(rows, rng)
        level = np.where(np.arange(budget.batch) % 2, rng.uniform(0, 0.15, budget.batch), 0.0)
        noise = rng.standard_normal(tuple(z.shape)) * level[:, None, None, None]
        z = (z + torch.from_numpy(noise).float()) / model.config.scaling_factor
        with torch.autocast("cpu", torch.bfloat16):
            output = model.decode(z.contiguous(memory_format=torch.channels_last)).sample
        mse = (output[::2].float() - x[::2]).detach().square().mean()
        value = reconstruction_loss(output, x)
        return value, {"psnr": float(10 * torch.log10(4 / mse))}

    stage.run(loss)
    return model.eval()


@torch.no_grad()
def latent_scale(model: AutoencoderKL, images: np.ndarray) -> float:
    """1 / standard deviation of sampled latents, as in Rombach et al. 2022, appendix G."""
    x = to_tensor(images)
    moments = [model.encode(part).latent_dist for part in x.split(256)]
    mean = torch.cat([m.mean for m in moments])
    variance = mean.var() + torch.cat([m.var for m in moments]).mean()
    return round(float(variance**-0.5), 5)
