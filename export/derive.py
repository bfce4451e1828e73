"""A system's configuration, derived from its tensors' shapes and its training summary.

Each size is the one that most of the tensors with it have, so that one misshapen tensor does not mislead: the strict
comparison afterwards then names just that one. What shapes cannot tell (heads, norm groups) is looked up among the
published models; sections are plain dicts without the values that remain unknown.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from train.models.encoder import TOWERS
from train.models.weights import strip_prefix

Shapes = Mapping[str, tuple[int, ...]]
Section = dict[str, Any]

# block_out_channels -> (attention_heads, norm_groups), from the published configurations
UNETS: dict[tuple[int, ...], tuple[tuple[int, ...], int]] = {
    (320, 640, 640, 1280): ((5, 10, 20, 20), 32),
    (320, 640, 1280, 1280): ((5, 10, 20, 20), 32),
    (32, 32, 64, 64): ((2, 2, 4, 4), 8),
}
# width -> heads of the published CLIPs (base and large; text, then vision widths)
CLIP_HEADS = {512: 8, 768: 12, 1024: 16}
TINY_CLIP, TINY_CLIP_HEADS = "clip-vit-base-tiny", 4
PUBLISHED_IMAGE_SIZE = 224


def get_shapes(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def derive_model(shapes: Shapes, summary: Mapping[str, Any]) -> Section:
    """Sections ``encoder``, ``text`` and ``unet`` of a published checkpoint, from shapes below its usual prefixes."""
    name = str(summary.get("fea_encoder_name", ""))
    unet = derive_unet(strip_prefix(shapes, "unet."))
    encoder = derive_encoder(strip_prefix(shapes, "vid_fea_extractor."), name)
    if summary:
        encoder["positions"] = summary.get("pe", False)
    if "cross_attention_dim" in unet:
        encoder["tokens_dim"] = unet["cross_attention_dim"]
    text = derive_text(strip_prefix(shapes, "vid_fea_extractor.clip_text."), name)
    if text is not None and "projection" in encoder:
        text["projection"] = encoder["projection"]  # both go through one linear layer
    return {"encoder": encoder, "text": text, "unet": unet}


def derive_unet(shapes: Shapes) -> Section:
    """``UNetConfig`` fields, from diffusers' names."""
    widths = _widths(shapes, r"down_blocks\.{level}\.resnets\.\d+\.(conv1|conv2|time_emb_proj|norm2)\.(weight|bias)")
    published = dict(zip(("attention_heads", "norm_groups"), UNETS.get(widths, ()), strict=False))
    return published | _drop_unknown(
        block_out_channels=widths or None,
        cross_attention_dim=_size(shapes, r".*\.attn2\.to_[kv]\.weight", 1),
        layers_per_block=_children_per_level(shapes, r"down_blocks\.(\d+)\.resnets\.(\d+)\..*"),
        latent_channels=_most_common(
            _sizes(shapes, r"conv_in\.weight", 1) + _sizes(shapes, r"conv_out\.(weight|bias)", 0),
        ),
    )


def derive_encoder(shapes: Shapes, clip_name: str) -> Section:
    """``CLIPConfig`` fields but ``positions`` and ``tokens_dim``, from names as ``train.models.encoder`` has them.

    Of another encoder than CLIP only its kind; its sizes are the published ones where config.json does not say otherwise.
    """
    kind = next((kind for kind, tower in TOWERS.items() if strip_prefix(shapes, f"{tower.name}.")), "clip")
    if kind != "clip":
        return _drop_unknown(kind=kind, projection=_size(shapes, r"linear_layer\.weight", 1))
    vision = strip_prefix(shapes, "clip_vision.")
    transformer = _derive_transformer(vision, "vision_model", clip_name)
    patch, image_size = _derive_patch_and_image(vision)
    return transformer | _drop_unknown(
        patch=patch,
        image_size=image_size,
        projection=_most_common(
            _sizes(shapes, r"clip_vision\.visual_projection\.weight", 0)
            + _sizes(shapes, r"clip_text\.text_projection\.weight", 0)
            + _sizes(shapes, r"linear_layer\.weight", 1),
        ),
    )


def derive_text(shapes: Shapes, clip_name: str) -> Section | None:
    """``TextEncoderConfig`` fields but ``projection``; None where there is no text encoder."""
    if not shapes:
        return None
    return _derive_transformer(shapes, "text_model", clip_name) | _drop_unknown(
        vocabulary=_size(shapes, r".*\.token_embedding\.weight", 0),
        context=_size(shapes, r".*\.position_embedding\.weight", 0),
    )


