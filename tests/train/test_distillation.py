"""What a student is taught, against teachers whose answer is known; and a whole run, from a teacher to a bundle's steps."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from export.bundling import open_checkpoint
from tests.conftest import relative_error
from train.distillation import Distillation, guided_network, student_sampling
from vta_rt.sampling import Sampling
from vta_rt.schedule import PREDICTION_TYPES, NoiseSchedule, solver_table, timesteps

SHAPE = (6, 2, 4, 4)


@pytest.fixture(autouse=True)
def with_gradients(without_gradients: None) -> Iterator[None]:
    with torch.enable_grad():
        yield


def draw(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def nowhere(latents: Tensor, at: Tensor) -> Tensor:
    return latents * at.view(-1, 1, 1, 1).float().sin()


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_teacher_that_knows_the_data_teaches_the_data(steps: int, prediction_type: str) -> None:
    schedule = NoiseSchedule(prediction_type=prediction_type)
    distillation = Distillation(schedule, steps, 5)
    latents, noise = draw(0), draw(1)

    def knowing(state: Tensor, at: Tensor) -> Tensor:
        alpha, sigma = (
            torch.from_numpy(f(at.numpy())).float().view(-1, 1, 1, 1) for f in (schedule.alpha, schedule.sigma)
        )
        found = (state - alpha * latents) / sigma
        return found if prediction_type == "epsilon" else alpha * found - sigma * latents

    drawn = torch.tensor([0, 100, 400, 600, 800, 999])
    now, after = distillation.ends(drawn)
    alpha, sigma = (
        torch.from_numpy(f(now.numpy())).float().view(-1, 1, 1, 1) for f in (schedule.alpha, schedule.sigma)
    )
    target = distillation.target(knowing, alpha * latents + sigma * noise, now, after)
    assert relative_error(target.numpy(), latents.numpy()) < 1e-3
    assert float(distillation.loss(knowing, knowing, latents, noise, drawn)) < 1e-4
    assert float(distillation.loss(nowhere, knowing, latents, noise, drawn)) > 0.1


def test_steps_are_those_the_student_is_sampled_with() -> None:
    """Every timestep of training falls into the step of the table that begins at or above it."""
    schedule, sampling = NoiseSchedule(), student_sampling(4)
    assert sampling == Sampling(4, "ddim", 1.0, "trailing")
    plan = sampling.plan(schedule)
    table = plan.table
    assert plan.guidance_scales.tolist() == [1.0] * 4
    now, after = Distillation(schedule, 4, 2).ends(torch.arange(1000))
    assert now.unique().tolist() == sorted(table[:, 0].astype(int).tolist())
    assert after.unique().tolist() == [-1, *sorted(table[1:, 0].astype(int).tolist())]
    assert bool((now >= torch.arange(1000)).all())
    assert bool((after < torch.arange(1000)).all())


def test_the_target_is_where_ddim_with_guidance_leads() -> None:
    """With as many steps and substeps as the table of DDIM has rows, the student's steps end where DDIM's do."""
    schedule, guidance = NoiseSchedule(), 2.5
    distillation = Distillation(schedule, 2, 4)
    tokens, mask = torch.ones(len(draw(3)), 3, 2), torch.zeros(len(draw(3)), 3, dtype=torch.bool)
    teacher = guided_network(Halves(), tokens, mask, guidance)
    state = draw(3)
    expected = state.double().numpy()
    for timestep, p, q, a, b, _, _ in solver_table("ddim", schedule, 8, "trailing"):
        at = torch.full(SHAPE[:1], int(timestep))
        x = torch.from_numpy(expected).float()
        free, told = nowhere(x, at).double().numpy(), other(x, at).double().numpy()
        expected = a * expected + b * (p * expected + q * (free + guidance * (told - free)))
    stops = [*timesteps(schedule, 2, "trailing").tolist(), -1]
    for now, after in itertools.pairwise(stops):
        ends = [torch.full(SHAPE[:1], stop) for stop in (now, after)]
        data = distillation.target(teacher, state, *ends)
        state = distillation._step(data, state, *ends)
    assert relative_error(state.numpy(), expected) < 1e-4


def other(latents: Tensor, at: Tensor) -> Tensor:
    return latents.tanh() + at.view(-1, 1, 1, 1) / 1000


class Halves(nn.Module):
    """A UNet that is ``other`` where it has tokens and ``nowhere`` where they are zeros, all of them taken for real."""

    def forward(self, latents: Tensor, at: Tensor, tokens: Tensor, encoder_attention_mask: Tensor) -> SimpleNamespace:
        is_told = tokens.any(dim=2).any(dim=1)
        assert torch.equal(encoder_attention_mask.all(dim=1), ~is_told)
        told = is_told.view(-1, 1, 1, 1)
        return SimpleNamespace(sample=torch.where(told, other(latents, at), nowhere(latents, at)))


@pytest.fixture(scope="module")
def teacher(micro_settings: dict[str, Any], micro_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from train.diffusion import train
    from train.settings import convert_settings

    out = tmp_path_factory.mktemp("runs") / "teacher"
    with torch.enable_grad():
        start = {"tower": str(micro_checkpoint / "model_2.safetensors"), "first_stage": str(micro_checkpoint)}
        train(convert_settings(micro_settings | {"start": start, "out": str(out)}, "test"))
    return out / "last"


@pytest.mark.slow
def test_from_a_teacher_to_a_student_s_checkpoint(teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "student"
    done = subprocess.run(
        [sys.executable, "-m", "train.distill", "--teacher", teacher, "--steps", "2", f"out={out}", "length.steps=30"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: 30 steps in ")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert np.mean(losses[-8:]) < np.mean(losses[:4])  # it learns what the teacher does
    assert open_checkpoint(out / "last").config.sampling == student_sampling(2)  # which the bundle will have
    assert load_file(out / "last" / "model_2.safetensors").keys() == load_file(teacher / "model_2.safetensors").keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "nowhere"], "nowhere: tells no settings to go by (no training.json)"),
        (["--teacher", "TEACHER", "--substeps", "0"], "substeps"),
        (["--teacher", "TEACHER"], "out: name the folder of the run"),
    ],
)
def test_bad_input(
    teacher: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    from train.distill import main

    assert main([str(teacher) if argument == "TEACHER" else argument for argument in arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
