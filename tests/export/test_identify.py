"""Models of another kind are recognised by their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.export.layouts import StateDict, refusal, replace_weights
from train.models.weights import strip_prefix


def optimizer(_: StateDict) -> object:
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.zeros(2)
    adam = torch.optim.AdamW([parameter])
    adam.step()
    return adam.state_dict()


LOOK_ALIKES: list[tuple[Callable[[StateDict], object], str]] = [
    (optimizer, "an optimizer's state"),
    (lambda tensors: {"base_lrs": [0.1], "last_epoch": 2, "_step_count": 3}, "a learning-rate scheduler's state"),
    (lambda tensors: strip_prefix(tensors, "unet."), "a bare UNet"),
    (lambda tensors: {name: t for name, t in tensors.items() if name.startswith("unet.")}, "a UNet alone"),
    (lambda tensors: strip_prefix(tensors, "vid_fea_extractor.clip_vision."), "a CLIP image encoder"),
    (lambda tensors: strip_prefix(tensors, "vid_fea_extractor.clip_text."), "a CLIP text encoder"),
    (lambda tensors: {f"module.{name}": t for name, t in tensors.items()}, "DistributedDataParallel"),
    (lambda tensors: {"ib_model.head": torch.zeros(2)}, "a VTA-LDM variant with ImageBind as frame encoder"),
    (
        lambda tensors: {"unet.conv_in.bias": torch.zeros(2), "text_encoder.shared.weight": torch.zeros(2)},
        "a text-to-audio checkpoint of Tango",
    ),
    (lambda tensors: {"stft_fn.forward_basis": torch.zeros(2)}, "the short-time Fourier transform"),
]


@pytest.mark.parametrize(("change", "expected"), LOOK_ALIKES)
def test_models_of_another_kind(
    folder: Path, model_tensors: StateDict, change: Callable[[StateDict], object], expected: str
) -> None:
    path = replace_weights(folder, change(model_tensors))
    message = refusal(folder)
    assert message.startswith(f"{path}: is not a")
    assert "it looks like" in message
    assert expected in message


def test_first_stages_in_the_models_place(folder: Path, tmp_path: Path, first_stage_tensors: StateDict) -> None:
    message = refusal(folder / "audioldm-s-full.ckpt")
    assert "text-to-audio checkpoint of AudioLDM, which is of use as --first-stage only" in message
    torch.save(first_stage_tensors, tmp_path / "pytorch_model.bin")
    assert "it looks like a first stage" in refusal(tmp_path / "pytorch_model.bin")
