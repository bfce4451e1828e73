"""A denoiser starts from another model's: what fits is taken, what depends on the tokens stays fresh, the rest is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from train.models.config import SystemConfig, UNetConfig, from_dict, to_dict
from train.models.start_unet import load_unet
from train.models.unet import build_unet
from vta_rt.errors import VTAError

CONFIG = UNetConfig((8, 16), (1, 2), 24, layers_per_block=1, norm_groups=4)
IMAGE = replace(CONFIG, latent_channels=4, cross_attention_dim=12)


def test_from_image_diffusion_through_maps_of_channels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    image, unet = build_unet(IMAGE), build_unet(replace(CONFIG, image_channels=4))
    tensors = image.state_dict()
    projections = [name for name in tensors if name.endswith(("proj_in.weight", "proj_out.weight"))]
    convolutions = {name: tensors[name][..., None, None] for name in projections}  # as Stable Diffusion 1 has them
    (tmp_path / "unet").mkdir()
    torch.save(tensors | convolutions, tmp_path / "unet" / "diffusion_pytorch_model.bin")
    fresh = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    said = load_unet(unet, tmp_path)
    other_width = [name for name in tensors if ".attn2.to_k." in name or ".attn2.to_v." in name]
    for name, tensor in unet.state_dict().items():
        own = name.startswith("group_") or name in other_width
        assert torch.equal(tensor, fresh[name] if own else tensors[name]), name
    assert other_width
    assert f", {8 + len(other_width)} that look at tokens" in said
    sample = torch.randn(2, 8, 16, 8)
    made = unet(sample, torch.tensor([3.0, 9.0]), torch.randn(2, 5, 24), encoder_attention_mask=torch.ones(2, 5) > 0)
    assert made.sample.shape == sample.shape


def test_from_a_text_to_audio_checkpoint(tmp_path: Path) -> None:
    """Tango's: the UNet below a prefix, with maps of channels and a text encoder beside."""
    torch.manual_seed(0)
    config = replace(CONFIG, image_channels=4)
    old, unet = build_unet(config), build_unet(config)
    named = {name if name.startswith("group_") else f"unet.{name}": tensor for name, tensor in old.state_dict().items()}
    torch.save(named | {"text_encoder.shared.weight": torch.zeros(2)}, tmp_path / "pytorch_model_main.bin")
    assert ", 0 that look" in load_unet(unet, tmp_path)
    assert all(torch.equal(tensor, old.state_dict()[name]) for name, tensor in unet.state_dict().items())


def test_another_arrangement_is_refused(tmp_path: Path) -> None:
    torch.save(build_unet(replace(IMAGE, block_out_channels=(8, 24))).state_dict(), tmp_path / "unet.bin")
    with pytest.raises(VTAError, match=r"is not the UNet that is configured; .* such as down_blocks"):
        load_unet(build_unet(replace(CONFIG, image_channels=4)), tmp_path / "unet.bin")
    with pytest.raises(VTAError, match="holds no UNet"):
        load_unet(build_unet(CONFIG), tmp_path)
    values = to_dict(SystemConfig(unet=replace(CONFIG, image_channels=4, aligned_channels=2)))
    with pytest.raises(VTAError, match="do not go together"):
        from_dict(values)
