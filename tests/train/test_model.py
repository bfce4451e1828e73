from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from train.conditioning import Condition
from train.first_stage.publish import open_vae
from train.model import TEXT, Batch, LatentDiffusion, latents_of
from train.models.config import CLIPConfig, MelConfig, SystemConfig, TextEncoderConfig, UNetConfig
from train.models.encoder import build_text_encoder
from train.models.mel import log_mel
from train.models.vae import encode_audio
from train.settings import DenoiserOptimizerSettings, LossSettings
from vta_rt.errors import OptionError

END = 49407  # where CLIP reads a prompt's vector


def build(optimizer: DenoiserOptimizerSettings | None = None) -> LatentDiffusion:
    torch.manual_seed(0)
    config = SystemConfig(
        encoder=CLIPConfig(32, 1, 2, 64, 112, projection=16, tokens_dim=24),
        text=TextEncoderConfig(width=16, layers=1, heads=2, intermediate=32, projection=16),
        unet=UNetConfig((16, 32), (2, 2), 24, layers_per_block=1, norm_groups=8),
    )
    return LatentDiffusion(config, optimizer or DenoiserOptimizerSettings(), LossSettings()).train()


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    return build()


@pytest.fixture(scope="module")
def embeddings() -> Tensor:
    return torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


def condition(visual: Tensor | None = None, prompt: list[int] | None = None, *, is_dropped: bool = False) -> Condition:
    return Condition(visual, None if prompt is None else torch.tensor(prompt), 3, is_dropped)


def test_frames_give_the_tokens_of_their_embeddings(model: LatentDiffusion) -> None:
    frames = torch.randint(0, 256, (3, 224, 224, 3), dtype=torch.uint8)
    tokens, mask = model.tokens([condition(frames), condition(model.vid_fea_extractor.embed(frames))])
    torch.testing.assert_close(tokens[0], tokens[1])
    torch.testing.assert_close(tokens[0], model.vid_fea_extractor(frames))
    assert mask.all()


def test_a_prompt_is_repeated_and_comes_before_the_frames(model: LatentDiffusion, embeddings: Tensor) -> None:
    """Prompts of several lengths in one batch, each as if it were alone."""
    prompts = [[5, 6, END], [5, 7, 8, 9, END]]
    tokens, mask = model.tokens([condition(None, prompts[0]), condition(embeddings, prompts[1])])
    text, linear = model.vid_fea_extractor.get_submodule(TEXT), model.vid_fea_extractor.linear_layer
    vectors = [linear(text(torch.tensor([prompt])).text_embeds[0]) for prompt in prompts]
    torch.testing.assert_close(tokens[0, :3], vectors[0].expand(3, -1))
    torch.testing.assert_close(tokens[1], torch.cat([vectors[1].expand(3, -1), linear(embeddings)]))
    assert not vectors[0].allclose(vectors[1])
    assert mask.tolist() == [[True] * 3 + [False] * 3, [True] * 6]


def test_the_vector_is_read_at_the_end_of_any_vocabulary() -> None:
    """Not at its beginning, where every prompt is the same."""
    text = build_text_encoder(TextEncoderConfig(16, 1, 2, 32, 16, vocabulary=10, context=8))
    vectors = text(torch.tensor([[8, 1, 9, 0], [8, 2, 9, 0], [8, 2, 9, 3]])).text_embeds
    assert not vectors[0].allclose(vectors[1])
    torch.testing.assert_close(vectors[1], vectors[2])


def test_a_dropped_condition_is_the_unconditional_branch_of_sampling(
    model: LatentDiffusion, embeddings: Tensor
) -> None:
    """Zeros that all count as real; also where nothing was given at all."""
    tokens, mask = model.tokens(
        [condition(embeddings), condition(embeddings[:1], is_dropped=True), condition(is_dropped=True)]
    )
    assert tokens[0].abs().min() > 0
    assert not tokens[1:].any()
    assert mask.all()


@pytest.mark.parametrize("is_dropped", [False, True])
def test_every_trained_parameter_takes_part(model: LatentDiffusion, embeddings: Tensor, is_dropped: bool) -> None:
    """Or several processes would wait for each other for ever."""
    with torch.enable_grad():
        tokens, _ = model.tokens([condition(embeddings, is_dropped=is_dropped)])
        weight = model.vid_fea_extractor.linear_layer.weight
        (gradient,) = torch.autograd.grad(tokens.sum(), weight)
    assert bool(gradient.any()) is not is_dropped


