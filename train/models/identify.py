"""What a file of tensors looks like, judged by the names in it: for error messages."""

from __future__ import annotations

from collections.abc import Iterable

VTA_LDM = "a VTA-LDM model"

# Every prefix of a row must occur; the first row that fits wins, so the more specific ones come first.
_KINDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("state", "param_groups"), "an optimizer's state"),
    (("last_epoch", "base_lrs"), "a learning-rate scheduler's state"),
    (("_step_count", "last_epoch"), "a learning-rate scheduler's state"),
    (
        ("model.diffusion_model.", "first_stage_model.vocoder."),
        "a text-to-audio checkpoint of AudioLDM, which is of use as --first-stage only",
    ),
    (("model.diffusion_model.",), "a latent diffusion checkpoint in CompVis form (AudioLDM, Stable Diffusion)"),
    (("cond_stage_model.",), "a latent diffusion checkpoint in CompVis form (AudioLDM, Stable Diffusion)"),
    (("ib_model.",), "a VTA-LDM variant with ImageBind as frame encoder"),
    (("lb_model.",), "a VTA-LDM variant with LanguageBind as frame encoder"),
    (("cavp.",), "a VTA-LDM variant with CAVP as frame encoder"),
    (("vivit.",), "a VTA-LDM variant with ViViT as frame encoder"),
    (("vjepa_model.",), "a VTA-LDM variant with V-JEPA as frame encoder"),
    (("unet.", "vid_fea_extractor."), VTA_LDM),
    (("unet.", "text_encoder."), "a text-to-audio checkpoint of Tango"),
    (("module.",), "a model saved inside DistributedDataParallel (every name begins with 'module.')"),
    (("_orig_mod.",), "a model saved inside torch.compile (every name begins with '_orig_mod.')"),
    (("first_stage_model.",), "a first stage (autoencoder and vocoder)"),
    (("encoder.", "decoder.", "vocoder."), "a first stage (autoencoder and vocoder)"),
    (("encoder.", "decoder."), "an autoencoder (VAE) alone"),
    (("conv_pre.", "resblocks."), "a HiFi-GAN vocoder alone"),
    (("conv_in.", "down_blocks.", "up_blocks."), "a bare UNet"),
    (("unet.",), "a UNet alone"),
    (("text_model.", "vision_model."), "a CLIP"),
    (("vision_model.",), "a CLIP image encoder"),
    (("text_model.",), "a CLIP text encoder"),
    (("visual.",), "a CLIP in its original form"),
    (("mel_basis",), "the short-time Fourier transform that accelerate saves beside the model"),
    (("stft_fn.",), "the short-time Fourier transform that accelerate saves beside the model"),
)


def identify(names: Iterable[str]) -> str | None:
    """What holds these names, such as ``"a bare UNet"``; None where unknown."""
    names = list(names)
    for prefixes, kind in _KINDS:
        if all(any(name.startswith(prefix) for name in names) for prefix in prefixes):
            return kind
    return None


def describe_content(names: Iterable[str]) -> str:
    """A clause that says what holds these names; where that is unknown, the names themselves."""
    names = list(names)
    if not names:
        return "it is empty"
    kind = identify(names)
    return f"what it holds is {listing(names, limit=4)}" if kind is None else f"it looks like {kind}"


def listing(items: Iterable[str], limit: int = 20) -> str:
    """Names joined by commas, at most ``limit`` of them, then how many more."""
    items = list(items)
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
