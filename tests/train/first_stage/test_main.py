from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from export.first_stage import read_first_stage
from train.first_stage.__main__ import main
from train.first_stage.publish import open_vae
from train.models.config import from_dict
from train.models.vocoder import build_vocoder

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
    settings = ["length.steps=2", "length.batch=2", "data.frames=8", "machine.threads=1", "machine.device=cpu"]
    return [f"--config={tmp_path / 'small.toml'}", f"data.train={sound_list}", f"out={tmp_path / 'out'}", *settings]


def test_both_halves_make_one_folder_that_export_opens(arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["vae", *arguments]) == 0
    assert main(["vocoder", *arguments, f"vae={out}"]) == 0
    stage = read_first_stage(out)
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

    assert main(["vocoder", *arguments, f"start={out}"]) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["task"], line["step"]) for line in lines] == [
        (task, step) for task in ("vae", "vocoder", "vocoder") for step in (1, 2)
    ]
    assert lines[4]["valid_mel_l1"] != lines[2]["valid_mel_l1"]
    assert {"valid_mel_l1", "onset_f1"} < lines[0].keys()
    assert {"valid_cents", "griffin_lim_cents"} < lines[2].keys()


def test_hifigan_trains_against_discriminators_and_resumes(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {
        "kind": "hifigan",
        "initial_channels": 16,
        "upsample_rates": [8, 5, 4],
        "upsample_kernels": [16, 15, 8],
        "resblock_kernels": [3],
        "resblock_dilations": [[1]],
    }
    command = ["vocoder", *arguments, *(f"model.vocoder.{name}={json.dumps(value)}" for name, value in sizes.items())]
    command += ["discriminator.from_step=1", "discriminator.width=2", "data.frames=20"]
    assert main(command) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert "critic" not in lines[0]
    assert lines[1]["fooling"] > 0
    assert (tmp_path / "out" / "vocoder" / "config.json").is_file()
    assert main([*command, "--resume"]) == 0  # at its end already
    assert main([*command, "--resume", "discriminator.width=3"]) == 2
    assert "was made with other settings: discriminator.width 2, now 3" in capsys.readouterr().err
    run = tmp_path / "out" / "training" / "vae"
    run.with_suffix(".pt").write_bytes(b"")
    assert main(["vae", *arguments, "--resume"]) == 2
    assert "training/vae.pt: is of an older version" in capsys.readouterr().err


def test_broken_sounds_are_told(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sounds"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.wav").write_bytes(b"RIFF")
    assert main(["vae", *arguments, f"data.train={folder}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "none of 1 sound files" in error or "none of 2 sound files" in error


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["data.train=missing.jsonl"], "missing.jsonl: cannot be read"),
        (["model.vae.depth=3"], "unknown vae.depth"),
        (["discriminator.width=3"], "unknown discriminator"),
        (["data.train="], "data.train: name a .jsonl list"),
        (["out="], "out: name the first stage's folder"),
        (["vae"], "key=value"),
        (["data.frames=7"], "frames is 7"),
        (["length.batch=0"], "length.batch: Expected `int` >= 1"),
        (["start=nowhere"], "nowhere/vae: holds no weights"),
        (["machine.mixed_precision=int4"], "one of '', 'no', 'fp16', 'bf16' is needed"),
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


def test_options_of_earlier_versions(arguments: list[str], tmp_path: Path, sound_list: Path) -> None:
    """They stand for settings, which a warning names."""
    old = ["--steps=1", "--set", "vae.norm_groups=2", "--batch", "3", "--learning-rate=2e-3", f"--data={sound_list}"]
    with pytest.warns(DeprecationWarning, match=r"write length\.steps=1 model\.vae\.norm_groups=2 length\.batch=3 "):
        assert main(["vae", *arguments[:3], *old, "--frames=8", "--device", "cpu"]) == 0
    training = json.loads((tmp_path / "out" / "training" / "vae" / "last" / "training.json").read_text())
    settings = training["settings"]
    assert (training["step"], settings["length"]["batch"], settings["optimizer"]["learning_rate"]) == (1, 3, 2e-3)
    assert settings["model"]["vae"]["norm_groups"] == 2
