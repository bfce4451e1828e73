"""What gives a wave for a clip: a bundle, a bundle deceived, the truth and the truth degraded. Knows no scores.

Everything of a bundle goes through ``vta_rt.Pipeline``, without torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import SpeechT5HifiGan
from transformers.utils import logging

from train.demo.evaluate.clips import Clip, rotated
from train.demo.synthetic.audio import SAMPLE_RATE
from train.first_stage.publish import open_vae
from train.models.config import MelConfig, VocoderConfig
from train.models.mel import log_mel
from train.models.vocoder import build_vocoder
from vta_rt import Pipeline
from vta_rt.audio import Audio
from vta_rt.errors import BundleError, VTAError
from vta_rt.sampling import Sampling
from vta_rt.video import frames_of, probe

System = Callable[[Clip], np.ndarray | None]
"""Sound for a clip, [samples] at 16 kHz; None where the system has none for it."""


@dataclass(frozen=True)
class Generated:
    """What a bundle makes of a clip's video. Clip number i of the split gets the noise of ``seed`` + i."""

    pipeline: Pipeline
    sampling: Sampling
    seed: int = 0

    def __call__(self, clip: Clip) -> np.ndarray:
        return self.pipeline.generate(clip.video, seed=self.seed + clip.index, **vars(self.sampling)).samples


@dataclass(frozen=True)
class Shuffled:
    """What a bundle makes of a clip's frames in another order: right in everything but time. Noise as ``Generated``."""

    pipeline: Pipeline
    sampling: Sampling
    seed: int = 0

    def __call__(self, clip: Clip) -> np.ndarray:
        pipeline = self.pipeline
        pictures = frames_of(clip.video, pipeline.frames, pipeline.model.seconds)
        order = np.random.default_rng([self.seed, clip.index]).permutation(len(pictures))
        tokens = pipeline.encode(pictures[order])
        latents = pipeline.denoise(tokens, seed=self.seed + clip.index, **vars(self.sampling))
        wave = pipeline.vocode(pipeline.decode(latents))[0]
        seconds = min(probe(clip.video).duration, pipeline.model.seconds)
        return Audio(wave, SAMPLE_RATE).trim(seconds).samples


class Remembered:
    """Another system's sounds, made once, since the controls need them again."""

    def __init__(self, system: System) -> None:
        self._system, self._sounds = system, dict[str, np.ndarray | None]()

    def __call__(self, clip: Clip) -> np.ndarray | None:
        if clip.name not in self._sounds:
            self._sounds[clip.name] = self._system(clip)
        return self._sounds[clip.name]


class OtherClips:
    """Another system's sounds, each for the clip before it of the same kind of scene; see ``rotated``."""

    def __init__(self, system: System, clips: Sequence[Clip]) -> None:
        self._system, self._partners = system, rotated(clips)

    def __call__(self, clip: Clip) -> np.ndarray | None:
        return self._system(self._partners[clip.name]) if clip.name in self._partners else None


@dataclass(frozen=True)
class Noise:
    """White noise, as long and as loud as another system's sound."""

    system: System
    seed: int = 0

    def __call__(self, clip: Clip) -> np.ndarray | None:
        sound = self.system(clip)
        if sound is None:
            return None
        noise = np.random.default_rng([self.seed, clip.index]).standard_normal(len(sound))
        return noise * np.sqrt(np.mean(np.square(sound, dtype=np.float64)))


def truth(clip: Clip) -> np.ndarray:
    """The true sound."""
    return clip.sound


class FirstStage:
    """The true sound through autoencoder (its latents' means) and vocoder: the best that any latents could give.

    Args:
        folder: with ``vae/`` and ``vocoder/`` as diffusers and transformers write them, and ``config.json`` for the mel
            analysis, if it is not the default one.

    Raises:
        VTAError: there is none.
    """

    def __init__(self, folder: Path) -> None:
        self._vae, self._mel = open_vae(folder), _mel_config(folder)
        self._vocoder = _open_vocoder(folder / "vocoder")

    @torch.no_grad()
    def __call__(self, clip: Clip) -> np.ndarray:
        mel = log_mel(torch.from_numpy(clip.sound)[None], self._mel)  # [1, T, bins]
        stride = 2 ** (len(self._vae.config.block_out_channels) - 1)
        mel = mel[:, : mel.shape[1] // stride * stride]
        decoded = self._vae.decode(self._vae.encode(mel[:, None]).latent_dist.mode()).sample[:, 0]
        return self._vocoder(decoded)[0, : len(clip.sound)].numpy()  # some kernels make it a little longer


def _open_vocoder(folder: Path) -> nn.Module:
    """HiFi-GAN as transformers writes it, or one of ``train.models.vocoder``'s own kinds with ``VocoderConfig`` as config.json.

    Raises:
        VTAError: neither is there, or its weights are not all there.
    """
    try:
        values = json.loads((folder / "config.json").read_text())
        if "kind" in values:
            vocoder = build_vocoder(msgspec.convert(values, VocoderConfig))
            vocoder.load_state_dict(load_file(folder / "model.safetensors"))
        else:
            vocoder = _open_hifigan(folder)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise VTAError(f"{folder.parent}: holds no vocoder ({str(error).splitlines()[0]})") from error
    return vocoder.eval()


def _open_hifigan(folder: Path) -> nn.Module:
    """Transformers would fill in missing weights by chance; the two buffers for normalised mels alone may be missing."""
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        vocoder, info = SpeechT5HifiGan.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
    if missing := set(info["missing_keys"]) - {"mean", "scale"}:
        raise ValueError(f"its weights have no {sorted(missing)[0]}")
    return vocoder


def _mel_config(folder: Path) -> MelConfig:
    path = folder / "config.json"
    if not path.is_file():
        return MelConfig()
    try:
        return msgspec.convert(json.loads(path.read_text()).get("mel", {}), MelConfig)
    except (OSError, ValueError, AttributeError) as error:
        raise VTAError(f"{path}: is no first stage's configuration ({error})") from error


def open_bundle(path: str, backend: str, threads: int | None) -> Pipeline:
    """A bundle whose sound can be scored.

    Raises:
        BundleError: it cannot be opened, or has another sample rate than the data.
    """
    pipeline = Pipeline(path, backend=backend, threads=threads)
    if pipeline.model.sample_rate != SAMPLE_RATE:
        raise BundleError(
            f"{path}: makes sound of {pipeline.model.sample_rate} Hz, only {SAMPLE_RATE} Hz can be scored"
        )
    return pipeline
