from __future__ import annotations

import json
import shutil
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from train.assembly import Parts, assemble
from train.conditioning import Conditioner, Draws
from train.data.lists import read_list
from train.data.loader import Draw
from train.data.networks import open_encoder
from train.data.prepare import Networks, prepare
from train.data.raw import RawSource
from train.diffusion import Collator
from train.first_stage.publish import open_vae
from train.models.config import MelConfig
from train.settings import ConditioningSettings, convert_settings
from vta_rt.errors import VTAError

Settings = dict[str, Any]
Open = Callable[..., Parts]


@pytest.fixture
def opened(micro_settings: Settings) -> Open:
    """``assemble`` for the micro settings with other values in some sections."""

    def opened(**sections: Settings) -> Parts:
        merged = {name: micro_settings.get(name, {}) | sections.get(name, {}) for name in {*micro_settings, *sections}}
        return assemble(convert_settings(merged, "test"))

    return opened


@pytest.fixture(scope="module")
def raw_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of 0.64 s: saved frames and a wav file."""
    folder = tmp_path_factory.mktemp("raw")
    generator = np.random.default_rng(0)
    lines = []
    for index in range(2):
        np.save(folder / f"{index}.npy", generator.integers(0, 256, (8, 224, 224, 3), dtype=np.uint8))
        with wave.open(str(folder / f"{index}.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(generator.integers(-9000, 9000, 10240, dtype=np.int16).tobytes())
        lines.append({"feature_file": f"{index}.npy", "audio_file": f"{index}.wav"})
    path = folder / "clips.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_raw_clips_need_a_first_stage(opened: Open, raw_list: Path, micro_checkpoint: Path) -> None:
    data = {"train": str(raw_list), "valid": ""}
    with pytest.raises(VTAError, match=r"^start.first_stage: a folder with vae/ is needed to train on raw sound"):
        opened(data=data)
    parts = opened(data=data, start={"first_stage": str(micro_checkpoint)})
    assert isinstance(parts.train, RawSource)
    assert parts.vae is not None
    assert parts.valid is None


def test_clips_prepared_with_other_networks_are_refused(
    opened: Open, raw_list: Path, micro_checkpoint: Path, tmp_path: Path
) -> None:
    """The tower of one run and the embeddings of another would make a model that hears nothing."""
    tower = micro_checkpoint / "model_2.safetensors"
    config = opened().config
    networks = Networks(config, open_encoder(tower, config.encoder), open_vae(micro_checkpoint))
    list(prepare([read_list(raw_list)], tmp_path / "own", networks, 0.64))
    data = {"train": str(tmp_path / "own" / "clips.jsonl"), "valid": ""}
    parts = opened(data=data, start={"tower": str(tower), "first_stage": str(micro_checkpoint)})
    name = "vid_fea_extractor.clip_vision.visual_projection.weight"
    assert parts.tower[name].equal(load_file(tower)[name])
    assert not [name for name in parts.model.state_dict() if "clip_vision" in name]  # it has nothing to do

    changed = tmp_path / "tower.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(tower).items()}, changed)
    with pytest.raises(VTAError, match=r"was prepared with another tower"):
        opened(data=data, start={"tower": str(changed)})
    other = tmp_path / "stage"
    shutil.copytree(micro_checkpoint, other)
    vae = open_vae(other)
    torch.nn.init.zeros_(vae.quant_conv.bias)
    vae.quant_conv.bias.data += 1
    vae.save_pretrained(other / "vae")
    with pytest.raises(VTAError, match=r"was prepared with another autoencoder"):
        opened(data=data, start={"first_stage": str(other)})


def test_clips_of_another_mel_are_refused(opened: Open, raw_list: Path, micro_checkpoint: Path, tmp_path: Path) -> None:
    config = replace(opened().config, mel=MelConfig(floor=1e-3))
    list(prepare([read_list(raw_list)], tmp_path / "own", Networks(config, None, open_vae(micro_checkpoint)), 0.64))
    with pytest.raises(VTAError, match=r"own: was prepared with the mel analysis .*prepare the clips again"):
        opened(data={"train": str(tmp_path / "own" / "clips.jsonl"), "valid": ""})


def test_prepared_clips_train_as_raw_ones_do(
    opened: Open, raw_list: Path, micro_checkpoint: Path, tmp_path: Path
) -> None:
    start = {"checkpoint": str(micro_checkpoint), "first_stage": str(micro_checkpoint)}
    raw = opened(data={"train": str(raw_list), "valid": ""}, start=start)
    assert raw.vae is not None
    networks = Networks(raw.config, raw.model.vid_fea_extractor, raw.vae)
    list(prepare([read_list(raw_list)], tmp_path, networks, 0.64))
    ready = opened(data={"train": str(tmp_path / "clips.jsonl"), "valid": ""}, start=start)
    conditioner = Conditioner(ConditioningSettings(), raw.config, frames=8)
    batches = []
    for parts in (raw, ready):
        collate = Collator(conditioner, parts.config, parts.vae, torch.device("cpu"))
        draws = [Draw(index, parts.train.load(index)) for index in (0, 1)]
        batches.append(collate(draws, Draws(0, 1000)))
    assert batches[0].latents.shape == (2, 8, 16, 16)
    torch.testing.assert_close(batches[0].latents, batches[1].latents)
    torch.testing.assert_close(raw.model(batches[0]), ready.model(batches[1]))


def test_starting_from_a_checkpoint(opened: Open, micro_checkpoint: Path) -> None:
    """Its configuration counts, and weights are those of the file."""
    values = json.loads((micro_checkpoint / "config.json").read_text())
    start = {"checkpoint": str(micro_checkpoint)}
    parts = opened(start=start)
    assert parts.config.unet.norm_groups == values["unet"]["norm_groups"]
    state = {**parts.model.state_dict(), **parts.tower}
    expected = load_file(micro_checkpoint / "model_2.safetensors")
    assert state.keys() == expected.keys()
    assert all(state[name].equal(expected[name]) for name in expected)
    with pytest.raises(
        VTAError, match=r"micro[^:]*: does not fit the model that is configured; \d+ tensors differ, unet\."
    ):
        opened(start=start, model={"unet": {"block_out_channels": [16, 48]}})


def test_another_scale_factor_than_the_first_stage_has(opened: Open, micro_checkpoint: Path) -> None:
    sections = {"start": {"first_stage": str(micro_checkpoint)}, "model": {"vae": {"scale_factor": 0.5}}}
    with pytest.raises(
        VTAError, match=r"micro[^:]*: its autoencoder has scale_factor 0.922791, but model.vae.scale_factor is 0.5"
    ):
        opened(**sections)


def test_the_same_seed_gives_the_same_start(opened: Open) -> None:
    first, second = (opened().model.state_dict() for _ in range(2))
    assert all(first[name].equal(second[name]) for name in first)


def test_random_towers_are_told_of(opened: Open, micro_checkpoint: Path) -> None:
    told = {"model": {"licence": "CC0", "trained_on": "clips of our own"}}
    assert opened(**told).notes == (
        "the frame encoder's tower is random and stays so: give start.tower or start.checkpoint",
    )
    assert opened(start={"checkpoint": str(micro_checkpoint)}, **told).notes == ()


def test_licence_and_data_are_asked_for(opened: Open) -> None:
    asked = "model.licence and model.trained_on not stated; whoever uses the weights will look for what they say"
    assert opened().notes[-1] == asked
    assert opened(model={"licence": "CC0"}).notes[-1] == asked.replace("model.licence and ", "")


def test_limit(opened: Open) -> None:
    parts = opened(data={"limit": 4})
    assert parts.valid is not None
    assert (len(parts.train), len(parts.valid)) == (4, 4)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"train": ""}}, r"^data.train: name a folder of prepared clips, or a .jsonl list$"),
        (
            {"data": {"seconds": 5.12}},
            r"was prepared with Window\(seconds=0.64, .* but the settings ask for Window\(seconds=5.12",
        ),
        (
            {"optimizer": {"train_tower": True}},
            r"holds embeddings of a frozen tower; optimizer.train_tower needs frames$",
        ),
        ({"start": {"first_stage": "nowhere"}}, r"^nowhere: has no vae/"),
        ({"start": {"checkpoint": "nowhere"}}, r"^nowhere: has no model_2.safetensors"),
        ({"start": {"tower": "nowhere.safetensors"}}, r"^nowhere.safetensors: cannot be read"),
        (
            {"start": {"text_tower": "a.safetensors"}},
            r"^a.safetensors: start.text_tower is given, but the model has no section",
        ),
    ],
)
def test_what_does_not_belong_together(opened: Open, sections: dict[str, Settings], message: str) -> None:
    with pytest.raises(VTAError, match=message):
        opened(**sections)
