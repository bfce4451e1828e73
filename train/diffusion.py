"""The task of ``train.run`` and ``train.distill``: a denoiser of latents, conditioned on frames and prompts."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Module

from train.assembly import Parts, assemble
from train.checkpoints import CONFIG_FILE, MODEL_FILE, RunFolder, find_checkpoint
from train.conditioning import Conditioner, Draws, Purpose
from train.data.loader import Draw, Loader, LoadReport
from train.data.sample import ClipSource, Sample
from train.model import Batch, latents_of
from train.models.config import SystemConfig, to_dict
from train.models.vae import encode_audio
from train.settings import TrainSettings
from train.trainer import (
    Loss,
    Player,
    Schedule,
    Task,
    Trainer,
    TrainingReport,
    build_accelerator,
    build_adamw,
    split_batch,
)
from vta_rt.errors import OptionError


def train(settings: TrainSettings, *, resume: bool = False) -> TrainingReport:
    """Train as the settings say, in this process or in each of those that were launched together.

    resume: go on with the run in ``settings.out`` from its newest checkpoint.

    Raises:
        VTAError: settings or files that do not allow it; nothing is written then. ``TrainingError`` as ``Trainer.fit``.
    """
    run = RunFolder(settings.out)
    checkpoint = find_checkpoint(run.path) if resume else None
    if checkpoint is None:
        run.check_free()
    accelerator = build_accelerator(settings.machine, run.path)
    parts = assemble(settings)
    trainer = Trainer(DiffusionTask(settings, parts, accelerator), settings, run, accelerator)
    if checkpoint is not None:
        trainer.resume(checkpoint)
        if trainer.steps is not None and trainer.progress.step >= trainer.steps:
            raise OptionError(
                f"{run.path}: is done, at step {trainer.progress.step:,} of {trainer.steps:,}; "
                "length.steps=N goes on further"
            )
    return trainer.train()


class DiffusionTask(Task):
    """Samples out of a loader, what they are conditioned on, and the module that is trained with them."""

    name = "denoiser"
    settings: TrainSettings
    records_every_step = True

    def __init__(self, settings: TrainSettings, parts: Parts, accelerator: Accelerator) -> None:
        self.settings, self.parts, self.accelerator = settings, parts, accelerator
        length = settings.length
        self.micro_batch, self.accumulation = split_batch(length.batch, length.micro_batch, accelerator.num_processes)
        vae = None if parts.vae is None else parts.vae.to(accelerator.device).eval().requires_grad_(False)
        conditioner = Conditioner(settings.conditioning, parts.config, parts.train.window.tokens)
        self.collate = Collator(conditioner, parts.config, vae, accelerator.device)
        is_joint_step = settings.conditioning.joint_choice == "step"
        timesteps = parts.config.noise.train_timesteps
        self.draws = Draws(settings.seed, timesteps, batch=length.batch if is_joint_step else None)
        self.valid_draws = Draws(settings.seed, timesteps, Purpose.VALIDATION)
        self.loader = self._loader(parts.train, concat=settings.data.concat, shuffle=True)
        self.valid_loader = None if parts.valid is None else self._loader(parts.valid, concat=0.0, shuffle=False)
        self.steps = None if length.minutes else length.steps or math.ceil(length.epochs * self.loader.steps_per_epoch)
        self.metrics = Path(settings.out) / "metrics.jsonl"
        self.schedule = Schedule(settings.optimizer.schedule, settings.optimizer.warmup)
        if settings.machine.gradient_checkpointing:
            parts.model.unet.enable_gradient_checkpointing()
        self.players = [Player(parts.model, build_adamw(parts.model, settings.optimizer))]

    def batches(self, start: int) -> Generator[Sequence[Sequence[Draw]], None, None]:
        return self.loader.steps(start)

    def losses(self, batch: Sequence[Draw], *modules: Module) -> Iterator[Loss]:
        (model,) = modules
        loss = model(self.collate(batch, self.draws))
        yield Loss(loss, {"loss": loss})

    def validate(self, model: Module) -> dict[str, float]:
        """Mean loss of the validation samples, each with its own fixed noise and timestep."""
        if self.valid_loader is None:
            return {}
        count = self.settings.checkpoints.validation_steps or self.valid_loader.steps_per_epoch
        with closing(self.valid_loader.steps()) as steps:
            losses = [
                model(self.collate(draws, self.valid_draws, dropout=0.0))
                for micro_batches in islice(steps, count)
                for draws in micro_batches
            ]
        return {"valid_loss": self.accelerator.reduce(torch.stack(losses).mean(), "mean").item()}

    def interval(self, steps: int) -> int:
        return self.loader.steps_per_epoch

    def claim(self, run: RunFolder, *, resume: bool) -> None:
        for note in self.parts.notes:
            print(f"note: {note}", file=sys.stderr)
        conditioning = self.settings.conditioning
        tokenizer = Path(conditioning.tokenizer) if conditioning.mode != "video" else None
        run.claim(self.parts.first_stage, tokenizer, resume=resume)

    def write(self, folder: Path, model: Module) -> None:
        """Weights and configuration as ``export.build --ckpt`` opens them, and what loading cost."""
        tensors = self.accelerator.get_state_dict(model)
        loading = self.loading()
        if self.accelerator.is_main_process:
            complete = {**tensors, **self.parts.tower}
            weights = {name: tensor.detach().float().contiguous().cpu() for name, tensor in complete.items()}
            save_file(weights, folder / MODEL_FILE, metadata={"format": "pt"})
            (folder / MODEL_FILE).chmod(folder.stat().st_mode & 0o666)  # safetensors lets nobody else read it
            (folder / CONFIG_FILE).write_text(json.dumps(to_dict(self.parts.config), indent=1) + "\n")
            loading.write(Path(self.settings.out) / "loading.json")

    def loading(self) -> LoadReport:
        merged = LoadReport.merged(gather_object([self.loader.report]))
        if self.valid_loader is not None:  # names what could not be read of the validation clips too
            merged.skipped |= LoadReport.merged(gather_object([self.valid_loader.report])).skipped
        return merged

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
