"""The systems that are scored, each a wave for a clip: a bundle, the true sound, and controls made from them.

Bundles run in ``vta_rt.Pipeline``, without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import SpeechT5HifiGan
from transformers.utils import logging

from train.demo.evaluate.clips import Clip, find_partners
from train.demo.synthetic.audio import SAMPLE_RATE
from train.first_stage.publish import open_vae
from train.models.config import MelConfig, VocoderConfig
from train.models.mel import log_mel
from train.models.vocoder import build_vocoder
from vta_rt import Pipeline
from vta_rt.audio import Audio
from vta_rt.documents import read_document
from vta_rt.errors import BundleError, VTAError
from vta_rt.sampling import Sampling
from vta_rt.video import frames_of, probe

System = Callable[[Clip], np.ndarray | None]
"""Sound for a clip, [samples] at 16 kHz; None where the system has none for it."""


@dataclass(frozen=True)
class Generated:
    """The sound that a bundle makes for a clip's video. Clip number i of the split gets the noise of ``seed`` + i."""

    pipeline: Pipeline
    sampling: Sampling
    seed: int = 0
    path: str = ""  # of the bundle

    def __call__(self, clip: Clip) -> np.ndarray:
        return self.pipeline.generate(clip.video, seed=self.seed + clip.index, **vars(self.sampling)).samples


class Shuffled(Generated):
    """The sound that a bundle makes for a clip's frames in a random order: right in everything but time."""

    def __call__(self, clip: Clip) -> np.ndarray:
        pipeline = self.pipeline
        frames = frames_of(clip.video, pipeline.frames, pipeline.model.seconds)
        order = np.random.default_rng([self.seed, clip.index]).permutation(len(frames))
        tokens = pipeline.encode(frames[order])
        latents = pipeline.denoise(tokens, seed=self.seed + clip.index, **vars(self.sampling))
        wave = pipeline.vocode(pipeline.decode(latents))[0]
        seconds = min(probe(clip.video).duration, pipeline.model.seconds)
        return Audio(wave, SAMPLE_RATE).trim(seconds).samples


class Cached:
    """Another system's waves, made once, since the controls need them again."""

    def __init__(self, system: System) -> None:
        self._system, self._waves = system, dict[str, np.ndarray | None]()

    def __call__(self, clip: Clip) -> np.ndarray | None:
        if clip.name not in self._waves:
            self._waves[clip.name] = self._system(clip)
        return self._waves[clip.name]


class OtherClips:
    """Another system's waves, each for the clip before it of the same kind of scene; see ``find_partners``."""

    def __init__(self, system: System, clips: Sequence[Clip]) -> None:
        self._system, self._partners = system, find_partners(clips)

    def __call__(self, clip: Clip) -> np.ndarray | None:
        return self._system(self._partners[clip.name]) if clip.name in self._partners else None


@dataclass(frozen=True)
class WhiteNoise:
    """White noise, as long and as loud as another system's sound."""

    system: System
    seed: int = 0

    def __call__(self, clip: Clip) -> np.ndarray | None:
        wave = self.system(clip)
        if wave is None:
            return None
        noise = np.random.default_rng([self.seed, clip.index]).standard_normal(len(wave))
        return noise * np.sqrt(np.mean(np.square(wave, dtype=np.float64)))


def true_sound(clip: Clip) -> np.ndarray:
    """The true sound."""
    return clip.audio


@dataclass(frozen=True)
class _StageConfig:
    """The part of a first stage's config.json that is needed here."""

    mel: MelConfig = field(default_factory=MelConfig)


class Reconstructed:
    """The true sound through the autoencoder (means of its latents) and the vocoder: the best that any latents could give.

    Args:
        folder: with ``vae/`` and ``vocoder/`` as diffusers and transformers write them, and a ``config.json`` if the mel
            analysis is not the default one.

    Raises:
        VTAError: a part is missing or cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._vae = open_vae(folder)
        config = folder / "config.json"
        self._mel = read_document(config, _StageConfig, error=VTAError).mel if config.is_file() else MelConfig()
        self._vocoder = _open_vocoder(folder / "vocoder")

    @torch.no_grad()
    def __call__(self, clip: Clip) -> np.ndarray:
        mel = log_mel(torch.from_numpy(clip.audio)[None], self._mel)  # [1, T, bins]
        stride = 2 ** (len(self._vae.config.block_out_channels) - 1)
        mel = mel[:, : mel.shape[1] // stride * stride]
        decoded = self._vae.decode(self._vae.encode(mel[:, None]).latent_dist.mode()).sample[:, 0]
        return self._vocoder(decoded)[0, : len(clip.audio)].numpy()  # some kernels make it a little longer


def _open_vocoder(folder: Path) -> nn.Module:
    """Open HiFi-GAN as transformers writes it, or a vocoder of our own, whose config.json is a ``VocoderConfig``.

    Raises:
        VTAError: there is neither, or weights are missing.
    """
    try:
        path = folder / "config.json"
        if "kind" in read_document(path, error=VTAError):
            vocoder = build_vocoder(read_document(path, VocoderConfig, error=VTAError))
            vocoder.load_state_dict(load_file(folder / "model.safetensors"))
        else:
            vocoder = _open_hifigan(folder)
    except (VTAError, OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise VTAError(f"{folder.parent}: holds no vocoder ({str(error).splitlines()[0]})") from error
    return vocoder.eval()


def _open_hifigan(folder: Path) -> nn.Module:
    """Open a HiFi-GAN. Missing weights, which transformers would draw at random, are refused, except for its mel buffers."""
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


def open_bundle(path: str, backend: str, threads: int | None) -> Pipeline:
    """Open a bundle whose sound can be scored.

    Raises:
        BundleError: it cannot be opened, or has another sample rate than the data.
    """
    pipeline = Pipeline(path, backend=backend, threads=threads)
    if pipeline.model.sample_rate != SAMPLE_RATE:
        raise BundleError(
            f"{path}: makes sound of {pipeline.model.sample_rate} Hz, only {SAMPLE_RATE} Hz can be scored"
        )
    return pipeline
