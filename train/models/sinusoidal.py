"""A vocoder of oscillators and filtered noise: pitch is read off the mel, levels are learned.

One oscillator a mel band sounds the partial that lies there. Where it lies follows from how the band's neighbours
compare, which a table inverts exactly for a lone partial; its phase is the running sum of its frequency, so a tone keeps
its pitch however long it lasts. (A network of convolutions alone, such as HiFi-GAN, repeats itself every hop while the
mel stands still, and can sound only multiples of the frame rate.) A small network over the mel picture corrects places
where partials crowd, and says how loud each band's partial and noise are, four times a frame.

Sinusoids plus noise: Serra and Smith, "Spectral modeling synthesis", 1990; learned controls: DDSP, arXiv 2001.04643.

Knows neither files nor how it is trained.
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

PARTS = 4  # of a frame, each with levels of its own
KNOTS = 13  # of the table from a band's neighbours to the place of the partial
REACH = 0.75  # how far from its centre a band's partial may lie, in distances of bands
GRAIN = 2.0**-23  # of a cycle: of phases, the finest that float32 tells apart
NOISE_FRAMES = 128  # after which the noise repeats itself
LOUDEST = 1.0  # logarithm of the highest amplitude of a partial
RIVAL = 4.0  # how much a band next to a louder one is turned down, before anything is learned
STEEPEST = 5.0  # logarithm of how much louder than a band its neighbour counts
FRESH_NOISE = -2.0  # level of noise before anything is learned, to what the mel would be if all were noise


@dataclass(frozen=True)
class Reading:
    """What a mel says is to sound.

    place: [B, T, bins], of each band's partial from the band's centre, in distances of bands. partials, noise: logarithms
    of amplitude and of deviation, [B, T, bins, PARTS].
    """

    place: Tensor
    partials: Tensor
    noise: Tensor


class SinusoidalVocoder(nn.Module):
    """Log-mel [B, T, bins] -> wave [B, T * hop] in float32.

    A new one has no tables: give it some with ``fit``, or load its state. Phases are always computed in float32; the
    mel should be float32 too, for frequencies come of it.

    Args:
        bins, hop: of the mel analysis.
        width, layers: of the network that sets levels.
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
        if hop % PARTS:
            raise ValueError(f"a hop of {hop} samples does not divide into {PARTS}")
        self.bins, self.hop = bins, hop
        window = 2 * hop // PARTS
        points = window // 2 + 1
        tables = {
            "centre": (bins,),  # of each band, in cycles a sample
            "spacing": (bins,),  # to the bands beside it, in cycles a sample
            "knots": (bins, KNOTS),  # how a band leans to its neighbours, for partials from -REACH to REACH
            "gain": (bins, 3),  # parabola: logarithm of amplitude over magnitude, by place
            "noise_gain": (bins,),  # logarithm of deviation over magnitude, of white noise
            "noise": (NOISE_FRAMES * PARTS, 2 * points),  # spectra of white noise, real parts then imaginary
            "synthesis": (2 * points, window),  # inverse Fourier transform and window
            "spread": (bins, points),  # bands to points of those spectra
        }
        for name, shape in tables.items():
            self.register_buffer(name, torch.zeros(shape))
        self.levels = _Levels(width, layers)

    def forward(self, mel: Tensor) -> Tensor:
        return self.sound(self.read(mel))

    def read(self, mel: Tensor) -> Reading:
        """What is to sound at every frame of a log-mel [B, T, bins]."""
        mel = mel.float()
        alone = self.place(mel)
        shift, partials, noise = self.levels(mel, alone)
        place = (alone + shift).clamp(-REACH, REACH)
        return Reading(place, self._amplitude(mel, place.detach()) + partials, self._breath_level(mel) + noise)

    def sound(self, reading: Reading) -> Tensor:
        """The wave [B, T * hop] of a reading. Gradients pass levels only: through phases they would tell nothing."""
        offset = self.spacing * reading.place.detach()
        tones = self.tones(self.centre, offset, reading.partials.clamp(max=LOUDEST).exp())
        return tones + self.breath(reading.noise)

    def _amplitude(self, mel: Tensor, place: Tensor) -> Tensor:
        """Logarithm of what would give each band its magnitude; less where a neighbour is louder. [B, T, bins, 1]"""
        constant, slope, bend = self.gain.unbind(-1)
        amplitude = mel + constant + place * (slope + place * bend)
        return (amplitude - RIVAL * functional.relu(_louder_neighbour(mel) - mel))[..., None]

    def _breath_level(self, mel: Tensor) -> Tensor:
        return (mel + self.noise_gain + FRESH_NOISE)[..., None]

    def place(self, mel: Tensor) -> Tensor:
        """Where each band's partial lies between its neighbours if it is alone, -REACH to REACH: [B, T, bins]."""
        widths = self.knots.diff(dim=-1)
        steps = torch.minimum((_lean(mel)[..., None] - self.knots[:, :-1]).clamp(min=0), widths)
        return (steps / widths).sum(-1) * (2 * REACH / (KNOTS - 1)) - REACH

    def tones(self, centre: Tensor, offset: Tensor, amplitude: Tensor) -> Tensor:
        """Oscillators [B, T * hop], each band's at the frequency ``centre`` [bins] + ``offset`` [B, T, bins].

        Both in cycles a sample; amplitude [B, T, bins, PARTS]. Offset and amplitude run linearly from each of their points
        to the next (McAulay and Quatieri, 1986). Cycles are summed up as whole numbers of ``GRAIN``: a sum of floats would
        lose more of them the longer it gets, and each runtime other ones.
        """
        following = torch.cat([offset[:, 1:], offset[:, -1:]], dim=1)
        advance = _part((offset + following) * (self.hop / 2) + _part(centre * self.hop))  # cycles a frame
        grains = (advance / GRAIN).round().long()
        start = (grains.cumsum(1) - grains).remainder(round(1 / GRAIN)).float() * GRAIN
        step = torch.arange(self.hop, device=offset.device, dtype=torch.float32)  # [hop]
        phase = (
            start[..., None]
            + _part(centre[:, None] * step)
            + offset[..., None] * step
            + (following - offset)[..., None] * (step * step / (2 * self.hop))
        )  # [B, T, bins, hop] cycles
        wave = torch.sin(_part(phase) * (2 * math.pi))
        return (wave * self._between(amplitude)).sum(2).flatten(1)

    def _between(self, amplitude: Tensor) -> Tensor:
        """[B, T, bins, PARTS] -> [B, T, bins, hop], linearly."""
        first_of_next = torch.cat([amplitude[:, 1:, :, :1], amplitude[:, -1:, :, -1:]], dim=1)
        following = torch.cat([amplitude[..., 1:], first_of_next], dim=-1)
        share = torch.arange(self.hop // PARTS, device=amplitude.device) / (self.hop // PARTS)
        return (amplitude[..., None] + (following - amplitude)[..., None] * share).flatten(3)

    def breath(self, level: Tensor) -> Tensor:
        """Noise [B, T * hop] of log deviations [B, T, bins, PARTS]: windows that overlap by half."""
        level = level.transpose(2, 3).flatten(1, 2)  # [B, T * PARTS, bins]
        level = torch.cat([level, level[:, -1:]], dim=1)
        gain = (level @ self.spread).clamp(max=LOUDEST).exp()
        rows = torch.arange(level.shape[1], device=level.device) % self.noise.shape[0]
        windows = (torch.cat([gain, gain], dim=-1) * self.noise[rows]) @ self.synthesis  # [B, T * PARTS + 1, window]
        half = self.hop // PARTS
        return (windows[:, :-1, half:] + windows[:, 1:, :half]).flatten(1)

    @torch.no_grad()
    def fit(self, mel: MelConfig, seed: int = 0) -> None:
        """Fill the tables for a mel analysis; ``mel.bins`` and ``mel.hop`` are the module's own."""
        centre, spacing = _bands(mel)
        self.centre.copy_(centre / mel.sample_rate)
        self.spacing.copy_(spacing / mel.sample_rate)
        self._fit_partials(dataclasses.replace(mel, floor=1e-7))  # lone tones leave most bands empty
        self._fit_noise(mel, centre, torch.Generator().manual_seed(seed))

    def _fit_partials(self, mel: MelConfig) -> None:
        """Analyse lone tones at every knot of every band."""
        places = torch.linspace(-REACH, REACH, KNOTS)
        frequency = (self.centre[:, None] + self.spacing[:, None] * places).clamp(1e-4, 0.4999).flatten()
        samples = torch.arange(2 * mel.window)
        middle = mel.window // mel.hop
        heard = torch.cat(
            [
                log_mel(0.5 * torch.sin(2 * math.pi * part[:, None] * samples), mel)[:, middle]
                for part in frequency.split(64)
            ]
        ).view(self.bins, KNOTS, self.bins)
        band = torch.arange(self.bins)
        own, lean = heard[band, :, band], _lean(heard)[band, :, band]  # [bins, KNOTS]
        rising = torch.arange(KNOTS) * 1e-3  # where the ends of the lowest and highest bands bend back
        self.knots.copy_(lean.cummax(1).values + rising)
        powers = torch.stack([places**0, places, places**2], dim=-1)  # [KNOTS, 3]
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
        share = ((place - centre[upper - 1]) / (centre[upper] - centre[upper - 1])).clamp(0, 1)
        column = torch.arange(len(points))
        self.spread.zero_()
        self.spread[upper - 1, column] = 1 - share
        self.spread[upper, column] += share


class _Levels(nn.Module):
    """Corrections to the places of partials [B, T, bins] and to the levels of partials and noise [B, T, bins, PARTS].

    None before it has learned. Two partials that share a band, or a neighbour, are what places need it for.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, (3, 5), padding=(1, 2))
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(layers))
        self.last = nn.Conv2d(width, 2 * PARTS, 1)
        self.shift = nn.Conv2d(width, 1, 1)
        for module in (self.last, self.shift):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)

    def forward(self, mel: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dtype = self.last.weight.dtype
        band = torch.linspace(-1, 1, mel.shape[2], device=mel.device).expand_as(mel)
        value = self.first(torch.stack([(mel + 5) / 2, place, band], dim=1).to(dtype))  # [B, width, T, bins]
        for block in self.blocks:
            value = value + block(functional.gelu(value))
        value = functional.gelu(value)
        partials, noise = self.last(value).float().permute(0, 2, 3, 1).chunk(2, dim=-1)
        return self.shift(value).float().squeeze(1), partials, noise


def _part(cycles: Tensor) -> Tensor:
    """Without the whole cycles, which cost precision and are not heard: -0.5 to 0.5."""
    return cycles - cycles.detach().round()


def _bands(mel: MelConfig) -> tuple[Tensor, Tensor]:
    """Centres of the mel filters and mean distances to the neighbours', Hz [bins] each."""
    filters = mel_filters(mel)  # [window / 2 + 1, bins]
    frequency = torch.linspace(0, mel.sample_rate / 2, len(filters))
    centre = (filters * frequency[:, None]).sum(0) / filters.sum(0)
    gaps = centre.diff()
    return centre, (torch.cat([gaps[:1], gaps]) + torch.cat([gaps, gaps[-1:]])) / 2


def _lean(mel: Tensor) -> Tensor:
    """Magnitude of the band above less that of the band below, over the band's own: [..., bins] of the log-mel."""
    above = torch.cat([mel[..., 1:], mel[..., -1:]], dim=-1)
    below = torch.cat([mel[..., :1], mel[..., :-1]], dim=-1)
    return (above - mel).clamp(max=STEEPEST).exp() - (below - mel).clamp(max=STEEPEST).exp()


def _louder_neighbour(mel: Tensor) -> Tensor:
    """The louder of the two bands beside each, [B, T, bins]; nothing lies beyond the first and the last."""
    padded = functional.pad(mel, (1, 1), value=-1e3)
    return torch.maximum(padded[..., 2:], padded[..., :-2])