def aligned_model(prior: float, optimizer: DenoiserOptimizerSettings | None = None) -> LatentDiffusion:
    torch.manual_seed(0)
    config = SystemConfig(
        encoder=CLIPConfig(32, 1, 2, 64, 112, projection=16, tokens_dim=24),
        unet=UNetConfig(
            (16, 32),
            (2, 2),
            24,
            layers_per_block=1,
            norm_groups=8,
            aligned_channels=9,
            aligned_rows=4,
            aligned_dilations=(1,),
        ),
    )
    return LatentDiffusion(config, optimizer or DenoiserOptimizerSettings(), LossSettings(prior=prior)).train()


def test_the_prior_is_the_error_of_the_latents_that_are_expected(embeddings: Tensor) -> None:
    latents, noise = torch.randn(2, 2, 8, 32, 4, generator=torch.Generator().manual_seed(1)).unbind()
    batch = Batch(latents, noise, torch.tensor([3, 700]), [condition(embeddings), condition(embeddings)])
    without, model = aligned_model(0.0), aligned_model(3.0)
    with torch.no_grad():
        aligned = model.unet.align(*model.tokens(batch.conditions), 32, 4)
        expected = without(batch) + 3 * (aligned[:, :8] - latents).square().mean()
        torch.testing.assert_close(model(batch), expected)


def test_the_prior_may_be_learned_alone(embeddings: Tensor) -> None:
    latents, noise = torch.randn(2, 1, 8, 32, 4, generator=torch.Generator().manual_seed(1)).unbind()
    batch = Batch(latents, noise, torch.tensor([700]), [condition(embeddings)])
    model = aligned_model(3.0, DenoiserOptimizerSettings(train_unet=False))
    with torch.enable_grad():
        loss = model(batch)
        loss.backward()
        expected = 3 * (model.unet.align(*model.tokens(batch.conditions), 32, 4)[:, :8] - latents).square().mean()
    torch.testing.assert_close(loss, expected)
    trained = {name for name, value in model.named_parameters() if value.grad is not None}
    assert {".".join(name.split(".")[:2]) for name in trained} == {
        "unet.aligned",
        "unet.aligned_time",
        "vid_fea_extractor.linear_layer",
    }
    with pytest.raises(OptionError, match=r"so that loss\.prior alone is left to learn from; it is 0"):
        aligned_model(0.0, DenoiserOptimizerSettings(train_unet=False))


def test_a_prior_needs_room_for_latents() -> None:
    with pytest.raises(
        OptionError, match=r"loss\.prior is 1, but the model's time-aligned path has no room for latents"
    ):
        LatentDiffusion(build().config, DenoiserOptimizerSettings(), LossSettings(prior=1.0))


def test_what_needs_gradients(model: LatentDiffusion) -> None:
    def trained(model: LatentDiffusion) -> set[str]:
        return {".".join(name.split(".")[:2]) for name, value in model.named_parameters() if value.requires_grad}

    unet = {f"unet.{name}" for name, child in model.unet.named_children() if list(child.parameters())}
    linear, tower = "vid_fea_extractor.linear_layer", "vid_fea_extractor.clip_vision"
    assert trained(model) == unet | {linear}
    assert trained(build(DenoiserOptimizerSettings(train_projection=False))) == unet
    assert trained(build(DenoiserOptimizerSettings(train_tower=True))) == unet | {linear, tower}
    assert model.unet.training
    assert not model.vid_fea_extractor.training


def test_latents_are_posterior_samples_times_the_scale_factor() -> None:
    generator = torch.Generator().manual_seed(0)
    moments = 20 * torch.randn(2, 16, 4, 4, generator=generator)  # some log-variances are out of the allowed range
    noise = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    expected = DiagonalGaussianDistribution(moments).sample(torch.Generator().manual_seed(1)) * 0.9
    torch.testing.assert_close(latents_of(moments, noise, 0.9), expected)


def test_audio_is_encoded_as_its_log_mel(micro_checkpoint: Path) -> None:
    vae, waves = open_vae(micro_checkpoint), torch.randn(2, 10240).clamp(-1, 1)
    posterior = vae.encode(log_mel(waves, MelConfig())[:, None]).latent_dist
    moments = encode_audio(vae, waves, MelConfig())
    assert moments.shape == (2, 16, 16, 16)
    torch.testing.assert_close(moments[:, :8], posterior.mean)
    torch.testing.assert_close(moments[:, 8:].clamp(-30, 20), posterior.logvar)
