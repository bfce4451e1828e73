"""The tower learns from clips, with labels and without, and goes on where it was stopped."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from train.checkpoints import RunFolder
from train.demo.pretrain.clips import Reel
from train.demo.pretrain.losses import most_hit
from train.demo.pretrain.regressor import STRETCH, Regressor, regression_loss
from train.demo.pretrain.task import (
    PretrainCheckpointSettings,
    PretrainDataSettings,
    PretrainLengthSettings,
    PretrainOptimizerSettings,
    PretrainSettings,
    PretrainTask,
    mel_frames,
)
from train.models.config import SystemConfig
from train.models.encoder import build_encoder
from train.settings import MachineSettings
from train.trainer import Trainer, build_accelerator
from vta_rt.errors import OptionError

SETTINGS = PretrainSettings(
    length=PretrainLengthSettings(steps=60, batch=4),
    data=PretrainDataSettings(window=16),
    optimizer=PretrainOptimizerSettings(learning_rate=5e-3, warmup=5),
    machine=MachineSettings(device="cpu"),
)


@pytest.fixture
def start(system: SystemConfig, reels: list[Reel], tmp_path: Path) -> Callable[..., Trainer]:
    """A run, with labels where there are materials."""

    def start(settings: PretrainSettings = SETTINGS, materials: int = 0, name: str = "tower") -> Trainer:
        torch.manual_seed(0)
        changed = replace(system, encoder=replace(system.encoder, materials=materials))
        seen = reels if materials else [replace(reel, labels=None) for reel in reels]
        settings = replace(settings, out=str(tmp_path / f"{name}.safetensors"))
        accelerator = build_accelerator(settings.machine, tmp_path)
        encoder = build_encoder(changed.encoder)
        task = PretrainTask(settings, changed, encoder, seen, accelerator, materials=materials)
        return Trainer(task, settings, RunFolder(tmp_path / f"{name}.state"), accelerator)

    return start


@pytest.fixture
def model(start: Callable[..., Trainer]) -> Regressor:
    """One that knows two materials."""
    return start(materials=2).task.model


def learn(trainer: Trainer, steps: int) -> list[float]:
    """The losses of so many steps."""
    with closing(trainer.task.batches(0)) as batches:
        return [trainer.step(next(batches))["loss"] for _ in range(steps)]


def measure(trainer: Trainer) -> dict[str, float]:
    with trainer._evaluation():
        return trainer.task.validate(trainer.model)


def test_learns_when_it_sounds(start: Callable[..., Trainer]) -> None:
    trainer = start()
    losses, figures = learn(trainer, 60), measure(trainer)
    assert losses[-1] < 0.5 * losses[0]
    assert figures["onset_f1"] > 0.8
    assert "valid_material" not in figures


@pytest.mark.slow
def test_learns_what_sounds_from_labels(start: Callable[..., Trainer]) -> None:
    trainer = start(replace(SETTINGS, length=PretrainLengthSettings(steps=600, batch=8)), materials=2)
    before = measure(trainer)
    learn(trainer, 600)
    after = measure(trainer)
    for name in ("told_f1", "valid_material", "valid_pitch", "valid_thing", "valid_size", "valid_ring"):
        assert after[name] > 0.95 > before[name], name


def test_of_a_glimpse_only_what_has_frames_around_it_counts(model: Regressor, reels: list[Reel]) -> None:
    """One frame before and two after: labels of the others change nothing, those within do."""
    model.eval()
    frames, _, labels = reels[0].batch(40, 6, np.random.default_rng(0), zoomed=True)
    assert labels is not None

    def loss(moments: list[int]) -> float:
        thing = labels.thing.copy()
        thing[:, moments] = np.where(thing[:, moments] >= 0, 1 - thing[:, moments], -1)  # the other material
        return model.glimpse(frames, replace(labels, thing=thing)).item()

    with torch.no_grad():
        assert loss([0, 4, 5]) == loss([])
        for inner in (1, 2, 3):
            assert loss([inner]) != loss([])


@pytest.mark.parametrize("told", ["onset", "material", "note", "level", "speed", "hit"])
def test_a_window_teaches_all_that_happens(model: Regressor, reels: list[Reel], told: str) -> None:
    model.eval()
    frames, _, labels = reels[0].batch(4, 16, np.random.default_rng(0), zoomed=True)
    assert labels is not None
    values = getattr(labels, told)
    others = np.where(values >= 0, 1 - values if told in ("onset", "hit", "material") else values + 5, -1)
    with torch.no_grad():
        before, after = (
            model.loss(frames, None, replace(labels, **{told: known.astype(values.dtype)}))
            for known in (values, others)
        )
    assert before.item() != after.item()


def test_what_is_hit_is_taught_where_most_is(model: Regressor, reels: list[Reel]) -> None:
    model.eval()
    frames, _, labels = reels[0].batch(8, 24, np.random.default_rng(0), zoomed=True)
    assert labels is not None
    inside = np.zeros(labels.onset.shape, bool)
    for clip, first in enumerate(most_hit(labels.onset, STRETCH)):
        inside[clip, first : first + STRETCH] = True

    def loss(where: np.ndarray) -> float:
        material = np.where(where & (labels.material >= 0), 1 - labels.material, labels.material)
        return model.loss(frames, None, replace(labels, material=material)).item()

    assert (labels.onset > 0)[~inside].any()
    with torch.no_grad():
        assert loss(~inside) == loss(inside & ~inside) != loss(inside)


@pytest.mark.parametrize("told", ["material", "note", "ring"])
def test_a_glimpse_teaches_what_is_struck_and_every_note(model: Regressor, reels: list[Reel], told: str) -> None:
    model.eval()
    frames, _, labels = reels[0].batch(40, 6, np.random.default_rng(0), zoomed=True)
    assert labels is not None
    values = getattr(labels, told)
    others = np.where(values >= 0, 1 - values if told == "material" else values + 5, -1).astype(values.dtype)
    with torch.no_grad():
        before, after = (model.glimpse(frames, replace(labels, **{told: known})) for known in (values, others))
    assert before.item() != after.item()


def test_a_glimpse_teaches_both_streams_what_a_hit_looks_like(model: Regressor, reels: list[Reel]) -> None:
    """The verdict on when something is hit stays as it is, and how moments are joined: glimpses are too short and eventful."""
    model.train()
    frames, _, labels = reels[0].batch(40, 6, np.random.default_rng(0), zoomed=True)
    assert labels is not None
    with torch.enable_grad():
        model.glimpse(frames, labels).backward()
    taught = {name for name, parameter in model.tower.named_parameters() if parameter.grad is not None}
    for stream in ("when", "what"):
        assert {f"{stream}.stem.0.weight", f"{stream}.gaze.weight"} <= taught
    assert "verdict.is_hit.weight" in taught
    assert not any(name.startswith(("when.time", "when.value", "verdict.happens", "verdict.rest")) for name in taught)


def test_inner_layers_alone_have_an_optimizer_of_their_own(model: Regressor) -> None:
    hidden, rest = ({id(parameter) for parameter in each} for each in model.parts())
    names = {name: id(parameter) for name, parameter in model.named_parameters()}
    assert hidden | rest == set(names.values())
    assert not hidden & rest
    inner = {name for name in names if names[name] in hidden}
    for stream in ("when", "what"):
        assert {
            f"tower.{stream}.{layer}.weight" for layer in ("both.convolution", "value", "anywhere", "time.0.out")
        } <= inner
        assert not {f"tower.{stream}.{layer}" for layer in ("stem.0.weight", "gaze.weight", "both.norm.weight")} & inner
    assert all(name.startswith(("tower.when.", "tower.what.")) for name in inner)


def test_another_number_of_materials_is_refused(system: SystemConfig) -> None:
    for events, said in ((3, "the events are of 3 materials"), (0, "there are no events")):
        with pytest.raises(OptionError, match=rf"{said}, but model\.encoder\.materials is 2"):
            Regressor(build_encoder(system.encoder), 64, 4, materials=events)


def test_the_same_seed_trains_the_same_and_another_does_not(start: Callable[..., Trainer]) -> None:
    losses = [learn(start(replace(SETTINGS, seed=seed)), 2) for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_goes_on_exactly(start: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads draw ahead."""
    length, checkpoints = PretrainLengthSettings(steps=6, batch=4), PretrainCheckpointSettings(validate_every=3)
    settings = replace(SETTINGS, length=length, checkpoints=checkpoints)
    complete = start(settings, 2, "complete")
    expected = complete.train()
    stopped = start(settings, 2, "stopped")
    monkeypatch.setattr(
        stopped, "save", lambda *, is_best: save(is_best=is_best) if stopped.progress.step == 3 else exit()
    )
    save = type(stopped).save.__get__(stopped)
    with pytest.raises(SystemExit):
        stopped.train()
    again = start(replace(settings, data=replace(settings.data, workers=3)), 2, "stopped")
    checkpoint = again.run.last()
    assert checkpoint is not None
    again.resume(checkpoint)
    assert again.progress.step == 3
    report = again.train()
    assert (report.loss, report.figures) == (expected.loss, expected.figures)
    for name, tensor in again.task.model.state_dict().items():
        assert tensor.equal(complete.task.model.state_dict()[name]), name


def test_changes_count_in_every_band() -> None:
    """A click in one bin and the same energy spread over all differ by bin, not over the widest band."""
    true = torch.zeros(1, 8, 64)
    one_bin, spread = torch.zeros(1, 8, 64), torch.zeros(1, 8, 64)
    one_bin[:, 4:, 0], spread[:, 4:] = 1.0, 1 / 64
    assert regression_loss(true, true, 4) == 0
    expected = 0.5 / 64 + 4 * (1 / 64 + 1 / 64 / 8 + 1 / 64**2)
    assert regression_loss(one_bin, true, 4).item() == pytest.approx(expected, rel=1e-5)
    assert regression_loss(spread, true, 4) < regression_loss(one_bin, true, 4)


def test_frames_and_mel_frames_must_come_out_even(system: SystemConfig) -> None:
    assert mel_frames(system) == 4
    with pytest.raises(OptionError, match=r"frame_rate is 30, 3\.33333 mel frames to a frame"):
        mel_frames(replace(system, frame_rate=30.0))
