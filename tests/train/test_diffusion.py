from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing

from export.bundling import Checkpoint, open_checkpoint
from train import diffusion
from train.assembly import Parts
from train.checkpoints import RunFolder
from train.conditioning import Chance
from train.data.loader import Draw
from train.data.sample import Sample, Window
from train.diffusion import DiffusionTask, train
from train.model import LatentDiffusion
from train.models.config import TextEncoderConfig
from train.settings import TrainSettings, convert_settings
from train.trainer import Trainer, TrainingError, build_accelerator
from vta_rt.errors import OptionError, OutputError, VTAError

Goldens = dict[str, np.ndarray]
Settings = dict[str, Any]


@pytest.fixture(autouse=True)
def with_gradients(without_gradients: None) -> Iterator[None]:
    with torch.enable_grad():
        yield


class OneClip:
    """A source whose single clip is never asked for."""

    problems: Mapping[str, str] = {}
    window = Window(2.56, 7.8125, 224, 16000)

    def __len__(self) -> int:
        return 1

    def name(self, index: int) -> str:
        return "clip"

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        raise AssertionError


@pytest.mark.parametrize(("gamma", "golden"), [(0.0, "loss_mse"), (5.0, "loss_snr5")])
def test_golden_losses(
    checkpoint: Checkpoint, goldens: Goldens, golden_frames: np.ndarray, tmp_path: Path, gamma: float, golden: str
) -> None:
    """From frames to the recorded loss through ``Trainer.step``; only what is drawn is given."""
    settings = convert_settings(
        {
            "out": str(tmp_path),
            "loss": {"snr_gamma": gamma, "weighting": "noise"},
            "conditioning": {"dropout": 0.0},
            "length": {"steps": 1, "batch": 2, "micro_batch": 2},
            "data": {"workers": 0},
            "machine": {"device": "cpu"},
        },
        "test",
    )
    model = LatentDiffusion(checkpoint.config, settings.optimizer, settings.loss)
    model.unet.load_state_dict(checkpoint.modules.unet.state_dict())
    model.vid_fea_extractor.load_state_dict(checkpoint.modules.encoder.state_dict(), strict=False)
    accelerator = build_accelerator(settings.machine, tmp_path)
    task = DiffusionTask(settings, Parts(checkpoint.config, model, OneClip()), accelerator)
    trainer = Trainer(task, settings, RunFolder(tmp_path), accelerator)
    noise, timesteps = torch.from_numpy(goldens["loss_noise"]), goldens["loss_timesteps"]
    task.draws = lambda number, shape: Chance(  # type: ignore[assignment]
        int(timesteps[number]), noise[number], torch.zeros(shape), drop=0.5, text=0.5
    )
    mean = torch.from_numpy(goldens["loss_latents"]) / checkpoint.config.vae.scale_factor
    moments = torch.cat([mean, torch.zeros_like(mean)], 1)
    frames = torch.from_numpy(golden_frames)
    samples = [Sample(name=str(i), frames=frames[:n], moments=moments[i]) for i, n in enumerate((20, 12))]
    values = trainer.step([[Draw(index, sample) for index, sample in enumerate(samples)]])
    assert values["loss"] == pytest.approx(float(goldens[golden]), rel=1e-4)


def settings_of(values: Settings, out: Path, **sections: Settings) -> TrainSettings:
    merged = {name: values.get(name, {}) | sections.get(name, {}) for name in {*values, *sections}}
    return convert_settings(merged | {"out": str(out)}, "test")


def test_what_is_not_finite_stops_before_a_checkpoint_is_written(micro_settings: Settings, tmp_path: Path) -> None:
    settings = settings_of(
        micro_settings,
        tmp_path / "run",
        optimizer={"learning_rate": 1e25},
        checkpoints={"every": 1, "validate_every": 1},
    )
    with pytest.raises(
        TrainingError,
        match=r"^step \d: the (valid_loss|sum of all weights) is (nan|inf); .* is complete; try a lower",
    ):
        train(settings)
    last = (tmp_path / "run" / "last").resolve()
    assert last.name == "00000001"  # the schedule's first step moves nothing
    assert json.loads((last / "training.json").read_text())["step"] == 1


def test_a_folder_with_another_run_is_refused(micro_settings: Settings, tmp_path: Path) -> None:
    taken = tmp_path / "checkpoints" / "00000004"
    taken.mkdir(parents=True)
    (taken / "training.json").write_text("{}")
    with pytest.raises(OutputError, match="holds the checkpoints of a run; go on with --resume"):
        train(settings_of(micro_settings, tmp_path))


def test_trackers_that_are_not_installed(micro_settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"^machine.trackers: nothing is not installed"):
        train(settings_of(micro_settings, tmp_path, machine={"trackers": ["nothing"]}))


@pytest.mark.parametrize("projection", [True, False])
def test_what_is_trained(micro_settings: Settings, tmp_path: Path, projection: bool) -> None:
    """The published training leaves the linear layer at its random start."""
    settings = settings_of(
        micro_settings,
        tmp_path / "run",
        optimizer={"train_projection": projection, "ema": 0.0},
        length={"steps": 3},
        checkpoints={"every": 1, "keep": 3},
    )
    train(settings)
    first, last = (
        load_file(tmp_path / "run" / "checkpoints" / f"{step:08d}" / "model_2.safetensors") for step in (1, 3)
    )
    changed = {name.split(".")[0] + "." + name.split(".")[1] for name in first if not first[name].equal(last[name])}
    assert {name for name in changed if name.startswith("vid")} == (
        {"vid_fea_extractor.linear_layer"} if projection else set()
    )
    assert "unet.conv_in" in changed


