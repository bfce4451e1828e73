"""The training loop on accelerate: batches from a loader, steps of the optimizer, validation, checkpoints, metrics.

Losses are means over the global batch and do not depend on how many devices share it. Knows neither command lines nor
how samples are stored.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, gather_object
from diffusers import AutoencoderKL
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import Module, Parameter
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from train.assembly import Parts, assemble
from train.checkpoints import Progress, RunFolder, averaged, find_checkpoint, load_checkpoint, save_checkpoint
from train.conditioning import TRAINING, VALIDATION, Conditioner, Draws
from train.data.loader import Draw, Loader, LoadReport
from train.data.sample import ClipSource, Sample
from train.metrics import MetricsFile
from train.model import Batch, encode_audio, latents_of
from train.models.config import SystemConfig
from train.settings import OptimizerSettings, TrainSettings, to_dict
from vta_rt.errors import OptionError, VTAError


class TrainingError(VTAError):
    """Training that cannot go on: a loss or a gradient that is not a finite number."""


@dataclass(frozen=True)
class Report:
    """How a run went: its last step and that step's loss, the best validation loss, wall time, what loading cost."""

    steps: int
    loss: float
    progress: Progress
    seconds: float
    loading: LoadReport


def train(settings: TrainSettings, *, resume: bool = False) -> Report:
    """Train as the settings say, in this process or in each of those that were launched together.

    resume: go on with the run in ``settings.out`` from its newest checkpoint.

    Raises:
        VTAError: settings or files that do not allow it; nothing is written then. ``TrainingError`` as ``Trainer.fit``.
    """
    run = RunFolder(settings.out)
    checkpoint = find_checkpoint(run.path) if resume else None
    if checkpoint is None:
        run.check_free()
    accelerator = build_accelerator(settings)
    parts = assemble(settings)
    trainer = Trainer(settings, parts, accelerator)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    if accelerator.is_main_process:
        for note in parts.notes:
            print(f"note: {note}", file=sys.stderr)
        conditioning = settings.conditioning
        tokenizer = Path(conditioning.tokenizer) if conditioning.mode != "video" else None
        run.claim(parts.first_stage, tokenizer, resume=resume)
        if checkpoint is not None:  # the run may have been killed between writing it and naming it
            run.name("last", trainer.progress.step)
            if trainer.progress.best_step is not None and run.checkpoint(trainer.progress.best_step).is_dir():
                run.name("best", trainer.progress.best_step)
    accelerator.wait_for_everyone()
    accelerator.init_trackers("train", _flat(to_dict(settings)))
    try:
        return trainer.fit()
    finally:
        accelerator.end_training()


def build_accelerator(settings: TrainSettings) -> Accelerator:
    """An accelerator as the settings and accelerate's own configuration say.

    Raises:
        OptionError: a tracker that is not installed, or mixed precision that this device does not have.
    """
    machine = settings.machine
    available = {str(tracker) for tracker in get_available_trackers()}
    if missing := [name for name in machine.trackers if name not in available]:
        known = ", ".join(sorted(available)) or "none"
        raise OptionError(f"machine.trackers: {missing[0]} is not installed (installed: {known})")
    try:
        return Accelerator(
            cpu=machine.device == "cpu",
            mixed_precision=machine.mixed_precision or None,
            log_with=list(machine.trackers) or None,
            project_dir=settings.out,
            step_scheduler_with_optimizer=False,
        )
    except ValueError as error:
        raise OptionError(f"machine.mixed_precision {machine.mixed_precision!r}: {error}") from error


