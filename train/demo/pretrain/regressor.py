"""Regression of sound from frames: a linear head on a tower's embeddings gives the log-mel of the same moment.

Clips with their sound are enough. Where the clips' events are known, the tower's verdict is taught to tell them: windows of
clips teach when something is hit and what it is, glimpses of many scenes what things and hits look like, and further heads
where they lie (``labels``). Heads are thrown away.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from train.data.events import Labels, encode_labels
from train.demo.pretrain.losses import HitHead, LookHead, event_loss, most_hit, struck_loss, struck_right
from train.models.config import MotionConfig
from train.models.encoder import FrameEncoder
from train.models.motion import MotionTower, append_differences, pick_onsets
from vta_rt.errors import OptionError

CHANGE = 4.0  # weight of a log-mel's change over time beside the log-mel itself
BANDS = (1, 8, 64)  # bins averaged before changes are compared
MEL = 0.15  # weight of the log-mel beside the labels
LOOKS = 8.0  # weight of looks beside hits in glimpses: with 1, the gradient of hits, four times theirs, drowned them
STRETCH = 16  # frames of a window in which it is told what is hit, about as many as that needs to see


class Regressor(nn.Module):
    """A motion tower and its heads: frames [B, T, 3, S, S] -> log-mel [B, T * n, bins]."""

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

    def forward(self, frames: Tensor) -> Tensor:
        return self._mel(self.tower(frames))

    def parts(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Weights of the tower's inner layers, and all other parameters: for ``MuonAdamW``."""
        streams = [stream for stream in (self.tower.when, self.tower.what) if stream is not None]
        hidden = [weight for stream in streams for weight in stream.hidden_weights()]
        known = {id(weight) for weight in hidden}
        return hidden, [parameter for parameter in self.parameters() if id(parameter) not in known]

    def _mel(self, embeddings: Tensor) -> Tensor:
        mel = self.head(embeddings.float()).float().unflatten(2, (self.per_frame, self.bins)).flatten(1, 2)
        return mel * 2 - 5  # about the range of log-mels

    def loss(self, frames: Tensor, mel: Tensor | None, labels: Labels | None) -> Tensor:
        """Of windows: the sound, when something is hit, and, of those moments in which most is, what.

        What is not given does not count.
        """
        tower, verdict = self.tower, self.tower.verdict
        seen = append_differences(frames)
        maps, gazes = tower.when.compute_maps(seen)
        when = tower.when.read_maps(maps, gazes)
        loss = when.new_zeros((), dtype=torch.float32)
        if labels is None or verdict is None:
            return loss if mel is None else regression_loss(self._mel(when), mel, self.per_frame)
        assert tower.what is not None
        assert self.when_hit is not None
        assert self.what_hit is not None
        if mel is not None:  # what is said of events is taken for true, so that the rest tells what they do not
            embeddings = verdict.append_features(encode_labels(labels, verdict.materials, when.device), when)
            loss = MEL * regression_loss(self._mel(embeddings), mel, self.per_frame)
        loss = loss + event_loss(verdict, when, labels)
        loss = loss + self.when_hit.loss(maps, gazes, labels) + self.when_hit.speeds(maps, labels)
        starts = most_hit(labels.onset, STRETCH)
        labels = labels.crop_each(starts, STRETCH)
        brief = torch.stack([clip[start:][:STRETCH] for clip, start in zip(seen, starts, strict=True)])
        maps, gazes = tower.what.compute_maps(brief)
        what = tower.what.read_maps(maps, gazes)
        return loss + struck_loss(verdict, what, labels) + self.what_hit.loss(maps, gazes, labels)

    def glimpse(self, frames: Tensor, labels: Labels) -> Tensor:
        """Of few frames in a row of many scenes: what lies where, how large, what is hit.

        Looks are taught here alone: of clips there are so few that they are soon known by heart. Only those frames count
        that have one before and two after them, as ``append_differences`` wants. Of when something is hit the maps learn
        here, not the verdict: in glimpses it is more often than in clips.
        """
        tower = self.tower
        assert self.looks is not None
        assert self.when_hit is not None
        assert self.what_hit is not None
        assert tower.what is not None
        assert tower.verdict is not None
        inner, seen = slice(1, -2), append_differences(frames)
        labels = Labels(*(values[:, inner] for values in vars(labels).values()))
        maps, gazes = tower.when.compute_maps(seen)
        loss = self.when_hit.loss(maps[:, inner], gazes[:, inner], labels)
        maps, gazes = tower.what.compute_maps(seen)
        what = tower.what.read_maps(maps, gazes)[:, inner]
        maps, gazes = maps[:, inner], gazes[:, inner]
        loss = loss + LOOKS * self.looks.loss(maps, labels) + self.what_hit.loss(maps, gazes, labels)
        return loss + struck_loss(tower.verdict, what, labels)

    @torch.no_grad()
    def judge(self, frames: Tensor, labels: Labels | None) -> tuple[Tensor, list[int], dict[str, list[bool]]]:
        """Of one clip [1, T, 3, S, S] the log-mel; the frames in which the tower decides that something is hit; and what
        labels say of how much else is told, hit by hit and thing by thing. The last two are empty where nothing is known."""
        tower = self.tower
        if labels is None or self.looks is None:
            return self(frames), [], {}
        assert tower.what is not None
        assert tower.verdict is not None
        seen = append_differences(frames)
        when = tower.when.read_maps(*tower.when.compute_maps(seen))
        maps, gazes = tower.what.compute_maps(seen)
        what = tower.what.read_maps(maps, gazes)
        onset, _, _ = tower.verdict.predict_onsets(when)
        right = struck_right(tower.verdict, what, labels) | self.looks.right(maps, labels)
        return self._mel(tower.verdict(when, what)), pick_onsets(onset)[0].nonzero()[:, 0].tolist(), right


def regression_loss(found: Tensor, true: Tensor, per_frame: int) -> Tensor:
    """Mean squared error of log-mels [B, T * n, bins], and of their change from one frame to the next.

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