def test_exported_weights_are_the_average(micro_settings: Settings, tmp_path: Path) -> None:
    train(settings_of(micro_settings, tmp_path / "run", length={"steps": 4}))
    folder = tmp_path / "run" / "last"
    exported = load_file(folder / "model_2.safetensors")
    raw = load_file(folder / "state" / "model.safetensors")
    average = list(load_file(folder / "state" / "average.safetensors").values())
    assert not exported["unet.conv_in.weight"].equal(raw["unet.conv_in.weight"])
    assert any(tensor.equal(exported["unet.conv_in.weight"]) for tensor in average)


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    micro_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    settings = settings_of(micro_settings, run.path, checkpoints={"every": 1}, data={"valid": ""}, length={"steps": 3})

    def write(tensors: Any, file: Path, metadata: Any) -> None:
        if run.steps():
            raise OSError(28, "No space left on device")
        save_weights(tensors, file, metadata)

    save_weights = diffusion.save_file
    monkeypatch.setattr(diffusion, "save_file", write)
    with pytest.raises(OutputError, match=r"checkpoints/00000002: cannot be written \(No space left on device\)"):
        train(settings)
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["00000001"]
    assert load_file(run.path / "last" / "model_2.safetensors")

    monkeypatch.undo()
    (run.path / "last").unlink()  # as if killed between writing a checkpoint and naming it
    train(settings, resume=True)
    assert run.steps() == [2, 3]
    assert (run.path / "last").resolve().name == "00000003"
    with pytest.raises(OptionError, match=r"run: is done, at step 3 of 3; length.steps=N goes on further"):
        train(settings, resume=True)
    narrower = {**micro_settings["model"]["unet"], "block_out_channels": [16, 16]}
    with pytest.raises(VTAError, match=r"00000003: cannot be resumed with these settings"):
        train(settings_of(micro_settings, run.path, model={"unet": narrower}), resume=True)


def test_the_prior_alone(micro_settings: Settings, tmp_path: Path) -> None:
    """The way from tokens to latents learns by itself; the rest of the denoiser stays as it was."""
    aligned = {"aligned_channels": 9, "aligned_rows": 16, "aligned_dilations": [1], "tokens_per_step": 0.5}
    settings = settings_of(
        micro_settings,
        tmp_path,
        model={"unet": micro_settings["model"]["unet"] | aligned},
        loss={"prior": 1.0},
        optimizer={"train_unet": False},
        length={"steps": 3},
        checkpoints={"every": 1, "keep": 3},
    )
    train(settings)
    first, last = (load_file(RunFolder(tmp_path).checkpoint(step) / "model_2.safetensors") for step in (1, 3))
    changed = {".".join(name.split(".")[:2]) for name, tensor in last.items() if not tensor.equal(first[name])}
    assert changed == {"unet.aligned", "unet.aligned_time", "vid_fea_extractor.linear_layer"}


def test_text_and_frames(micro_settings: Settings, micro_checkpoint: Path, tmp_path: Path) -> None:
    """What is trained with prompts takes its text encoder along."""
    begin, end = 49406, 49407
    words = Tokenizer(WordLevel({"?": 0, "a": 1, "bell": 2, "<s>": begin, "</s>": end}, unk_token="?"))
    words.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", begin), ("</s>", end)])
    words.save(str(tmp_path / "tokenizer.json"))
    text = {"width": 16, "layers": 1, "heads": 2, "intermediate": 32, "projection": 16}
    settings = settings_of(
        micro_settings,
        tmp_path / "run",
        model={"text": text},
        conditioning={"mode": "concat", "tokenizer": str(tmp_path / "tokenizer.json")},
        length={"steps": 2},
    )
    assert math.isfinite(train(settings).loss)
    checkpoint = open_checkpoint(tmp_path / "run" / "last", micro_checkpoint)
    assert checkpoint.config.text == TextEncoderConfig(**text)
    assert checkpoint.modules.text is not None


def test_tensorboard(micro_settings: Settings, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(settings_of(micro_settings, tmp_path / "run", length={"steps": 2}, machine={"trackers": ["tensorboard"]}))
    assert list((tmp_path / "run" / "train").glob("**/events.out.tfevents.*"))


def test_mixed_precision_trains(micro_settings: Settings, tmp_path: Path) -> None:
    settings = settings_of(micro_settings, tmp_path / "run", length={"steps": 2}, machine={"mixed_precision": "bf16"})
    assert math.isfinite(train(settings).loss)


def test_gradient_checkpointing_changes_memory_alone(micro_settings: Settings, tmp_path: Path) -> None:
    reports = []
    for checkpointing in (False, True):
        settings = settings_of(
            micro_settings, tmp_path / str(checkpointing), machine={"gradient_checkpointing": checkpointing}
        )
        reports.append(train(settings))
    assert reports[0].loss == pytest.approx(reports[1].loss, rel=1e-5)
