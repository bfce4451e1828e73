"""The training loop of both halves: schedule, steps, validation, checkpoints, resume.

Knows no mels and no losses: a ``Task`` brings the model and says what it is worth.
"""

from __future__ import annotations

import io
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from train.first_stage.data import Sounds
from vta_rt.errors import OptionError, VTAError
from vta_rt.files import atomic_write, raise_output_errors

WARM_UP = 50  # steps over which the learning rate rises
FINAL_RATE = 0.02  # of the learning rate, at the last step
TIMED_STEPS = (10, 30)  # between which the speed is measured when minutes are given
CLIP = 1.0  # norm of the gradients


class TrainingError(VTAError):
    """Training that cannot go on: a loss that is not finite, or a checkpoint that does not belong to this run."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast; a run resumes only under the recipe it began with."""

    steps: int
    minutes: float | None
    batch: int  # over all processes
    seed: int
    learning_rate: float
    validate_every: int | None  # steps; None: ten times in all
    adversarial_from: int | None = None  # step

    def __post_init__(self) -> None:
        for name in ("steps", "minutes", "batch", "learning_rate", "validate_every"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise OptionError(f"{name} is {value}, more than 0 is needed")


@dataclass
class Losses:
    """``total`` is minimised, ``parts`` are shown; ``pair`` (true, made) is what a critic judges."""

    total: Tensor
    parts: dict[str, Tensor]
    pair: tuple[Tensor, Tensor] | None = None


class Task(Protocol):
    """One half of the first stage.

    Attributes:
        name: of its folder.
        model: what learns; its ``forward`` is all that gradients pass, so that it may be spread over devices.
        critic: the adversary that learns against it, if there is one.
        betas: of AdamW.
        crop: samples that one row of a batch needs.
    """

    name: str
    model: nn.Module
    critic: nn.Module | None
    betas: tuple[float, float]
    crop: int

    def losses(self, model: nn.Module, waves: Tensor) -> Losses:
        """What a batch [B, crop] costs."""

    def adversarial(self, critic: nn.Module, pair: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """What the model pays to a critic, to be added to its losses."""

    def critic_loss(self, critic: nn.Module, pair: tuple[Tensor, Tensor]) -> Tensor:
        """What the critic pays for not telling the true from the made."""

    def validate(self, sounds: Sounds, device: torch.device) -> dict[str, float]:
        """Figures on sounds never trained on; the first is the one that counts, less is better."""

    def publish(self, folder: Path, sounds: Sounds, device: torch.device) -> None:
        """Write the finished model as ``export.build --first-stage`` opens it."""


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    steps: int | None = None  # known from the beginning, or once the speed is
    best: float = math.inf


class Trainer:
    """Trains one task, and goes on exactly where a stopped run was validated last.

    Args:
        identity: what a checkpoint must have been made with to go on from it, as plain JSON values.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        out: Path,
        sounds: tuple[Sounds, Sounds],
        accelerator: Accelerator,
        identity: dict[str, Any],
    ) -> None:
        self.task, self.recipe, self.out, self.accelerator = task, recipe, out, accelerator
        self.training, self.validation = sounds
        self.identity = json.loads(json.dumps({"recipe": asdict(recipe), **identity}))
        self.progress = Progress(steps=None if recipe.minutes else recipe.steps)
        self._timed = 0.0
        if recipe.batch % accelerator.num_processes:
            raise OptionError(f"batch {recipe.batch} does not divide over {accelerator.num_processes} processes")
        self.players = [_Player(task.model, recipe.learning_rate, task.betas, accelerator)]
        if task.critic is not None:
            self.players.append(_Player(task.critic, recipe.learning_rate, task.betas, accelerator))
        with raise_output_errors(out):
            self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def folder(self) -> Path:
        """Where checkpoints lie."""
        return self.out / "training"

    @property
    def checkpoint(self) -> Path:
        """The last state of this task's run."""
        return self.folder / f"{self.task.name}.pt"

    def run(self) -> None:
        """Train to the end.

        Raises:
            TrainingError: a loss is not finite; the checkpoint of the last validation is left as it was.
        """
        start, since = time.perf_counter(), self.progress.step
        bar = tqdm(
            initial=since, total=self.progress.steps, desc=self.task.name, disable=None, leave=False, unit="step"
        )
        while self.progress.step != self.progress.steps:
            lost = self.step()
            if self.progress.steps is None:
                self._plan(start)
                bar.total = self.progress.steps
            bar.update()
            if self.progress.steps and (
                self.progress.step % self._interval() == 0 or self.progress.step == self.progress.steps
            ):
                self._validate(lost, time.perf_counter() - start)
        bar.close()

    def step(self) -> dict[str, float]:
        """Train on one batch; returns what was lost, by name, over all processes.

        Crops and noise depend on seed and step alone, so a resumed run draws what the first would have drawn.
        """
        step, recipe, accelerator = self.progress.step, self.recipe, self.accelerator
        torch.manual_seed(recipe.seed * 1_000_003 + step * accelerator.num_processes + accelerator.process_index)
        crops = self.training.crops((recipe.seed, step), recipe.batch, self.task.crop)
        share = recipe.batch // accelerator.num_processes
        first = accelerator.process_index * share
        waves = torch.from_numpy(crops[first : first + share]).to(accelerator.device)

        for player in self.players:
            player.optimizer.param_groups[0]["lr"] = recipe.learning_rate * rate_at(step, self.progress.steps)
        model, *critics = self.players
        losses = self.task.losses(model.module, waves)
        if critics and losses.pair is not None and step >= (recipe.adversarial_from or 0):
            critic = critics[0]
            losses.parts["critic"] = self.task.critic_loss(critic.module, losses.pair)
            critic.descend(losses.parts["critic"], accelerator)
            paid = self.task.adversarial(critic.module, losses.pair)
            losses.parts |= paid
            losses.total = losses.total + torch.stack(list(paid.values())).sum()
        parts = {"loss": losses.total, **losses.parts}
        names, values = list(parts), torch.stack([value.detach().float() for value in parts.values()])
        lost = dict(zip(names, accelerator.reduce(values, "mean").tolist(), strict=True))
        if not all(map(math.isfinite, lost.values())):
            found = ", ".join(f"{name} {value:g}" for name, value in lost.items())
            kept = f"{self.checkpoint} is intact" if self.checkpoint.exists() else "nothing was saved yet"
            raise TrainingError(f"step {step}: a loss is not finite ({found}); {kept}; try a smaller --learning-rate")
        model.descend(losses.total, accelerator)
        self.progress.step += 1
        return lost

    def _plan(self, start: float) -> None:
        """Once the speed is known, say how many steps the minutes allow."""
        first, last = TIMED_STEPS
        if self.progress.step == first:
            self._timed = time.perf_counter()
        if self.progress.step == last:
            speed = (time.perf_counter() - self._timed) / (last - first)  # s a step
            left = (self.recipe.minutes or 0) * 60 - (time.perf_counter() - start)
            steps = last + max(0, int(left * 0.93 / speed))  # the rest is for validation
            steps = int(self.accelerator.reduce(torch.tensor(float(steps), device=self.accelerator.device), "mean"))
            self.progress.steps = steps
            self.accelerator.print(f"{self.task.name}: {speed:.3f} s a step, {steps} steps")

    def _interval(self) -> int:
        return self.recipe.validate_every or -(-(self.progress.steps or 1) // 10)

    def _validate(self, lost: dict[str, float], seconds: float) -> None:
        """Measure, tell, and keep: every process waits, one works."""
        if self.accelerator.is_main_process:
            self.task.model.eval()
            with torch.no_grad():
                figures = self.task.validate(self.validation, self.accelerator.device)
            score = next(iter(figures.values()))
            is_best = score < self.progress.best
            self.progress.best = min(score, self.progress.best)
            self._tell({"step": self.progress.step, "seconds": round(seconds, 1), **lost, **figures})
            if is_best:  # before the state that knows of it, so that no best one is lost when the process is killed
                with torch.no_grad():
                    self.task.publish(self.out, self.training, self.accelerator.device)
            self._save()
            self.task.model.train()
        self.accelerator.wait_for_everyone()

    def _tell(self, figures: dict[str, float]) -> None:
        with raise_output_errors(self.out), (self.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"task": self.task.name, **figures}) + "\n")
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"{self.task.name}  {shown}", flush=True)

    def _save(self) -> None:
        scaler = self.accelerator.scaler
        state = {
            "identity": self.identity,
            "progress": asdict(self.progress),
            "players": [player.state() for player in self.players],
            "scaler": scaler.state_dict() if scaler else None,
        }
        content = io.BytesIO()  # torch itself has no clear word for a full disk
        torch.save(state, content)
        with atomic_write(self.checkpoint) as part:
            part.write_bytes(content.getvalue())

    def resume(self) -> None:
        """Go on from the last checkpoint of the folder, if there is one.

        Raises:
            TrainingError: it cannot be read, or it was made with other options.
        """
        if not self.checkpoint.exists():
            return
        try:
            state = torch.load(self.checkpoint, map_location=self.accelerator.device, weights_only=True)
        except Exception as error:
            raise TrainingError(f"{self.checkpoint}: cannot be read as a checkpoint ({error})") from error
        if differing := _differences(state["identity"], self.identity):
            raise TrainingError(f"{self.checkpoint}: was made with other options: {'; '.join(differing)}")
        try:
            for player, saved in zip(self.players, state["players"], strict=True):
                player.restore(saved)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise TrainingError(f"{self.checkpoint}: is of another version of this model ({reason})") from error
        self.progress = Progress(**state["progress"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])


