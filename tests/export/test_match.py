"""Tensors that do not fit are named, all of them and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.export.layouts import UNET_CONV, StateDict, refusal, replace_weights


def test_missing_tensors_are_named(folder: Path, model_tensors: StateDict) -> None:
    gone = [UNET_CONV, "vid_fea_extractor.linear_layer.bias", "vid_fea_extractor.clip_text.text_projection.weight"]
    replace_weights(folder, {name: tensor for name, tensor in model_tensors.items() if name not in gone})
    message = refusal(folder)
    assert "; 3 missing: " in message
    assert all(name in message for name in gone)
    assert "unexpected" not in message
    assert "another shape" not in message


def test_a_layer_that_is_missing_is_named(folder: Path, model_tensors: StateDict) -> None:
    """The layers after it are not mistaken for too many."""
    gone = "vid_fea_extractor.clip_vision.vision_model.encoder.layers.0."
    replace_weights(folder, {name: tensor for name, tensor in model_tensors.items() if not name.startswith(gone)})
    message = refusal(folder)
    assert f"; {sum(name.startswith(gone) for name in model_tensors)} missing: {gone}" in message
    assert "unexpected" not in message


def test_unexpected_tensors_are_named(folder: Path, model_tensors: StateDict) -> None:
    extra = {"unet.down_blocks.9.resnets.0.conv1.weight": torch.zeros(2), "ema.decay": torch.zeros(())}
    replace_weights(folder, model_tensors | extra)
    assert refusal(folder).endswith("; 2 unexpected: unet.down_blocks.9.resnets.0.conv1.weight, ema.decay")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("unet.conv_in.weight", (32, 4, 3, 3)),
        (UNET_CONV, (48, 32, 3, 3)),
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", (64, 128)),
        ("vid_fea_extractor.linear_layer.weight", (32, 512)),
        ("vid_fea_extractor.linear_layer.weight", (64, 768)),
        ("vid_fea_extractor.clip_vision.vision_model.encoder.layers.1.self_attn.k_proj.bias", (65,)),
        ("vid_fea_extractor.clip_vision.vision_model.embeddings.patch_embedding.weight", (64, 3, 16, 32)),
        ("vid_fea_extractor.clip_vision.vision_model.embeddings.position_embedding.weight", (49, 64)),
        ("vid_fea_extractor.clip_vision.visual_projection.weight", (256, 64)),
        ("vid_fea_extractor.clip_text.text_projection.weight", (256, 64)),
    ],
)
def test_one_misshapen_tensor_is_named_alone(
    folder: Path, model_tensors: StateDict, name: str, shape: tuple[int, ...]
) -> None:
    replace_weights(folder, model_tensors | {name: torch.zeros(shape)})
    expected = list(model_tensors[name].shape)
    assert refusal(folder).endswith(f"; 1 of another shape or type: {name} is {list(shape)}, not {expected}")


def test_quantised_weights_are_refused(folder: Path, model_tensors: StateDict) -> None:
    replace_weights(folder, model_tensors | {UNET_CONV: model_tensors[UNET_CONV].to(torch.int8)})
    assert f"{UNET_CONV} is [32, 32, 3, 3] int8, not [32, 32, 3, 3]" in refusal(folder)


def test_long_lists_are_cut(folder: Path, model_tensors: StateDict) -> None:
    replace_weights(folder, {name: tensor for name, tensor in model_tensors.items() if ".up_blocks." not in name})
    count = sum(".up_blocks." in name for name in model_tensors)
    message = refusal(folder)
    assert f"; {count} missing: " in message
    assert message.endswith(f"and {count - 20} more")
    assert message.count("unet.up_blocks.") == 20


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(folder: Path, model_tensors: StateDict, value: float) -> None:
    damaged = model_tensors[UNET_CONV].clone()
    damaged[3, 1, 0, 2] = value
    path = replace_weights(folder, model_tensors | {UNET_CONV: damaged})
    assert refusal(folder) == f"{path}: holds weights that are not finite numbers: {UNET_CONV}"
