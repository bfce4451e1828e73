"""Towers compute what the public implementations do, from the files those are published in, window after window."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import synth_encoders
import torch
from safetensors.torch import save_file

from tests.conftest import relative_error
from tests.encoders import TINY, golden_frames, goldens, thinned, write_public
from train.data.networks import open_encoder
from train.models.encoder import FrameEncoder, build_encoder
from vta_rt.errors import LicenceWarning, VTAError

TOLERANCE = 1e-5  # of float32 against float32; a wrong activation or epsilon shows at 1e-4


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FrameEncoder]:
    folder = tmp_path_factory.mktemp("public")
    with warnings.catch_warnings(action="ignore"):
        return {kind: open_encoder(write_public(kind, folder / kind), config) for kind, config in TINY.items()}


@pytest.mark.parametrize("kind", TINY)
def test_public_outputs(encoders: dict[str, FrameEncoder], kind: str) -> None:
    encoder, expected = encoders[kind], goldens(kind)
    window = {"cavp": 8, "vjepa2": 8}.get(kind, encoder.config.clip_length)
    clips = encoder.normalize(golden_frames(kind)).unflatten(0, (-1, window))
    outputs = encoder.tower.outputs(clips[:1] if kind == "vjepa2" else clips)
    assert outputs.keys() == expected.keys() - {"frames_u8_low", "last_hidden_state_long"}
    for name, value in outputs.items():
        assert relative_error(thinned(name, value), expected[name]) < TOLERANCE, name


def test_a_longer_clip_of_vjepa2(encoders: dict[str, FrameEncoder]) -> None:
    encoder = encoders["vjepa2"]
    clip = encoder.normalize(golden_frames("vjepa2"))[None]
    hidden = encoder.tower.outputs(clip)["last_hidden_state"]
    assert relative_error(hidden, goldens("vjepa2")["last_hidden_state_long"]) < TOLERANCE


EMBEDDINGS: dict[str, Callable[[dict], object]] = {
    "imagebind": lambda golden: golden["embed_raw"],
    "languagebind": lambda golden: golden["frame_embeds"][0],
    "cavp": lambda golden: golden["features_norm"][0],
    "vivit": lambda golden: golden["last_hidden_state"][0, 1:].reshape(4, -1, 64).mean(1),
    "vjepa2": lambda golden: golden["last_hidden_state"][0].reshape(4, -1, 64).mean(1),
}


@pytest.mark.parametrize("kind", TINY)
def test_embeddings_are_made_of_the_public_outputs(encoders: dict[str, FrameEncoder], kind: str) -> None:
    frames = golden_frames(kind)[: 8 if kind == "vjepa2" else None]
    assert relative_error(encoders[kind].embed(frames), EMBEDDINGS[kind](goldens(kind))) < TOLERANCE


@pytest.mark.parametrize(("kind", "count", "window"), [("imagebind", 5, 2), ("languagebind", 11, 8), ("vivit", 13, 8)])
def test_windows(encoders: dict[str, FrameEncoder], kind: str, count: int, window: int) -> None:
    """The last one repeats the last frame; tokens of nothing but repeats are dropped."""
    encoder = encoders[kind]
    frames = torch.cat([golden_frames(kind)] * 2)[:count]
    filled = torch.cat([frames, *[frames[-1:]] * (-count % window)])
    expected = torch.cat(
        [encoder.embed_windows(filled[start : start + window], window) for start in range(0, count, window)]
    )
    found = encoder.embed(frames)
    assert len(found) == encoder.config.token_count(count) == -(-count // encoder.config.clip_stride)
    assert relative_error(found, expected[: len(found)]) < TOLERANCE


def test_vjepa2_sees_all_at_once_up_to_its_longest_clip(encoders: dict[str, FrameEncoder]) -> None:
    encoder, frames = encoders["vjepa2"], golden_frames("vjepa2")
    last = torch.cat([frames[4:5], frames[4:5]])
    short = encoder.embed(frames[:5])  # as a clip of six, not of eight
    assert relative_error(short, encoder.embed_windows(torch.cat([frames[:4], last]), 0)) < TOLERANCE
    long = encoder.embed(frames[:11])
    assert len(long) == 6
    assert relative_error(long[:4], encoder.embed(frames[:8])) < TOLERANCE
    with pytest.raises(ValueError, match="64 x 64 is configured"):
        encoder.tower(torch.zeros(1, 2, 3, 80, 80))


def test_cavp_at_once_is_cavp_in_windows_that_overlap(encoders: dict[str, FrameEncoder]) -> None:
    """It reaches nine frames to each side."""
    encoder = encoders["cavp"]
    frames = torch.cat([golden_frames("cavp")] * 4)[:30, ::2, ::2]
    complete = encoder.embed(frames)
    parts = [encoder.embed(frames[:24])[:15], encoder.embed(frames[6:])[9:]]
    assert relative_error(torch.cat(parts), complete) < TOLERANCE
    assert relative_error(torch.cat([encoder.embed(frames[:15]), parts[1]]), complete) > 1e-3


def test_positions_are_a_formula(encoders: dict[str, FrameEncoder]) -> None:
    encoder = build_encoder(replace(TINY["cavp"], positions=True))
    embeddings = torch.zeros(500, 32)
    tokens = encoder.project(embeddings)
    angle = 400 / 10000 ** (torch.arange(0, 32, 2, dtype=torch.float64) / 32)
    row = torch.stack([angle.sin(), angle.cos()], 1).flatten()
    expected = encoder.linear_layer.weight.double() @ row + encoder.linear_layer.bias
    assert relative_error(tokens[400].detach(), expected.detach()) < 1e-4


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("prefix", ["module.", ""])
def test_all_four_forms_of_cavp(tmp_path: Path, prefix: str, bare: bool) -> None:
    tensors = synth_encoders.state_dict("cavp", "tiny")
    named = {f"{prefix}{name}": tensor for name, tensor in tensors.items()} | {f"{prefix}logit_scale": torch.zeros(())}
    torch.save(named if bare else {"epoch": 66, "state_dict": named}, tmp_path / "cavp_epoch66.ckpt")
    state = open_encoder(tmp_path, TINY["cavp"]).tower.state_dict()
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())


def test_imagebind_tells_its_licence(tmp_path: Path) -> None:
    with pytest.warns(LicenceWarning, match=r"imagebind_huge.pth: .* CC-BY-NC 4.0: not for commercial use"):
        open_encoder(write_public("imagebind", tmp_path), TINY["imagebind"])


@pytest.mark.parametrize("sign", ["names", "config.json"])
def test_languagebind_tuned_by_lora_is_refused(tmp_path: Path, sign: str) -> None:
    folder = write_public("languagebind", tmp_path)
    if sign == "names":
        name = "vision_model.encoder.base_model.model.layers.0.temporal_attn.q_proj.lora_A.default.weight"
        torch.save({name: torch.zeros(2, 64)}, folder / "pytorch_model.bin")
    else:
        config = synth_encoders.config("languagebind", "tiny")
        config["vision_config"]["lora_r"] = 16
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(VTAError, match="LanguageBind_Video_merge"):
        open_encoder(folder, TINY["languagebind"])


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "languagebind",
            {"activation": "quick_gelu"},
            "says hidden_act 'gelu', but encoder.activation is 'quick_gelu'",
        ),
        ("vivit", {"heads": 8}, "says num_attention_heads 4, but encoder.heads is 8"),
        ("vjepa2", {"image_size": 32, "resize": 0}, "says crop_size 64, but encoder.image_size is 32"),
    ],
)
def test_what_a_folder_states_must_be_configured(tmp_path: Path, kind: str, change: dict, message: str) -> None:
    with pytest.raises(VTAError, match=message):
        open_encoder(write_public(kind, tmp_path), replace(TINY[kind], **change))


def test_files_are_compared_strictly(tmp_path: Path) -> None:
    file = write_public("vjepa2", tmp_path) / "model.safetensors"
    tensors = safetensors.torch.load(file.read_bytes())
    gone = tensors.pop("encoder.layer.1.mlp.fc1.bias")
    save_file(tensors, file)
    with pytest.raises(VTAError, match=r"1 are missing.*such as encoder.layer.1.mlp.fc1.bias"):
        open_encoder(file, TINY["vjepa2"])
    save_file(tensors | {"encoder.layer.1.mlp.fc1.bias": gone, "encoder.new": gone.clone()}, file)
    with pytest.raises(VTAError, match=r"1 are missing, unexpected.*such as encoder.new"):
        open_encoder(file, TINY["vjepa2"])
    with pytest.raises(VTAError, match="holds no weights of a frame encoder"):
        open_encoder(tmp_path, TINY["vjepa2"])
