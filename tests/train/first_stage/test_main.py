from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from export.first_stage import open_first_stage
from train.first_stage.__main__ import main, read_config
from train.first_stage.publish import open_vae
from train.models.config import from_dict
from train.models.vocoder import build_vocoder
from vta_rt.errors import OptionError

SMALL = """
[model.vae]
block_out_channels = [8, 16]
layers_per_block = 1
latent_channels = 4
norm_groups = 4
[model.mel]
floor = 3e-4
[model.vocoder]
kind = "sinusoidal"
width = 4
layers = 1
"""


@pytest.fixture
def arguments(sound_list: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "small.toml").write_text(SMALL)
    given = {"data": sound_list, "out": tmp_path / "out", "config": tmp_path / "small.toml"}
    numbers = {"steps": 2, "batch": 2, "frames": 8, "threads": 1, "device": "cpu"}
    return [f"--{name}={value}" for name, value in (given | numbers).items()]


def test_both_halves_make_one_folder_that_export_opens(arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["vae", *arguments]) == 0
    assert main(["vocoder", *arguments, f"--vae={out}"]) == 0
    stage = open_first_stage(out)
    assert stage.config["vae"]["scale_factor"] == 1.0
    assert stage.config["vae"]["block_out_channels"] == [8, 16]
    assert open_vae(out).config.latent_channels == 4
    assert not list(out.glob(".*"))

    config = from_dict(json.loads((out / "config.json").read_text()))
    assert config.mel.floor == 3e-4
    assert config.vocoder.kind == "sinusoidal"
    vocoder = build_vocoder(config.vocoder)
    vocoder.load_state_dict(load_file(out / "vocoder" / "model.safetensors"))
    with torch.no_grad():
        assert vocoder(torch.full((1, 5, 64), -3.0)).std() > 0

    assert main(["vocoder", *arguments, f"--start={out}"]) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["task"], line["step"]) for line in lines] == [
        (task, step) for task in ("vae", "vocoder", "vocoder") for step in (1, 2)
    ]
    assert lines[4]["valid_mel_l1"] != lines[2]["valid_mel_l1"]
    assert {"valid_mel_l1", "onset_f1"} < lines[0].keys()
    assert {"valid_cents", "griffin_lim_cents"} < lines[2].keys()


def test_hifigan_trains_against_a_critic_and_resumes(arguments: list[str], tmp_path: Path) -> None:
    sizes = {
        "kind": "hifigan",
        "initial_channels": 16,
        "upsample_rates": [8, 5, 4],
        "upsample_kernels": [16, 15, 8],
        "resblock_kernels": [3],
        "resblock_dilations": [[1]],
    }
    command = ["vocoder", *arguments, *(f"--set=vocoder.{name}={json.dumps(value)}" for name, value in sizes.items())]
    command += ["--adversarial-from=1", "--critic-width=2", "--frames=20"]
    assert main(command) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert "critic" not in lines[0]
    assert lines[1]["fooling"] > 0
    assert (tmp_path / "out" / "vocoder" / "config.json").is_file()
    assert main([*command, "--resume"]) == 0  # at its end already
    assert main([*command, "--resume", "--critic-width=3"]) == 2


def test_broken_sounds_are_told(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sounds"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.wav").write_bytes(b"RIFF")
    assert main(["vae", *arguments, f"--data={folder}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "none of 1 sound files" in error or "none of 2 sound files" in error


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--data=missing.jsonl"], "missing.jsonl: cannot be read"),
        (["--set=vae.depth=3"], "unknown vae.depth"),
        (["--set=vae"], "key=value"),
        (["--frames=7"], "frames is 7"),
        (["--batch=0"], "batch is 0"),
        (["--start=nowhere"], "nowhere/vae: holds no weights"),
        (["--mixed-precision=fp16"], "fp16"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], given: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["vae", *arguments, *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "vae").exists()


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(SMALL)
    config = read_config(str(tmp_path / "a.toml"), ["mel.floor=0.5", "vocoder.kind=hifigan", "vae.latent_channels=2"])
    assert (config.mel.floor, config.vocoder.kind, config.vae.latent_channels) == (0.5, "hifigan", 2)
    assert config.vae.block_out_channels == (8, 16)
    with pytest.raises(OptionError, match=r"b\.toml: cannot be read"):
        read_config(str(tmp_path / "b.toml"), [])


def test_config_of_a_finished_stage_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"mel": {"floor": float(np.exp(-8))}}))
    assert read_config(str(tmp_path / "config.json"), []).mel.floor == pytest.approx(np.exp(-8))
