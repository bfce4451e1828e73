from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from train.first_stage.data import Sounds, find_sounds
from train.first_stage.loop import FINAL_RATE, WARM_UP, Recipe, Trainer, TrainingError, rate_at
from train.first_stage.vae import VAETask
from train.models.config import SystemConfig
from vta_rt.errors import OptionError

RECIPE = Recipe(steps=6, minutes=None, batch=2, seed=3, learning_rate=1e-3, validate_every=2)


@pytest.fixture
def sounds(sound_list: Path) -> tuple[Sounds, Sounds]:
    files = find_sounds(sound_list)
    return Sounds(files[:6], 16000), Sounds(files[6:], 16000)


def trainer(config: SystemConfig, sounds: tuple[Sounds, Sounds], out: Path, recipe: Recipe = RECIPE) -> Trainer:
    torch.manual_seed(recipe.seed)
    return Trainer(VAETask(config, 8, 1e-4), recipe, out, sounds, Accelerator(cpu=True), {"frames": 8})


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_resumed_run_repeats_the_first(config: SystemConfig, sounds: tuple[Sounds, Sounds], tmp_path: Path) -> None:
    whole = trainer(config, sounds, tmp_path / "whole")
    whole.run()
    stopped = trainer(config, sounds, tmp_path / "stopped")
    lost = [stopped.step()["loss"] for _ in range(2)]
    stopped._validate({"loss": lost[-1]}, 0.0)
    stopped.step()  # lost with the process

    resumed = trainer(config, sounds, tmp_path / "stopped")
    resumed.resume()
    assert resumed.progress.step == 2
    resumed.run()
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    for ours, theirs in zip(resumed.task.model.parameters(), whole.task.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_other_options_do_not_resume(config: SystemConfig, sounds: tuple[Sounds, Sounds], tmp_path: Path) -> None:
    first = trainer(config, sounds, tmp_path)
    first.resume()  # nothing there yet: begins
    assert first.progress.step == 0
    first._save()
    with pytest.raises(TrainingError, match=r"recipe\.batch 2, now 4; recipe\.seed 3, now 5"):
        trainer(config, sounds, tmp_path, replace(RECIPE, batch=4, seed=5)).resume()
    first.checkpoint.write_bytes(b"torn")
    with pytest.raises(TrainingError, match="cannot be read as a checkpoint"):
        first.resume()


def test_loss_that_is_not_finite_stops(config: SystemConfig, sounds: tuple[Sounds, Sounds], tmp_path: Path) -> None:
    runner = trainer(config, sounds, tmp_path)
    runner._save()
    good = runner.checkpoint.read_bytes()
    with torch.no_grad():
        next(runner.task.model.parameters()).fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"step 0: a loss is not finite .*vae\.pt is intact"):
        runner.run()
    assert runner.checkpoint.read_bytes() == good


def test_minutes_become_steps(
    config: SystemConfig,
    sounds: tuple[Sounds, Sounds],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("train.first_stage.loop.TIMED_STEPS", (1, 3))
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    runner = trainer(config, sounds, tmp_path, replace(RECIPE, minutes=2.0))
    runner._plan(0.0)
    for runner.progress.step in (1, 2, 3):
        runner._plan(0.0)
    # 10 s for two steps; 20 s are gone of 120, 7 % of the rest is kept for validation
    assert runner.progress.steps == 3 + int(100 * 0.93 / 5)
    assert "5.000 s a step, 21 steps" in capsys.readouterr().out


def test_rate_rises_and_falls() -> None:
    rates = [rate_at(step, 1000) for step in range(1001)]
    assert rates[0] == pytest.approx(1 / WARM_UP)
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates[525] == pytest.approx(0.5, abs=0.05)
    assert rates[-1] == pytest.approx(FINAL_RATE)
    assert rate_at(10_000, None) == 1


@pytest.mark.parametrize("name", ["steps", "batch", "learning_rate", "validate_every", "minutes"])
def test_nothing_may_be_zero(name: str) -> None:
    with pytest.raises(OptionError, match=f"{name} is 0"):
        replace(RECIPE, **{name: 0})
