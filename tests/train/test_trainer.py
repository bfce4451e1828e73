"""The loop with a task of two linear layers, the one against the other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from train.checkpoints import RunFolder
from train.models.weights import CheckpointError
from train.settings import CheckpointSettings, LengthSettings, MachineSettings, OptimizerSettings, RunSettings
from train.trainer import Loss, Player, Schedule, Task, Trainer, TrainingError, build_accelerator, split_batch
from vta_rt.errors import OptionError

SETTINGS = RunSettings(
    optimizer=OptimizerSettings(learning_rate=0.1, ema=0.9, clip=1.0),
    length=LengthSettings(steps=6, batch=4),
    checkpoints=CheckpointSettings(every=2, validate_every=2),
    machine=MachineSettings(device="cpu"),
)


@pytest.fixture(autouse=True)
def with_gradients(without_gradients: None) -> Iterator[None]:
    with torch.enable_grad():
        yield


class Rivals(Task):
    """The first follows the sum of what it sees, and what the second says of that."""

    name = "rivals"
    schedule = Schedule("cosine", 2, 1)
    micro_batch = 4

    def __init__(self, settings: RunSettings, out: Path) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.steps = None if settings.length.minutes else settings.length.steps
        self.metrics = out / "metrics.jsonl"
        modules = nn.Linear(3, 1), nn.Linear(1, 1)
        self.players = [Player(module, torch.optim.AdamW(module.parameters())) for module in modules]
        self.published: list[bool] = []

    def batches(self, start: int) -> Generator[list[Tensor], None, None]:
        for step in itertools.count(start):
            torch.manual_seed(step)
            yield [torch.randn(4, 3)]

    def losses(self, batch: Tensor, *modules: nn.Module) -> Iterator[Loss]:
        model, rival = modules
        made = model(batch)
        loss = (rival(made.detach()) - torch.randn(4, 1)).square().mean()
        yield Loss(loss, {"rival": loss}, player=1)
        loss = (made - batch.sum(1, keepdim=True)).square().mean() + rival(made).mean()
        yield Loss(loss, {"loss": loss})

    def validate(self, model: nn.Module) -> dict[str, float]:
        return {"valid_loss": -model(torch.ones(1, 3)).item()}

    def publish(self, *, is_best: bool) -> None:
        self.published.append(is_best)


def build(out: Path, settings: RunSettings = SETTINGS) -> Trainer:
    return Trainer(Rivals(settings, out), settings, RunFolder(out), build_accelerator(settings.machine, out))


def read_figures(out: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    timed = ("samples_per_second", "waiting", "seconds")
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def test_a_resumed_run_repeats_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the checkpoint of step 4 and before that of step 6 is written; both players go on where they were."""
    complete, stopped = build(tmp_path / "complete"), build(tmp_path / "stopped")
    report = complete.train()
    assert (report.steps, report.progress.step) == (6, 6)
    save = stopped.save

    def killed(*, is_best: bool = False) -> None:
        if stopped.progress.step == 6:
            raise KeyboardInterrupt
        save(is_best=is_best)

    monkeypatch.setattr(stopped, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    (tmp_path / "stopped" / "last").unlink()
    resumed = build(tmp_path / "stopped")
    checkpoint = resumed.run.last()
    assert checkpoint is not None
    resumed.resume(checkpoint, same_settings=True)
    assert resumed.progress.step == 4
    assert resumed.train().progress == report.progress
    assert read_figures(tmp_path / "stopped") == read_figures(tmp_path / "complete")
    for ours, theirs in zip(resumed.modules, complete.modules, strict=True):
        for name, tensor in ours.state_dict().items():
            assert tensor.equal(theirs.state_dict()[name])
    assert (tmp_path / "stopped" / "last").resolve().name == "00000006"
    assert resumed.ema is not None
    assert complete.ema is not None
    assert all(
        ours.equal(theirs) for ours, theirs in zip(resumed.ema.shadow_params, complete.ema.shadow_params, strict=True)
    )


def test_the_best_is_named_and_published(tmp_path: Path) -> None:
    trainer = build(tmp_path)
    report = trainer.train()
    scores = [line["valid_loss"] for line in read_figures(tmp_path)]
    best = min(range(3), key=scores.__getitem__)
    assert report.progress.best == scores[best]
    assert (tmp_path / "best").resolve().name == f"{2 * best + 2:08d}"
    assert trainer.task.published == [score == min(scores[: i + 1]) for i, score in enumerate(scores)]
    assert {"task", "step", "loss", "rival", "learning_rate", "gradient_norm"} < read_figures(tmp_path)[0].keys()
    again = build(tmp_path)
    again.train()  # a new run in the same folder leaves nothing of the first
    assert [line["step"] for line in read_figures(tmp_path)] == [2, 4, 6]


def test_other_settings_and_damaged_checkpoints_do_not_resume(tmp_path: Path) -> None:
    build(tmp_path, replace(SETTINGS, length=LengthSettings(steps=2, batch=4))).train()
    checkpoint = RunFolder(tmp_path).checkpoint(2)
    with pytest.raises(CheckpointError, match=r"made with other settings: length\.steps 2, now 6; seed 0, now 5$"):
        build(tmp_path, replace(SETTINGS, seed=5)).resume(checkpoint, same_settings=True)
    (checkpoint / "state" / "optimizer_1.bin").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"00000002: cannot be resumed with these settings"):
        build(tmp_path).resume(checkpoint)


