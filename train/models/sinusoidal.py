"""A vocoder of oscillators and filtered noise: pitch is read off the mel, levels are learned.

Each mel band has one oscillator, for the partial in that band. Its frequency follows from the ratio of the neighbouring
bands, which a table inverts exactly for a lone partial; its phase is the running sum of its frequency, so a tone keeps its
pitch however long it lasts. (A network of convolutions alone, such as HiFi-GAN, repeats itself every hop while the mel
does not change, and so makes only multiples of the frame rate.) A small network over the mel corrects frequencies where
partials crowd, and sets the levels of each band's partial and noise, four times a frame.

Sinusoids plus noise: Serra and Smith, "Spectral modeling synthesis", 1990; learned controls: DDSP, arXiv 2001.04643.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.models.config import MelConfig
from train.models.mel import log_mel, mel_filters

STEPS_PER_FRAME = 4  # levels are set so often; S in shapes
KNOTS = 13  # of the table from the ratio of a band's neighbours to the partial's offset
MAX_OFFSET = 0.75  # of a partial from its band's centre, in distances of bands
PHASE_STEP = 2.0**-23  # of a cycle: the finest phase that float32 tells apart
NOISE_FRAMES = 128  # after which the noise repeats itself
MAX_LOG_AMPLITUDE = 1.0  # logarithm of the highest amplitude of a partial
NEIGHBOUR_SUPPRESSION = 4.0  # how much a band next to a louder one is turned down, before anything is learned
MAX_LOG_RATIO = 5.0  # logarithm of a neighbour's magnitude over a band's, beyond which it counts no more
INITIAL_NOISE = -2.0  # log level of noise before anything is learned, relative to a mel of noise alone


@dataclass(frozen=True)
class Controls:
    """What the oscillators and the noise are set to."""

    offset: Tensor  # of each band's partial from the band's centre, in distances of bands; [B, T, bins]
    partials: Tensor  # log amplitudes [B, T, bins, S]
    noise: Tensor  # log standard deviations [B, T, bins, S]


class SinusoidalVocoder(nn.Module):
    """Log-mel [B, T, bins] -> wave [B, T * hop] in float32.

    A new one has no tables: call ``fit_tables``, or load its state. Phases are always computed in float32; the mel should be
    float32 too, for frequencies are read off it.

    Args:
        bins, hop: of the mel analysis.
        width, layers: of the network that sets the controls.
    """

    centre: Tensor
    spacing: Tensor
    knots: Tensor
    gain: Tensor
    noise_gain: Tensor
    noise: Tensor
    synthesis: Tensor
    spread: Tensor

    def __init__(self, bins: int, hop: int, width: int = 24, layers: int = 4) -> None:
        super().__init__()
        if hop % STEPS_PER_FRAME:
            raise ValueError(f"a hop of {hop} samples does not divide into {STEPS_PER_FRAME}")
        self.bins, self.hop = bins, hop
        window = 2 * hop // STEPS_PER_FRAME
        points = window // 2 + 1
        tables = {
            "centre": (bins,),  # of each band, in cycles a sample
            "spacing": (bins,),  # to the bands beside it, in cycles a sample
            "knots": (bins, KNOTS),  # ``_compare_neighbours`` of partials from -MAX_OFFSET to MAX_OFFSET
            "gain": (bins, 3),  # parabola: log of amplitude over magnitude, by offset
            "noise_gain": (bins,),  # log of std over magnitude, of white noise
            "noise": (NOISE_FRAMES * STEPS_PER_FRAME, 2 * points),  # spectra of white noise, real parts then imaginary
            "synthesis": (2 * points, window),  # inverse Fourier transform and window
            "spread": (bins, points),  # bands to points of those spectra
        }
        for name, shape in tables.items():
            self.register_buffer(name, torch.zeros(shape))
        self.levels = _ControlNetwork(width, layers)

    def forward(self, mel: Tensor) -> Tensor:
        return self.synthesize(self.predict_controls(mel))

    def predict_controls(self, mel: Tensor) -> Controls:
        """The controls for a log-mel [B, T, bins]."""
        mel = mel.float()
        alone = self.estimate_offset(mel)
        shift, partials, noise = self.levels(mel, alone)
        offset = (alone + shift).clamp(-MAX_OFFSET, MAX_OFFSET)
        return Controls(offset, self._base_amplitude(mel, offset.detach()) + partials, self._base_noise(mel) + noise)

    def synthesize(self, controls: Controls) -> Tensor:
        """The wave [B, T * hop]. Gradients pass through levels only: those through phases would mean nothing."""
        offset = self.spacing * controls.offset.detach()
        tones = self.synthesize_partials(self.centre, offset, controls.partials.clamp(max=MAX_LOG_AMPLITUDE).exp())
        return tones + self.synthesize_noise(controls.noise)

    def _base_amplitude(self, mel: Tensor, offset: Tensor) -> Tensor:
        """Log amplitude that gives each band its magnitude, reduced where a neighbour is louder: [B, T, bins, 1]."""
        constant, slope, bend = self.gain.unbind(-1)
        amplitude = mel + constant + offset * (slope + offset * bend)
        return (amplitude - NEIGHBOUR_SUPPRESSION * functional.relu(_find_louder_neighbour(mel) - mel))[..., None]

    def _base_noise(self, mel: Tensor) -> Tensor:
        return (mel + self.noise_gain + INITIAL_NOISE)[..., None]

    def estimate_offset(self, mel: Tensor) -> Tensor:
        """The offset of each band's partial if it is alone, from -MAX_OFFSET to MAX_OFFSET: [B, T, bins]."""
        widths = self.knots.diff(dim=-1)
        steps = torch.minimum((_compare_neighbours(mel)[..., None] - self.knots[:, :-1]).clamp(min=0), widths)
        return (steps / widths).sum(-1) * (2 * MAX_OFFSET / (KNOTS - 1)) - MAX_OFFSET

    def synthesize_partials(self, centre: Tensor, offset: Tensor, amplitude: Tensor) -> Tensor:
        """Oscillators [B, T * hop], each band's at the frequency ``centre`` [bins] + ``offset`` [B, T, bins].

        Both in cycles a sample; amplitude [B, T, bins, S]. Offset and amplitude are interpolated linearly (McAulay and
        Quatieri, 1986). Cycles are summed as integer multiples of ``PHASE_STEP``: a sum of floats would lose precision with
        its length, and differently on each runtime.
        """
        following = torch.cat([offset[:, 1:], offset[:, -1:]], dim=1)
        advance = _wrap((offset + following) * (self.hop / 2) + _wrap(centre * self.hop))  # cycles a frame
        steps = (advance / PHASE_STEP).round().long()
        start = (steps.cumsum(1) - steps).remainder(round(1 / PHASE_STEP)).float() * PHASE_STEP
        step = torch.arange(self.hop, device=offset.device, dtype=torch.float32)  # [hop]
        phase = (
            start[..., None]
            + _wrap(centre[:, None] * step)
            + offset[..., None] * step
            + (following - offset)[..., None] * (step * step / (2 * self.hop))
        )  # [B, T, bins, hop] cycles
        wave = torch.sin(_wrap(phase) * (2 * math.pi))
        return (wave * self._interpolate(amplitude)).sum(2).flatten(1)

    def _interpolate(self, amplitude: Tensor) -> Tensor:
        """[B, T, bins, S] -> [B, T, bins, hop], linearly."""
        first_of_next = torch.cat([amplitude[:, 1:, :, :1], amplitude[:, -1:, :, -1:]], dim=1)
        following = torch.cat([amplitude[..., 1:], first_of_next], dim=-1)
        fraction = torch.arange(self.hop // STEPS_PER_FRAME, device=amplitude.device) / (self.hop // STEPS_PER_FRAME)
        return (amplitude[..., None] + (following - amplitude)[..., None] * fraction).flatten(3)

    def synthesize_noise(self, level: Tensor) -> Tensor:
        """Noise [B, T * hop] of log standard deviations [B, T, bins, S], in windows that overlap by half."""
        level = level.transpose(2, 3).flatten(1, 2)  # [B, T * S, bins]
        level = torch.cat([level, level[:, -1:]], dim=1)
        gain = (level @ self.spread).clamp(max=MAX_LOG_AMPLITUDE).exp()
        rows = torch.arange(level.shape[1], device=level.device) % self.noise.shape[0]
        windows = (torch.cat([gain, gain], dim=-1) * self.noise[rows]) @ self.synthesis  # [B, T * S + 1, window]
        half = self.hop // STEPS_PER_FRAME
        return (windows[:, :-1, half:] + windows[:, 1:, :half]).flatten(1)

    @torch.no_grad()
    def fit_tables(self, mel: MelConfig, seed: int = 0) -> None:
        """Fill the tables for a mel analysis; ``mel.bins`` and ``mel.hop`` are the module's own."""
        centre, spacing = _measure_bands(mel)
        self.centre.copy_(centre / mel.sample_rate)
        self.spacing.copy_(spacing / mel.sample_rate)
        self._fit_partials(dataclasses.replace(mel, floor=1e-7))  # lone tones leave most bands empty
        self._fit_noise(mel, centre, torch.Generator().manual_seed(seed))

    def _fit_partials(self, mel: MelConfig) -> None:
        """Measure lone tones at every knot of every band."""
        offsets = torch.linspace(-MAX_OFFSET, MAX_OFFSET, KNOTS)
        frequency = (self.centre[:, None] + self.spacing[:, None] * offsets).clamp(1e-4, 0.4999).flatten()
        samples = torch.arange(2 * mel.window)
        middle = mel.window // mel.hop
        analysed = torch.cat(
            [
                log_mel(0.5 * torch.sin(2 * math.pi * part[:, None] * samples), mel)[:, middle]
                for part in frequency.split(64)
            ]
        ).view(self.bins, KNOTS, self.bins)
        band = torch.arange(self.bins)
        own, ratios = analysed[band, :, band], _compare_neighbours(analysed)[band, :, band]  # [bins, KNOTS]
        rising = torch.arange(KNOTS) * 1e-3  # where the ends of the lowest and highest bands bend back
        self.knots.copy_(ratios.cummax(1).values + rising)
        powers = torch.stack([offsets**0, offsets, offsets**2], dim=-1)  # [KNOTS, 3]
        self.gain.copy_((math.log(0.5) - own) @ torch.linalg.pinv(powers).T)

    def _fit_noise(self, mel: MelConfig, centre: Tensor, generator: torch.Generator) -> None:
        white = torch.randn(1, 4 * mel.sample_rate, generator=generator) * 0.1
        self.noise_gain.copy_(math.log(0.1) - log_mel(white, mel)[0].mean(0))
        window = self.synthesis.shape[1]
        spectra = torch.fft.rfft(torch.randn(len(self.noise), window, generator=generator))
        self.noise.copy_(torch.cat([spectra.real, spectra.imag], dim=-1))
        points = torch.eye(self.spread.shape[1])
        parts = torch.complex(points, 0 * points), torch.complex(0 * points, points)
        inverse = torch.cat([torch.fft.irfft(part, window) for part in parts])  # [2 * points, window]
        self.synthesis.copy_(inverse * torch.hann_window(window).sqrt())  # squares of halves add up to one
        place = torch.linspace(0, mel.sample_rate / 2, len(points))
        upper = torch.searchsorted(centre, place).clamp(1, self.bins - 1)
        fraction = ((place - centre[upper - 1]) / (centre[upper] - centre[upper - 1])).clamp(0, 1)
        column = torch.arange(len(points))
        self.spread.zero_()
        self.spread[upper - 1, column] = 1 - fraction
        self.spread[upper, column] += fraction


class _ControlNetwork(nn.Module):
    """Corrections to the offsets of partials [B, T, bins] and to the levels of partials and noise [B, T, bins, S].

    All zero before it has learned. Offsets need them where two partials share a band or its neighbour.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, (3, 5), padding=(1, 2))
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(layers))
        self.last = nn.Conv2d(width, 2 * STEPS_PER_FRAME, 1)
        self.shift = nn.Conv2d(width, 1, 1)
        for module in (self.last, self.shift):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)

    def forward(self, mel: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dtype = self.last.weight.dtype
        band = torch.linspace(-1, 1, mel.shape[2], device=mel.device).expand_as(mel)
        value = self.first(torch.stack([(mel + 5) / 2, offset, band], dim=1).to(dtype))  # [B, width, T, bins]
        for block in self.blocks:
            value = value + block(functional.gelu(value))
        value = functional.gelu(value)
        partials, noise = self.last(value).float().permute(0, 2, 3, 1).chunk(2, dim=-1)
        return self.shift(value).float().squeeze(1), partials, noise


def _wrap(cycles: Tensor) -> Tensor:
    """Without full cycles, which cost precision and cannot be heard: -0.5 to 0.5."""
    return cycles - cycles.detach().round()


def _measure_bands(mel: MelConfig) -> tuple[Tensor, Tensor]:
    """Centres of the mel filters and mean distances to the neighbours', Hz [bins] each."""
    filters = mel_filters(mel)  # [window / 2 + 1, bins]
    frequency = torch.linspace(0, mel.sample_rate / 2, len(filters))
    centre = (filters * frequency[:, None]).sum(0) / filters.sum(0)
    gaps = centre.diff()
    return centre, (torch.cat([gaps[:1], gaps]) + torch.cat([gaps, gaps[-1:]])) / 2


def _compare_neighbours(mel: Tensor) -> Tensor:
    """The magnitude of the band above minus that of the band below, over the band's own; [..., bins] of the log-mel."""
    above = torch.cat([mel[..., 1:], mel[..., -1:]], dim=-1)
    below = torch.cat([mel[..., :1], mel[..., :-1]], dim=-1)
    return (above - mel).clamp(max=MAX_LOG_RATIO).exp() - (below - mel).clamp(max=MAX_LOG_RATIO).exp()


def _find_louder_neighbour(mel: Tensor) -> Tensor:
    """The louder of the two bands beside each, [B, T, bins]; nothing lies beyond the first and the last."""
    padded = functional.pad(mel, (1, 1), value=-1e3)
    return torch.maximum(padded[..., 2:], padded[..., :-2])
