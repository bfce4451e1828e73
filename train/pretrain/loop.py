"""Regression of sound from pictures: a linear head on a tower's embeddings gives the log-mel of the same moment.

Films with their sound are enough. Where the films' events are known, the tower's verdict is taught to tell them: windows of
films teach when something is hit and what it is, glimpses of many scenes what things and hits look like, and further heads
where they lie (``labels``). Heads are thrown away; the tower goes on, frozen, into ``train.prepare`` and ``train.run``. Knows
no files, no latents and no diffusion.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss

from train.config import MotionConfig, SystemConfig, to_dict
from train.encoder import FrameEncoder
from train.motion import MotionTower, decided, with_changes
from train.onsets import OnsetScore, onsets_of_mel, score_onsets
from train.pretrain.films import Reel
from train.pretrain.glimpses import GlimpseSource
from train.pretrain.labels import HitHead, Labels, LookHead, event_loss, most_hit, struck_loss, struck_right, told
from train.pretrain.optimizer import Optimizer
from vta_rt.errors import OptionError, VTAError

CHANGE = 4.0  # weight of a log-mel's change over time beside the log-mel itself
BANDS = (1, 8, 64)  # bins averaged before changes are compared
MEL = 0.15  # weight of the log-mel beside the labels
CLIP = 2.0  # largest norm of the gradient
LOOKS = 8.0  # weight of looks beside hits in glimpses: with 1, the gradient of hits, four times theirs, drowned them
GLIMPSED = 8  # times as many glimpses as windows a step has
GLIMPSE = 6  # pictures of one, where they are taken from films
BRIEFLY = 16  # frames of a window in which it is told what is hit, about as many as that needs to see
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


class Regressor(nn.Module):
    """A motion tower and its heads: pictures [B, T, 3, S, S] -> log-mel [B, T * n, bins]."""

    def __init__(self, encoder: FrameEncoder, bins: int, per_frame: int, materials: int) -> None:
        super().__init__()
        if not isinstance(encoder.tower, MotionTower) or not isinstance(encoder.config, MotionConfig):
            raise OptionError(f"the model's frame encoder is {encoder.config.kind}; only motion is pretrained")
        if materials != encoder.config.materials:
            known = f"the events are of {materials} materials" if materials else "there are no events"
            raise OptionError(f"{known}, but model.encoder.materials is {encoder.config.materials}")
        width = encoder.config.projection
        self.tower, self.bins, self.per_frame = encoder.tower, bins, per_frame
        self.head = nn.Linear(width, per_frame * bins)
        seen = self.tower.when.gaze.in_channels
        self.looks = LookHead(seen, materials) if materials else None
        self.when_hit = HitHead(seen, materials) if materials else None
        self.what_hit = HitHead(seen, materials) if materials else None

    def forward(self, pictures: Tensor) -> Tensor:
        return self._mel(self.tower(pictures))

    def parts(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Weights of the tower's inner layers, and all other parameters: for ``Optimizer``."""
        streams = [stream for stream in (self.tower.when, self.tower.what) if stream is not None]
        hidden = [weight for stream in streams for weight in stream.inner()]
        known = {id(weight) for weight in hidden}
        return hidden, [parameter for parameter in self.parameters() if id(parameter) not in known]

    def _mel(self, embeddings: Tensor) -> Tensor:
        mel = self.head(embeddings.float()).float().unflatten(2, (self.per_frame, self.bins)).flatten(1, 2)
        return mel * 2 - 5  # about the range of log-mels

    def loss(self, pictures: Tensor, mel: Tensor | None, labels: Labels | None) -> Tensor:
        """Of windows: the sound, when something is hit, and, of those moments in which most is, what.

        What is not given does not count.
        """
        tower, verdict = self.tower, self.tower.verdict
        seen = with_changes(pictures)
        maps, gazes = tower.when.look(seen)
        when = tower.when.tell(maps, gazes)
        loss = when.new_zeros((), dtype=torch.float32)
        if labels is None or verdict is None:
            return loss if mel is None else regression_loss(self._mel(when), mel, self.per_frame)
        assert tower.what is not None
        assert self.when_hit is not None
        assert self.what_hit is not None
        if mel is not None:  # what is said of events is taken for true, so that the rest tells what they do not
            embeddings = verdict.beside(told(labels, verdict.materials, when.device), when)
            loss = MEL * regression_loss(self._mel(embeddings), mel, self.per_frame)
        loss = loss + event_loss(verdict, when, labels)
        loss = loss + self.when_hit.loss(maps, gazes, labels) + self.when_hit.speeds(maps, labels)
        starts = most_hit(labels.onset, BRIEFLY)
        labels = labels.parts(starts, BRIEFLY)
        brief = torch.stack([film[start:][:BRIEFLY] for film, start in zip(seen, starts, strict=True)])
        maps, gazes = tower.what.look(brief)
        what = tower.what.tell(maps, gazes)
        return loss + struck_loss(verdict, what, labels) + self.what_hit.loss(maps, gazes, labels)

    def glimpse(self, pictures: Tensor, labels: Labels) -> Tensor:
        """Of few pictures in a row of many scenes: what lies where, how large, what is hit.

        Looks are taught here alone: of films there are so few that they are soon known by heart. Only those pictures count
        that have one before and two after them, as ``with_changes`` wants. Of when something is hit the maps learn here, not
        the verdict: in glimpses it is more often than in films.
        """
        tower = self.tower
        assert self.looks is not None
        assert self.when_hit is not None
        assert self.what_hit is not None
        assert tower.what is not None
        assert tower.verdict is not None
        inner, seen = slice(1, -2), with_changes(pictures)
        labels = Labels(*(values[:, inner] for values in vars(labels).values()))
        maps, gazes = tower.when.look(seen)
        loss = self.when_hit.loss(maps[:, inner], gazes[:, inner], labels)
        maps, gazes = tower.what.look(seen)
        what = tower.what.tell(maps, gazes)[:, inner]
        maps, gazes = maps[:, inner], gazes[:, inner]
        loss = loss + LOOKS * self.looks.loss(maps, labels) + self.what_hit.loss(maps, gazes, labels)
        return loss + struck_loss(tower.verdict, what, labels)

    @torch.no_grad()
    def right(self, pictures: Tensor, labels: Labels) -> dict[str, list[bool]]:
        """What labels say of how much is told, hit by hit and thing by thing."""
        tower = self.tower
        if self.looks is None or tower.what is None or tower.verdict is None:
            return {}
        maps, gazes = tower.what.look(with_changes(pictures))
        return struck_right(tower.verdict, tower.what.tell(maps, gazes), labels) | self.looks.right(maps, labels)

    @torch.no_grad()
    def onsets(self, pictures: Tensor) -> list[int]:
        """Of one film [1, T, 3, S, S] the frames in which the tower decides that something is hit."""
        assert self.tower.verdict is not None
        onset, _, _ = self.tower.verdict.happening(self.tower.when(pictures))
        found: list[int] = decided(onset)[0].nonzero()[:, 0].tolist()
        return found


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
        errors, onsets, told = [], OnsetScore(), OnsetScore()
        right: dict[str, list[bool]] = {}
        for index in range(min(self.settings.validation_clips, len(reel.films))):
            pictures, mel, labels = reel.whole(index)
            pictures = pictures.to(self.device)
            found = self.model(pictures).cpu()[:, : mel.shape[1]]
            errors.append(l1_loss(found, mel).item())
            heard, true = (onsets_of_mel(picture[0].numpy(), self.system.mel).tolist() for picture in (found, mel))
            onsets += score_onsets(heard, true, 0.05)
            if labels is None or self.model.looks is None:
                continue
            rate = self.system.frame_rate
            hits = np.flatnonzero(labels.onset[0])
            told += score_onsets([frame / rate for frame in self.model.onsets(pictures)], (hits / rate).tolist(), 0.1)
            for name, values in self.model.right(pictures, labels).items():
                right.setdefault(name, []).extend(values)
        self.model.train()
        figures = {"valid_loss": float(np.mean(errors)) if errors else 0.0, "onset_f1": onsets.f1}
        if right:
            figures |= {"told_f1": told.f1} | {
                f"valid_{name}": float(np.mean(each)) for name, each in right.items() if each
            }
        return figures

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


def regression_loss(found: Tensor, true: Tensor, per_frame: int) -> Tensor:
    """Mean squared error of log-mels [B, T * n, bins], and of their change from one picture to the next.

    Sounds ring on, so that most of a spectrogram says little about the moment; its changes say when something happened.
    They are compared bin by bin and in bands up to the widest, where it does not matter what was heard.
    """
    loss = mse_loss(found, true)
    for bins in BANDS:
        change = [
            mel.unflatten(1, (-1, per_frame)).unflatten(3, (-1, bins)).mean((2, 4)).diff(dim=1) for mel in (found, true)
        ]  # [B, T - 1, bands]
        loss = loss + CHANGE * mse_loss(*change)
    return loss