class Collator:
    """Samples and their draws -> a batch on the device."""

    def __init__(
        self, conditioner: Conditioner, config: SystemConfig, vae: AutoencoderKL | None, device: torch.device
    ) -> None:
        self._conditioner, self._config, self._vae, self._device = conditioner, config, vae, device

    def __call__(self, draws: Sequence[Draw], chances: Draws, dropout: float | None = None) -> Batch:
        samples = [draw.sample for draw in draws]
        moments = self._moments(samples)  # [B, 2C, T, F]
        channels, *shape = moments.shape[1:]
        drawn = [chances(draw.index, (channels // 2, *shape)) for draw in draws]
        posterior = torch.stack([chance.posterior for chance in drawn]).to(self._device)
        return Batch(
            latents=latents_of(moments, posterior, self._config.vae.scale_factor),
            noise=torch.stack([chance.noise for chance in drawn]),
            timesteps=torch.tensor([chance.timestep for chance in drawn]),
            conditions=[
                self._conditioner(sample, chance, dropout) for sample, chance in zip(samples, drawn, strict=True)
            ],
        ).to(self._device)

    def _moments(self, samples: Sequence[Sample]) -> Tensor:
        ready = [sample.moments for sample in samples if sample.moments is not None]
        if len(ready) == len(samples):
            return torch.stack(ready).to(self._device)
        if self._vae is None:
            raise OptionError(
                f"{samples[0].name}: is raw audio; give start.first_stage (a folder with vae/), or prepare the samples"
            )
        waves = torch.stack([sample.wave for sample in samples if sample.wave is not None])
        return encode_audio(self._vae, waves.to(self._device), self._config.mel)


class Trainer:
    """One run. ``train`` makes and runs it; the pieces are public for tests."""

    def __init__(self, settings: TrainSettings, parts: Parts, accelerator: Accelerator) -> None:
        self.settings, self.accelerator = settings, accelerator
        self.run = RunFolder(settings.out)
        self.config = parts.config
        self._idle = parts.tower
        length = settings.length
        self.micro_batch, accumulation = split_batch(length.batch, length.micro_batch, accelerator.num_processes)
        accelerator.gradient_accumulation_steps = accumulation

        conditioner = Conditioner(settings.conditioning, parts.config, parts.train.window.tokens)
        vae = None if parts.vae is None else parts.vae.to(accelerator.device).eval().requires_grad_(False)
        self.collate = Collator(conditioner, parts.config, vae, accelerator.device)
        self.loader = self._loader(parts.train, concat=settings.data.concat, shuffle=True)
        is_joint_step = settings.conditioning.joint_choice == "step"
        timesteps = parts.config.noise.train_timesteps
        self.chances = Draws(settings.seed, timesteps, TRAINING, length.batch if is_joint_step else None)
        self._valid_chances = Draws(settings.seed, timesteps, VALIDATION)
        self._valid = None if parts.valid is None else self._loader(parts.valid, concat=0.0, shuffle=False)
        self._valid_steps = settings.checkpoints.validation_steps or (self._valid.steps_per_epoch if self._valid else 0)
        self.total = length.steps or math.ceil(length.epochs * self.loader.steps_per_epoch)

        optimizer = build_optimizer(trained_parameters(parts.model), settings.optimizer)
        schedule = build_schedule(optimizer, settings.optimizer, self.total)
        if settings.machine.gradient_checkpointing:
            parts.model.unet.enable_gradient_checkpointing()
        _tell_deepspeed(accelerator, self.micro_batch, accumulation, settings.optimizer.clip)
        self.model, self.optimizer, self.schedule = accelerator.prepare(parts.model, optimizer, schedule)
        self._average = None
        if settings.optimizer.ema:  # of what this process holds, should accelerate have sharded it
            self._average = EMAModel(trained_parameters(self.model), settings.optimizer.ema, foreach=True)
        self.progress = Progress()

    def resume(self, checkpoint: Path) -> None:
        """Go on exactly where a checkpoint was written.

        Raises:
            CheckpointError: it does not fit the settings.
            OptionError: there is nothing left to do.
        """
        self.progress = load_checkpoint(checkpoint, self.accelerator, self._average)
        if self.progress.step >= self.total:
            raise OptionError(
                f"{self.run.path}: is done, at step {self.progress.step:,} of {self.total:,}; length.steps=N goes on further"
            )

    def fit(self) -> Report:
        """Train to the end.

        Raises:
            TrainingError: a loss or a gradient is not finite.
        """
        start, started = self.progress.step, time.perf_counter()
        metrics = MetricsFile(self.run.path, start, self.accelerator)
        loss = math.nan
        hidden = None if self.accelerator.is_main_process else True
        self.model.train()
        with (
            closing(self.loader.steps(start)) as steps,
            tqdm(total=self.total, initial=start, unit="step", disable=hidden, leave=False) as bar,
        ):
            for step in range(start + 1, self.total + 1):
                clock, waited = time.perf_counter(), self.loader.report.waited
                loss, values = self.step(step, next(steps))
                seconds = time.perf_counter() - clock
                values["samples_per_second"] = self.settings.length.batch / seconds
                values["waiting"] = (self.loader.report.waited - waited) / seconds
                if self._is_due(step, self.settings.checkpoints.validate_every) and self._valid is not None:
                    values["valid_loss"] = self.validate()
                    self._check(step, "validation loss", values["valid_loss"])
                is_best = "valid_loss" in values and self._note(step, values["valid_loss"])
                metrics.write(step, values)
                if is_best or self._is_due(step, self.settings.checkpoints.every):
                    self.save(step, is_best=is_best)
                bar.set_postfix_str(f"loss {loss:.4f}, {values['waiting']:.0%} waiting", refresh=False)
                bar.update()
        return Report(self.total, loss, self.progress, time.perf_counter() - started, self._loading())

    def step(self, step: int, micro_batches: Sequence[Sequence[Draw]]) -> tuple[float, dict[str, float]]:
        """One step of the optimizer: the global batch's mean loss, and what else is to be recorded."""
        losses: list[Tensor] = []
        loss, norm = math.nan, math.nan
        for draws in micro_batches:
            batch = self.collate(draws, self.chances)
            with self.accelerator.accumulate(self.model):
                micro_loss = self.model(batch)
                self.accelerator.backward(micro_loss)
                losses.append(micro_loss.detach())
                if self.accelerator.sync_gradients:
                    norm = self._clip()
                    loss = self._mean(losses)
                    self._check(step, "loss", loss)
                    if not self._may_overflow:
                        self._check(step, "gradient's norm", norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
        values = {"loss": loss, "learning_rate": self.schedule.get_last_lr()[0], "gradient_norm": norm}
        self.schedule.step()
        if self._average is not None:
            self._average.step(trained_parameters(self.model))
        return loss, values

    def validate(self) -> float:
        """Mean loss of the validation samples, each with its own fixed noise and timestep, with averaged weights."""
        assert self._valid is not None
        losses = []
        self.model.eval()
        with torch.no_grad(), averaged(self.model, self._average), closing(self._valid.steps()) as steps:
            for micro_batches in islice(steps, self._valid_steps):
                losses += [self.model(self.collate(draws, self._valid_chances, dropout=0.0)) for draws in micro_batches]
        self.model.train()
        return self._mean(losses)

    def save(self, step: int, *, is_best: bool = False) -> None:
        """Write a checkpoint and let ``last``, and ``best`` if it is, stand for it."""
        self._check_weights(step)
        self.progress = replace(self.progress, step=step)
        save_checkpoint(
            self.run, self.accelerator, self.model, self._average, self.progress, self.config, self.settings, self._idle
        )
        loading = self._loading()
        if self.accelerator.is_main_process:
            loading.write(self.run.path / "loading.json")
            self.run.name("last", step)
            if is_best:
                self.run.name("best", step)
            self.run.prune(self.settings.checkpoints.keep, self.progress.best_step)

    def _loading(self) -> LoadReport:
        """What loading cost so far, over all processes; names what could not be read of the validation clips too."""
        merged = LoadReport.merged(gather_object([self.loader.report]))
        if self._valid is not None:
            merged.skipped |= LoadReport.merged(gather_object([self._valid.report])).skipped
        return merged

    def _note(self, step: int, valid: float) -> bool:
        """Whether this validation loss is the best so far; if so it is remembered."""
        if self.progress.best is not None and valid >= self.progress.best:
            return False
        self.progress = replace(self.progress, best=valid, best_step=step)
        return True

    def _is_due(self, step: int, every: int) -> bool:
        return step % (every or self.loader.steps_per_epoch) == 0 or step == self.total

    def _clip(self) -> float:
        """Norm of the global batch's gradient before it is clipped; NaN where the framework does not tell."""
        limit = self.settings.optimizer.clip or math.inf
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        return math.nan if norm is None else float(norm)

    def _mean(self, losses: Sequence[Tensor]) -> float:
        mean: Tensor = self.accelerator.reduce(torch.stack(list(losses)).mean(), "mean")
        return mean.item()

    def _check(self, step: int, name: str, value: float) -> None:
        if math.isfinite(value):
            return
        steps = self.run.steps()
        kept = f"{self.run.checkpoint(steps[-1])} is whole" if steps else "no checkpoint was written yet"
        advice = "try a lower optimizer.learning_rate, or optimizer.clip"
        raise TrainingError(f"step {step}: the {name} is {value}; {kept}; {advice}")

    def _check_weights(self, step: int) -> None:
        whole = torch.stack([parameter.detach().sum() for parameter in trained_parameters(self.model)]).sum()
        self._check(step, "sum of all weights", self._mean([whole]))

    @property
    def _may_overflow(self) -> bool:
        """In half precision gradients overflow now and then; the gradient scaler then skips the step and goes on."""
        return self.accelerator.scaler is not None or self.accelerator.distributed_type == DistributedType.DEEPSPEED

    def _loader(self, source: ClipSource, *, concat: float, shuffle: bool) -> Loader:
        settings, accelerator = self.settings, self.accelerator
        return Loader(
            source,
            batch=settings.length.batch,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            micro_batch=self.micro_batch,
            seed=settings.seed,
            workers=settings.data.workers,
            concat=concat,
            shuffle=shuffle,
        )


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
            f"({processes} processes, length.micro_batch {micro_batch})"
        )
    return micro_batch, share // micro_batch


def build_optimizer(parameters: Sequence[Parameter], settings: OptimizerSettings) -> AdamW:
    """AdamW over what is trained."""
    return AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        eps=settings.epsilon,
    )


def build_schedule(optimizer: Optimizer, settings: OptimizerSettings, total: int) -> LRScheduler:
    """Learning rate over ``total`` steps: up over the warm-up, then as the schedule says."""
    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    return get_scheduler(name, optimizer, num_warmup_steps=settings.warmup, num_training_steps=total)


def trained_parameters(model: Module) -> list[Parameter]:
    """Those that need a gradient, in the module's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as trackers take them."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat


def _tell_deepspeed(accelerator: Accelerator, micro_batch: int, accumulation: int, clip: float) -> None:
    """DeepSpeed has settings of its own for what ours say already."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        accelerator.state.deepspeed_plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_accumulation_steps": accumulation,
            "gradient_clipping": clip,
        }
