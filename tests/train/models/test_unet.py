import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

from export.bundling import Checkpoint
from tests.conftest import relative_error
from train.model import build_scheduler
from train.models.attention import AttentionProcessor
from train.models.config import UNetConfig
from train.models.unet import build_unet

Goldens = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def unet(checkpoint: Checkpoint) -> UNet2DConditionModel:
    return checkpoint.modules.unet


def test_output(unet: UNet2DConditionModel, goldens: Goldens) -> None:
    latents, timestep, tokens, mask = (
        torch.from_numpy(goldens[name]) for name in ("unet_x", "unet_t", "cond_batch", "cond_batch_mask")
    )
    output = unet(latents, timestep, tokens, encoder_attention_mask=mask).sample
    assert relative_error(output, goldens["unet_y"]) < 1e-4


def test_ten_guided_ddpm_steps(checkpoint: Checkpoint, unet: UNet2DConditionModel, goldens: Goldens) -> None:
    """Diffusers' scheduler for the mean; the posterior's noise is the golden's."""
    scheduler = build_scheduler(checkpoint.config.noise)
    scheduler.set_timesteps(len(goldens["loop_timesteps"]))
    np.testing.assert_array_equal(scheduler.timesteps, goldens["loop_timesteps"])
    cond = torch.from_numpy(goldens["cond_base"])
    tokens = torch.stack([torch.zeros_like(cond), cond])  # [2, N, D]
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
    latents = torch.from_numpy(goldens["loop_z0"])
    alphas = scheduler.alphas_cumprod
    for timestep, noise in zip(scheduler.timesteps.tolist(), torch.from_numpy(goldens["loop_noise"]), strict=True):
        both = unet(latents.repeat(2, 1, 1, 1), timestep, tokens, encoder_attention_mask=mask).sample
        unconditional, conditional = both.chunk(2)
        velocity = unconditional + float(goldens["loop_guidance"]) * (conditional - unconditional)
        alpha, before = alphas[timestep], alphas[timestep - 100] if timestep > 100 else torch.tensor(1.0)
        data = alpha.sqrt() * latents - (1 - alpha).sqrt() * velocity
        step = 1 - alpha / before
        latents = (before.sqrt() * step * data + (1 - step).sqrt() * (1 - before) * latents) / (1 - alpha)
        latents += (step * (1 - before) / (1 - alpha)).sqrt() * noise
    assert relative_error(latents, goldens["loop_out"]) < 1e-3


def test_zero_tokens_reduce_cross_attention_to_its_bias(unet: UNet2DConditionModel) -> None:
    """What the unconditional branch rests on."""
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    out = attention(torch.randn(1, 9, 64), torch.zeros(1, 20, 64))
    torch.testing.assert_close(out, attention.to_out[0].bias.expand_as(out))


def test_published_sizes() -> None:
    with torch.device("meta"):
        unet = build_unet(UNetConfig())
    assert round(sum(parameter.numel() for parameter in unet.parameters()) / 1e6) == 578
    attentions = [module for module in unet.modules() if isinstance(module, Attention)]
    assert all(isinstance(module.processor, AttentionProcessor) and module.upcast_attention for module in attentions)
    by_level = [block.attentions[0].transformer_blocks[0].attn1.heads for block in unet.down_blocks[:-1]]
    assert by_level == [5, 10, 20]
    assert not hasattr(unet.down_blocks[-1], "attentions")
