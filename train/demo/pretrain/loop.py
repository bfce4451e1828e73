"""Teaches a tower from films and glimpses, step by step; it goes on, frozen, into ``train.prepare`` and ``train.run``.

Draws what each step sees, steps, validates; ``regressor`` says what is learned of it. Knows no files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from train.data.events import Labels
from train.demo.pretrain.films import Reel
from train.demo.pretrain.glimpses import GlimpseSource
from train.demo.pretrain.optimizer import Optimizer
from train.demo.pretrain.regressor import Regressor
from train.models.config import SystemConfig, to_dict
from train.models.encoder import FrameEncoder
from train.onsets import OnsetScore, onsets_of_mel, score_onsets
from vta_rt.errors import OptionError, VTAError

CLIP = 2.0  # largest norm of the gradient
GLIMPSED = 8  # times as many glimpses as windows a step has
GLIMPSE = 6  # pictures of one, where they are taken from films
TURN = 3  # one step in so many sees glimpses


@dataclass(frozen=True)
class PretrainSettings:
    """batch: windows a step. window: frames of each. zoomed: share of the windows' steps seen from another distance.
    validate_every: steps."""

    steps: int = 1500
    batch: int = 22
    window: int = 48
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warmup: int = 60
    zoomed: float = 0.25
    seed: int = 0
    validate_every: int = 500
    validation_clips: int = 64


class Pretraining:
    """One run, step after step; ``state`` and ``load`` let it go on exactly where it was.

    Args:
        encoder: its tower is trained in place.
        materials: how many the labels tell apart; 0 without labels.
        identity: names the data, so that a run goes on with no other.
    """

    def __init__(
        self,
        encoder: FrameEncoder,
        system: SystemConfig,
        settings: PretrainSettings,
        *,
        materials: int = 0,
        mixed_precision: bool = False,
        identity: str = "",
    ) -> None:
        torch.manual_seed(settings.seed)
        self._identity = {**asdict(settings), "system": to_dict(system), "mixed": mixed_precision, "data": identity}
        self.settings, self.system, self.done = settings, system, 0
        self.device = encoder.linear_layer.weight.device
        per_frame = mel_frames(system)
        self.model = Regressor(encoder, system.mel.bins, per_frame, materials).to(self.device)
        nn.utils.convert_conv2d_weight_memory_format(self.model, torch.channels_last)  # a sixth faster on a CPU
        hidden, rest = self.model.parts()
        self.optimizer = Optimizer(hidden, rest, settings.learning_rate, settings.weight_decay)
        self._mixed = mixed_precision

    def run(
        self, train: Reel, valid: Reel, glimpses: GlimpseSource | None = None, *, workers: int = 1
    ) -> Iterator[dict[str, float]]:
        """Train to the end; gives the figures of every step, and of a validation where one is due.

        Args:
            glimpses: seen between windows; those of ``train`` if not given.
            workers: threads that draw what the next steps see, one a step; what is learned does not depend on it.

        Raises:
            VTAError: the loss is not a finite number.
        """
        settings = self.settings
        self.model.train()
        numbers = iter(range(self.done, settings.steps))
        with ThreadPoolExecutor(workers) as pool:
            drawn = deque(pool.submit(self._draw, train, glimpses, number) for number in islice(numbers, workers))
            while drawn:
                batch = drawn.popleft().result()
                drawn += (pool.submit(self._draw, train, glimpses, number) for number in islice(numbers, 1))
                figures = self._step(*batch)
                if self.done % settings.validate_every == 0 or self.done == settings.steps:
                    figures |= self.validate(valid)
                yield figures

    def _step(self, pictures: Tensor, mel: Tensor | None, labels: Labels | None, glimpse: bool) -> dict[str, float]:
        pictures, mel = pictures.to(self.device), None if mel is None else mel.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._mixed):
            if glimpse and labels is not None:
                loss = self.model.glimpse(pictures, labels)
            else:
                loss = self.model.loss(pictures, mel, labels)
        if not loss.isfinite():
            raise VTAError(f"step {self.done + 1}: the loss is {loss.item()}; try a lower learning rate")
        self.model.zero_grad()  # to None: what a glimpse does not reach stays as it is
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step(self._share(self.done))
        self.done += 1
        return {"step": self.done, "loss": loss.item(), "gradient_norm": norm.item()}

    def _draw(
        self, train: Reel, glimpses: GlimpseSource | None, step: int
    ) -> tuple[Tensor, Tensor | None, Labels | None, bool]:
        """What one step sees, a function of its number: pictures, log-mel, labels, and whether these are glimpses."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, step])
        if self.model.looks is None:
            return *train.batch(settings.batch, settings.window, rng), False
        if step % TURN:
            zoomed = bool(rng.random() < settings.zoomed)
            return *train.batch(settings.batch, settings.window, rng, zoomed=zoomed), False
        if glimpses is None:
            return *train.batch(GLIMPSED * settings.batch, GLIMPSE, rng, zoomed=True), True
        pictures, labels = glimpses.draw(GLIMPSED * settings.batch, rng)
        return pictures, None, labels, True

    @torch.no_grad()
    def validate(self, reel: Reel) -> dict[str, float]:
        """Of whole films: error of the mel, and onset F1 of the regressed mel against the true one's, within 50 ms.

        With labels also the onset F1 of what the tower decides, within 100 ms, and what labels say of how much is told.
        """
        self.model.eval()
        errors, onsets, decisions = [], OnsetScore(), OnsetScore()
        right: dict[str, list[bool]] = {}
        for index in range(min(self.settings.validation_clips, len(reel.films))):
            pictures, mel, labels = reel.whole(index)
            found, hits, told = self.model.judge(pictures.to(self.device), labels)
            found = found.cpu()[:, : mel.shape[1]]
            errors.append(l1_loss(found, mel).item())
            heard, true = (onsets_of_mel(picture[0].numpy(), self.system.mel).tolist() for picture in (found, mel))
            onsets += score_onsets(heard, true, 0.05)
            if labels is None or not told:
                continue
            decisions += score_onsets(self._times(hits), self._times(np.flatnonzero(labels.onset[0])), 0.1)
            for name, values in told.items():
                right.setdefault(name, []).extend(values)
        self.model.train()
        figures = {"valid_loss": float(np.mean(errors)) if errors else 0.0, "onset_f1": onsets.f1}
        if right:
            figures["told_f1"] = decisions.f1
        return figures | {f"valid_{name}": float(np.mean(values)) for name, values in right.items() if values}

    def _times(self, frames: Sequence[int] | np.ndarray) -> list[float]:
        return [float(frame) / self.system.frame_rate for frame in frames]

    def state(self) -> dict[str, Any]:
        """All that is needed to go on, plain values and tensors."""
        return {
            "identity": self._identity,
            "done": self.done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken.

        Raises:
            OptionError: it is of a run with other settings.
        """
        if state.get("identity") != self._identity:
            raise OptionError(
                "the run that was stopped had other settings or data; give the same ones, or another file"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = state["done"]

    def start(self, state: dict[str, Any]) -> None:
        """Begin with what ``state`` of another run has learned: tower and heads, not its optimizer, not its step.

        Raises:
            OptionError: its networks are others.
        """
        try:
            self.model.load_state_dict(state["model"])
        except (KeyError, RuntimeError) as error:
            raise OptionError("the run to start from has other networks") from error

    def _share(self, step: int) -> float:
        """Of the highest learning rate: linear warm-up, then half a cosine."""
        warmup, steps = self.settings.warmup, self.settings.steps
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + float(np.cos(np.pi * (step - warmup) / max(steps - warmup, 1))))


def mel_frames(system: SystemConfig) -> int:
    """Mel frames to a picture.

    Raises:
        OptionError: it is not a whole number.
    """
    exact = system.mel.sample_rate / system.mel.hop / system.frame_rate
    if round(exact) < 1 or abs(exact - round(exact)) > 1e-6:
        raise OptionError(
            f"frame_rate is {system.frame_rate:g}, {exact:g} mel frames to a picture; a whole number is needed"
        )
    return round(exact)