def test_what_is_not_finite_stops(tmp_path: Path) -> None:
    """What was written stays."""
    trainer = build(tmp_path)
    trainer.train()
    kept = trainer.run.steps()
    trainer.progress = replace(trainer.progress, steps=8)
    with torch.no_grad():
        trainer.modules[1].weight.fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"^step 7: the rival is nan; .*00000006 is complete; try a lower"):
        trainer.fit()
    assert trainer.run.steps() == kept


def test_minutes_become_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The speed is taken between two steps; a resumed run keeps the length that was found."""
    monkeypatch.setattr("train.trainer.TIMED_STEPS", (1, 3))
    settings = replace(SETTINGS, length=LengthSettings(minutes=2.0, batch=4))
    trainer = build(tmp_path, settings)
    clock = itertools.count(0, 10)
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    for step in (1, 2, 3):
        trainer.progress = replace(trainer.progress, step=step)
        trainer._plan(-10.0)
    # 10 s for two steps; 30 s are gone of 120, 7 % of the rest is kept for validation
    assert trainer.steps == 3 + int(90 * 0.93 / 5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule("linear", 2), {0: 0, 1: 0.5, 2: 1, 6: 0.5, 10: 0}),
        (Schedule("cosine", 2), {0: 0, 1: 0.5, 2: 1, 6: 0.5, 10: 0}),
        (Schedule("constant", 2), {0: 0, 1: 0.5, 2: 1, 10: 1}),
        (Schedule("linear", 0), {0: 1, 5: 0.5, 10: 0}),
        (Schedule("cosine", 2, first=1), {0: 0.5, 1: 1, 2: 1, 6: 0.5, 10: 0}),
        (Schedule("cosine", 2, 1, 0.02, decays_from_start=True), {0: 0.5, 5: 0.51, 10: 0.02}),
    ],
)
def test_the_learning_rate_rises_and_falls(schedule: Schedule, expected: dict[int, float]) -> None:
    assert {step: schedule.factor(step, 10) for step in expected} == pytest.approx(expected)
    assert schedule.factor(1000, None) == 1  # as long as the length is not known


def test_split_batch() -> None:
    assert split_batch(256, 8, 8) == (8, 4)
    assert split_batch(256, 8, 1) == (8, 32)
    assert split_batch(4, 8, 2) == (2, 1)
    for batch, micro_batch, processes in ((6, 4, 1), (7, 1, 2), (1, 1, 2)):
        with pytest.raises(OptionError, match=r"^length.batch is \d, a multiple of"):
            split_batch(batch, micro_batch, processes)
