"""The one training loop: steps, learning rate, validation, checkpoints, metrics and progress, whatever is trained.

A ``Task`` says what is trained and from what. Losses are means over the global batch and do not depend on how many
processes share it.
"""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, broadcast_object_list, patch_environment
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import Module, Parameter
from torch.optim import AdamW, Optimizer
from tqdm import tqdm

from train.checkpoints import (
    MetricsFile,
    Progress,
    RunFolder,
    ema_weights,
    load_checkpoint,
    read_training,
    save_checkpoint,
)
from train.data.loader import LoadReport
from train.data.networks import open_device
from train.models.weights import CheckpointError
from train.progress import progress
from train.settings import MachineSettings, OptimizerSettings, RunSettings, to_dict
from vta_rt.errors import OptionError, VTAError

TIMED_STEPS = (10, 30)  # between which the speed is measured where the length is given in minutes
VALIDATION_TIME = 0.07  # fraction of the minutes that is kept for validation


class TrainingError(VTAError):
    """Training that cannot go on: a loss, a gradient or a weight that is not a finite number."""


class Player(NamedTuple):
    """A module that learns, and its optimizer. Gradients pass through its ``forward`` alone, so that it can be distributed."""

    module: Module
    optimizer: Optimizer


class Loss(NamedTuple):
    """What one player minimises in a step."""

    total: Tensor  # a scalar
    figures: Mapping[str, Tensor]  # scalars to record, by name
    player: int = 0


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a run, as a fraction of the highest: a linear warm-up, then a decay."""

    shape: Literal["linear", "cosine", "constant"]
    warmup: int  # steps
    first: int = 0  # steps of the warm-up that count as done at the first step: with 0 its learning rate is 0
    final: float = 0.0  # at the end of a decay
    decays_from_start: bool = False  # false: from the end of the warm-up on

    def factor(self, step: int, steps: int | None) -> float:
        """At a step, counted from 0; ``steps`` is the length of the run, None where it is not known yet."""
        rise = min(1.0, (step + self.first) / self.warmup) if self.warmup else 1.0
        if steps is None or self.shape == "constant":
            return rise
        start = 0 if self.decays_from_start else self.warmup
        left = min(1.0, max(0, steps - step) / max(1, steps - start))
        done = min(1.0, max(0, step - start) / max(1, steps - start))
        decay = left if self.shape == "linear" else (1 + math.cos(math.pi * done)) / 2
        return rise * (self.final + (1 - self.final) * decay)


class Task(ABC):
    """What is trained, and from what."""

    name: str  # in messages and metrics
    settings: RunSettings
    players: Sequence[Player]  # the model first; the others learn against it
    schedule: Schedule
    steps: int | None  # length of the run; None: as many as settings.length.minutes allow
    metrics: Path  # the file of figures
    micro_batch: int  # samples a process holds at a time
    accumulation: int = 1  # micro-batches of a step
    records_every_step: bool = False  # false: figures are recorded at validations

    @abstractmethod
    def batches(self, start: int) -> Generator[Sequence[Any], None, None]:
        """This process' micro-batches of step ``start``, ``start + 1``, ..., without end; a function of the step alone."""

    @abstractmethod
    def losses(self, batch: Any, *modules: Any) -> Iterator[Loss]:
        """Losses of a micro-batch, one after the other: each player has stepped before the next loss is asked for.

        Args:
            modules: the players', as the accelerator prepared them.
        """

    @abstractmethod
    def validate(self, model: Module) -> dict[str, float]:
        """Figures on validation data, the same in all processes; the first is the one that counts, less is better."""

    def interval(self, steps: int) -> int:
        """Steps between validations, and between checkpoints, where the settings give none."""
        return self.settings.checkpoints.validate_every or -(-steps // 10)

    def claim(self, run: RunFolder, *, resume: bool) -> None:
        """Make the run's folder ready; called in the main process."""
        run.claim(resume=resume)

    def publish(self, *, is_best: bool) -> None:  # noqa: B027
        """Write what others use, after a validation; called in the main process, with EMA weights in place."""

    def write(self, folder: Path, model: Module) -> None:  # noqa: B027
        """Write into a checkpoint what others open; called in all processes, with EMA weights in place."""

    def loading(self) -> LoadReport | None:
        """What loading cost so far, over all processes."""
        return None


@dataclass(frozen=True)
class TrainingReport:
    """How a run went."""

    steps: int
    loss: float  # of the last step; NaN where no step was left to do
    figures: Mapping[str, float]  # of the last validation
    progress: Progress
    seconds: float
    loading: LoadReport | None


class Trainer:
    """One run of a task."""

    def __init__(self, task: Task, settings: RunSettings, run: RunFolder, accelerator: Accelerator) -> None:
        self.task, self.settings, self.run, self.accelerator = task, settings, run, accelerator
        accelerator.gradient_accumulation_steps = task.accumulation
        _configure_deepspeed(accelerator, task, settings.optimizer.clip)
        prepared = accelerator.prepare(*(part for player in task.players for part in player))
        self.players = [Player(*pair) for pair in zip(prepared[::2], prepared[1::2], strict=True)]
        self.modules = [player.module.train() for player in self.players]
        self.model = self.modules[0]
        self.ema = None
        if settings.optimizer.ema:  # of what this process holds, should accelerate have sharded it
            self.ema = EMAModel(trained_parameters(self.model), settings.optimizer.ema, foreach=True)
        self.progress = Progress(steps=task.steps)
        self._timed = 0.0

    def train(self) -> TrainingReport:
        """Claim the run's folder and train to the end, from the beginning or from where ``resume`` brought it.

        Raises:
            OutputError: the folder cannot be written.
            TrainingError: as ``fit``.
        """
        if self.accelerator.is_main_process:
            self.task.claim(self.run, resume=self.progress.step > 0)
            if self.progress.step:  # the run may have been killed between writing it and naming it
                self.run.name("last", self.progress.step)
                best = self.progress.best_step
                if best is not None and self.run.checkpoint(best).is_dir():
                    self.run.name("best", best)
        self.accelerator.wait_for_everyone()
        self.accelerator.init_trackers("train", _flat(to_dict(self.settings)))
        try:
            return self.fit()
        finally:
            self.accelerator.end_training()

    def resume(self, checkpoint: Path, *, same_settings: bool = False) -> None:
        """Bring everything back to where a checkpoint was written, to go on exactly from there.

        Args:
            same_settings: only with the settings that it was written with, but for ``out`` and ``machine``.

        Raises:
            CheckpointError: it is damaged, or does not fit the settings.
        """
        changed = _find_changes(read_training(checkpoint)["settings"], to_dict(self.settings)) if same_settings else []
        if changed:
            raise CheckpointError(f"{checkpoint}: was made with other settings: {'; '.join(changed)}")
        progress = load_checkpoint(checkpoint, self.accelerator, self.ema)
        self.progress = replace(progress, steps=self.task.steps or progress.steps)

    @property
    def steps(self) -> int | None:
        """Length of the run, None as long as it is not known."""
        return self.progress.steps

    def fit(self) -> TrainingReport:
        """Train to the end.

        Raises:
            TrainingError: a loss, a gradient or a weight is not finite; the checkpoints are left as they were.
        """
        start, started = self.progress.step, time.perf_counter()
        metrics = MetricsFile(self.task.metrics, self.task.name, start, self.accelerator)
        values, figures = {"loss": math.nan}, dict[str, float]()
        hidden = not self.accelerator.is_main_process
        with (
            closing(self.task.batches(start)) as batches,
            progress(total=self.steps, initial=start, desc=self.task.name, unit="step", hidden=hidden) as bar,
        ):
            while self.steps is None or self.progress.step < self.steps:
                values = self._timed_step(batches)
                step = self.progress.step
                if self.steps is None:
                    self._plan(started)
                    bar.total = self.steps
                is_best = False
                if found := self._validate_if_due(step):
                    figures = found
                    is_best = self._note(step, figures)
                    if not hidden:
                        tqdm.write(f"{self.task.name}: step {step:,}: {_format(values | found)}", file=sys.stderr)
                if found or self.task.records_every_step:
                    metrics.write(step, values | found | {"seconds": time.perf_counter() - started})
                if found:
                    self._publish(is_best)
                if is_best or self._is_due(step, self.settings.checkpoints.every):
                    self.save(is_best=is_best)
                bar.set_postfix_str(f"loss {values['loss']:.4f}, {values['waiting']:.0%} waiting", refresh=False)
                bar.update()
        seconds = time.perf_counter() - started
        return TrainingReport(self.progress.step, values["loss"], figures, self.progress, seconds, self.task.loading())

    def _timed_step(self, batches: Iterator[Sequence[Any]]) -> dict[str, float]:
        clock = time.perf_counter()
        micro_batches = next(batches)
        waited = time.perf_counter() - clock
        values = self.step(micro_batches)
        seconds = time.perf_counter() - clock
        return values | {
            "samples_per_second": self.settings.length.batch / seconds,
            "waiting": waited / seconds,
        }

    def step(self, micro_batches: Sequence[Any]) -> dict[str, float]:
        """One step of every optimizer: figures of the global batch, the model's loss first."""
        rate = self.settings.optimizer.learning_rate * self.task.schedule.factor(self.progress.step, self.steps)
        self.progress = replace(self.progress, step=self.progress.step + 1)
        for player in self.players:
            for group in player.optimizer.param_groups:
                group["lr"] = rate
        recorded: dict[str, list[Tensor]] = {}
        values: dict[str, float] = {}
        for batch in micro_batches:
            with self.accelerator.accumulate(*self.modules):
                for loss in self.task.losses(batch, *self.modules):
                    values = self._descend(loss, recorded) | values
        for player in self.players:  # also of what the model's loss left in the others
            player.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.step(trained_parameters(self.model))
        return values | {"learning_rate": rate}

    def _descend(self, loss: Loss, recorded: dict[str, list[Tensor]]) -> dict[str, float]:
        """Pass a loss back, and step where this was the last micro-batch; then gives what was recorded."""
        self.accelerator.backward(loss.total)
        for name, value in loss.figures.items():
            recorded.setdefault(name, []).append(value.detach().float())
        if not self.accelerator.sync_gradients:
            return {}
        player = self.players[loss.player]
        norm = self._clip(player.module)
        means = torch.stack([torch.stack(recorded[name]).mean() for name in loss.figures])
        values = dict(zip(loss.figures, self.accelerator.reduce(means, "mean").tolist(), strict=True))
        for name, value in values.items():
            self._check(name, value)
        if not self._may_overflow:
            self._check("gradient's norm", norm)
        player.optimizer.step()
        return values | ({"gradient_norm": norm} if loss.player == 0 else {})

    def _validate_if_due(self, step: int) -> dict[str, float]:
        if not self._is_due(step, self.settings.checkpoints.validate_every):
            return {}
        with self._evaluation():
            figures = self.task.validate(self.model)
        figures = broadcast_object_list([figures])[0]
        for name, value in list(figures.items())[:1]:
            self._check(name, value)
        return figures

    def _publish(self, is_best: bool) -> None:
        if self.accelerator.is_main_process:
            with self._evaluation():
                self.task.publish(is_best=is_best)
        self.accelerator.wait_for_everyone()

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        """The model in evaluation mode, without gradients, with EMA weights in place."""
        self.model.eval()
        with torch.no_grad(), ema_weights(self.model, self.ema):
            yield
        self.model.train()

    def save(self, *, is_best: bool = False) -> None:
        """Write a checkpoint and let ``last``, and ``best`` if it is, stand for it; every process calls this."""
        step = self.progress.step
        weights = torch.stack([parameter.detach().sum() for parameter in trained_parameters(self.model)]).sum()
        self._check("sum of all weights", self.accelerator.reduce(weights, "mean").item())
        training = asdict(self.progress) | {"settings": to_dict(self.settings)}
        save_checkpoint(
            self.run.checkpoint(step), self.accelerator, self.model, self.ema, training, write=self.task.write
        )
        if self.accelerator.is_main_process:
            self.run.name("last", step)
            if is_best:
                self.run.name("best", step)
            self.run.prune(self.settings.checkpoints.keep, self.progress.best_step)

    def _note(self, step: int, figures: Mapping[str, float]) -> bool:
        """Whether this validation is the best so far; if so it is remembered."""
        score = next(iter(figures.values()))
        if self.progress.best is not None and score >= self.progress.best:
            return False
        self.progress = replace(self.progress, best=score, best_step=step)
        return True

    def _is_due(self, step: int, every: int) -> bool:
        if self.steps is None:
            return False
        return step % (every or self.task.interval(self.steps)) == 0 or step == self.steps

    def _plan(self, started: float) -> None:
        """Once the speed is known, find how many steps the minutes allow."""
        first, last = TIMED_STEPS
        if self.progress.step == first:
            self._timed = time.perf_counter()
        if self.progress.step == last:
            speed = (time.perf_counter() - self._timed) / (last - first)  # seconds a step
            left = self.settings.length.minutes * 60 - (time.perf_counter() - started)
            steps = last + max(0, int(left * (1 - VALIDATION_TIME) / speed))
            mean = self.accelerator.reduce(torch.tensor(float(steps), device=self.accelerator.device), "mean")
            self.progress = replace(self.progress, steps=int(mean))
            self.accelerator.print(f"{self.task.name}: {speed:.3f} s a step, {self.steps} steps", file=sys.stderr)

    def _clip(self, module: Module) -> float:
        """Norm of the global batch's gradient before it is clipped; NaN where the framework does not tell."""
        limit = self.settings.optimizer.clip or math.inf
        norm = self.accelerator.clip_grad_norm_(module.parameters(), limit)
        return math.nan if norm is None else float(norm)

    def _check(self, name: str, value: float) -> None:
        if math.isfinite(value):
            return
        steps = self.run.steps()
        kept = f"{self.run.checkpoint(steps[-1])} is complete" if steps else "no checkpoint was written yet"
        advice = "try a lower optimizer.learning_rate, or optimizer.clip"
        raise TrainingError(f"step {self.progress.step}: the {name} is {value}; {kept}; {advice}")

    @property
    def _may_overflow(self) -> bool:
        """In half precision gradients overflow now and then; the gradient scaler then skips the step and goes on."""
        return self.accelerator.scaler is not None or self.accelerator.distributed_type == DistributedType.DEEPSPEED


def build_accelerator(machine: MachineSettings, out: Path) -> Accelerator:
    """An accelerator as the settings and accelerate's own configuration say; ``out`` is the folder for trackers.

    Raises:
        OptionError: a device or a tracker that is not there, or mixed precision that the device does not have.
    """
    if machine.threads:
        torch.set_num_threads(machine.threads)
    available = {str(tracker) for tracker in get_available_trackers()}
    if missing := [name for name in machine.trackers if name not in available]:
        known = ", ".join(sorted(available)) or "none"
        raise OptionError(f"machine.trackers: {missing[0]} is not installed (installed: {known})")
    named = {}
    if machine.device not in ("auto", "cpu"):
        named = {"accelerate_torch_device": str(open_device(machine.device))}
    try:
        with patch_environment(**named):
            return Accelerator(
                cpu=machine.device == "cpu",
                mixed_precision=machine.mixed_precision or None,
                log_with=list(machine.trackers) or None,
                project_dir=str(out),
            )
    except (ValueError, NotImplementedError) as error:
        raise OptionError(f"machine.mixed_precision {machine.mixed_precision!r}: {error}") from error


def split_batch(batch: int, micro_batch: int, processes: int) -> tuple[int, int]:
    """How a global batch is spread: samples a process holds at a time, and how often it accumulates.

    Raises:
        OptionError: it does not come out even.
    """
    share, rest = divmod(batch, processes)
    micro_batch = min(micro_batch, share)
    if rest or share % max(micro_batch, 1):
        raise OptionError(
            f"length.batch is {batch}, a multiple of {processes * max(micro_batch, 1)} is needed "
            f"({processes} processes, micro-batches of {micro_batch})"
        )
    return micro_batch, share // micro_batch


def build_adamw(module: Module, settings: OptimizerSettings) -> AdamW:
    """AdamW over what is trained of a module."""
    return AdamW(
        trained_parameters(module),
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        eps=settings.epsilon,
    )


def trained_parameters(model: Module) -> list[Parameter]:
    """Those that need a gradient, in the module's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _format(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as trackers take them."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat


def _find_changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What two settings do not share, in words."""
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key), new.get(key)
        if prefix + key in ("out", "machine"):
            continue
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found += _find_changes(before, now, f"{prefix}{key}.")
        elif before != now:
            found.append(f"{prefix}{key} {before}, now {now}")
    return found


def _configure_deepspeed(accelerator: Accelerator, task: Task, clip: float) -> None:
    """DeepSpeed has settings of its own for what ours say already."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        accelerator.state.deepspeed_plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": task.micro_batch,
            "gradient_accumulation_steps": task.accumulation,
            "gradient_clipping": clip,
        }
