import json

import pytest

from train.models.config import CLIPConfig, SystemConfig, TextEncoderConfig, UNetConfig, from_dict, to_dict
from vta_rt.errors import OptionError


def test_comes_back_from_json() -> None:
    config = SystemConfig(
        encoder=CLIPConfig(patch=32, positions=True),
        text=TextEncoderConfig(width=64),
        unet=UNetConfig(block_out_channels=(32, 64), attention_heads=(2, 4)),
        frame_rate=4.0,
    )
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_what_is_left_out_takes_its_default() -> None:
    assert from_dict({"unet": {"norm_groups": 8}}) == SystemConfig(unet=UNetConfig(norm_groups=8))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"unett": {}}, "unknown unett"),
        ({"unet": {"heads": 3}, "vae": {"x": 1}}, r"unknown unet\.heads, vae\.x"),
        ({"unet": {"norm_groups": "8"}}, r"unet\.norm_groups"),
        ({"noise": {"beta_schedule": "cubic"}}, "beta_schedule"),
    ],
)
def test_refuses_what_it_does_not_know(values: dict[str, object], named: str) -> None:
    with pytest.raises(OptionError, match=rf"^config\.json: .*{named}"):
        from_dict(values, source="config.json")


def test_frame_size_is_the_encoders() -> None:
    assert SystemConfig(encoder=CLIPConfig(image_size=336)).frame_size == 336


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mel": {"sample_rate": 10**400}}, "mel.sample_rate is an integer of 1329 bits, at most 16777216 is allowed"),
        ({"encoder": {"layers": 10**9}}, "encoder.layers is 1000000000, at most 1000 is allowed"),
        ({"unet": {"layers_per_block": 10**6}}, "unet.layers_per_block is 1000000, at most 1000"),
        ({"unet": {"cross_attention_dim": 2**40}}, "unet.cross_attention_dim is 1099511627776, at most 16777216"),
        ({"unet": {"block_out_channels": [8] * 10**5}}, "unet.block_out_channels has 100000 items, at most 1000"),
        ({"seconds": float("inf")}, "seconds is inf, at most 16777216"),
        ({"vae": {"block_out_channels": [2**70]}}, "at most 16777216"),
    ],
)
def test_numbers_beyond_any_model(values: dict, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        from_dict(values, source="config.json")
    assert str(caught.value).startswith("config.json: ")
    assert message in str(caught.value)