def derive_vae(shapes: Shapes) -> Section:
    """``VAEConfig`` fields but the scale factor, from CompVis' names; norm groups as published."""
    return _drop_unknown(
        block_out_channels=_widths(shapes, r"encoder\.down\.{level}\.block\.\d+\.(conv1|conv2|norm2)\.(weight|bias)")
        or None,
        layers_per_block=_children_per_level(shapes, r"encoder\.down\.(\d+)\.block\.(\d+)\..*"),
        latent_channels=_most_common(
            _sizes(shapes, r"post_quant_conv\.(weight|bias)", 0) + _sizes(shapes, r"decoder\.conv_in\.weight", 1),
        ),
    )


def derive_vocoder(shapes: Shapes) -> Section:
    """``VocoderConfig`` fields, from the original HiFi-GAN's names; bins, rates, kernels and dilations as published."""
    return _drop_unknown(
        initial_channels=_most_common(
            _sizes(shapes, r"conv_pre\.(weight|bias)", 0) + _sizes(shapes, r"ups\.0\.weight", 0),
        ),
    )


def count_levels(shapes: Shapes, pattern: str) -> int:
    """How many levels there are, numbered from 0 in group 1 of ``pattern``; a single missing or stray one does not matter."""
    numbers = {int(found[1]) for name in shapes if (found := re.fullmatch(pattern, name))}
    return min(range(2 * len(numbers) + 1), key=lambda count: (len(numbers ^ set(range(count))), -count))


def _derive_transformer(shapes: Shapes, root: str, clip_name: str) -> Section:
    """Width, layers, heads and intermediate width of one of CLIP's two transformers."""
    layer = rf"{root}\.encoder\.layers\.(\d+)"
    width = _size(shapes, layer + r"\.(self_attn\.\w+|layer_norm\d)\.(weight|bias)", 0)
    return _drop_unknown(
        width=width,
        layers=count_levels(shapes, layer + r"\..*") or None,
        heads=TINY_CLIP_HEADS if clip_name == TINY_CLIP else CLIP_HEADS.get(width or 0),
        intermediate=_size(shapes, layer + r"\.mlp\.fc1\.(weight|bias)", 0),
    )


def _derive_patch_and_image(vision: Shapes) -> tuple[int | None, int]:
    """Sides in pixels, each from its own tensor; an implausible one is derived from the other and a frame of 224 pixels."""
    kernel = _size(vision, r".*\.patch_embedding\.weight", 2)
    is_square = kernel is not None and kernel == _size(vision, r".*\.patch_embedding\.weight", 3)
    rows = _size(vision, r".*\.position_embedding\.weight", 0) or 0
    grid = math.isqrt(max(rows - 1, 0))
    if grid == 0 or grid * grid != rows - 1:
        return kernel, PUBLISHED_IMAGE_SIZE
    if kernel is None or not is_square:
        return PUBLISHED_IMAGE_SIZE // grid, PUBLISHED_IMAGE_SIZE
    return kernel, kernel * grid


def _sizes(shapes: Shapes, pattern: str, axis: int) -> list[int]:
    """The size along one axis of every tensor whose name matches."""
    return [shape[axis] for name, shape in shapes.items() if len(shape) > axis and re.fullmatch(pattern, name)]


def _most_common(sizes: list[int]) -> int | None:
    return Counter(sizes).most_common(1)[0][0] if sizes else None


def _size(shapes: Shapes, pattern: str, axis: int) -> int | None:
    return _most_common(_sizes(shapes, pattern, axis))


def _widths(shapes: Shapes, pattern: str) -> tuple[int, ...]:
    """Channels of each level, outermost first; ``{level}`` in the pattern stands for its number."""
    levels = range(count_levels(shapes, pattern.replace("{level}", r"(\d+)")))
    return tuple(_size(shapes, pattern.replace("{level}", str(level)), 0) or 0 for level in levels)


def _children_per_level(shapes: Shapes, pattern: str) -> int | None:
    """How many different values of group 2 most values of group 1 have."""
    pairs = {(found[1], found[2]) for name in shapes if (found := re.fullmatch(pattern, name))}
    return _most_common(list(Counter(level for level, _ in pairs).values()))


def _drop_unknown(**values: Any) -> Section:
    return {name: value for name, value in values.items() if value is not None}