class _Player:
    """A module and its optimizer, as the accelerator prepared them."""

    def __init__(
        self, module: nn.Module, learning_rate: float, betas: tuple[float, float], accelerator: Accelerator
    ) -> None:
        self.raw = module
        optimizer = torch.optim.AdamW(module.parameters(), learning_rate, betas, weight_decay=0.01)
        self.module, self.optimizer = accelerator.prepare(module, optimizer)
        self.module.train()

    def descend(self, loss: Tensor, accelerator: Accelerator) -> None:
        self.optimizer.zero_grad()  # also of what the other player's loss left here
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(self.module.parameters(), CLIP)
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        return {"module": self.raw.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        self.raw.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])


def rate_at(step: int, steps: int | None) -> float:
    """Share of the learning rate at a step: a linear rise, then half a cosine down to ``FINAL_RATE``."""
    rise = min(1.0, (step + 1) / WARM_UP)
    if steps is None:
        return rise
    done = min(1.0, step / max(1, steps))
    return rise * (FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * done)) / 2)


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What two nested dicts do not share, in words."""
    found: list[str] = []
    for key in old.keys() | new.keys():
        ours, theirs = new.get(key), old.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            found += _differences(theirs, ours, f"{prefix}{key}.")
        elif ours != theirs:
            found.append(f"{prefix}{key} {theirs}, now {ours}")
    return sorted(found)
