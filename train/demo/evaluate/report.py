"""Writes the scores: a table in Markdown, everything in JSON, and plots of spectrograms."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from train.demo.evaluate.clips import Clip
from train.demo.evaluate.score import ClipScore, Scores, mel_of
from train.onsets import onsets_of_mel
from vta_rt.errors import VTAError
from vta_rt.files import atomic_write

COLUMNS = {  # heading: (field of Scores, format, goal)
    "onset F1 ±100 ms": ("f1_100", ".3f", "≥ 0.92"),
    "±50 ms": ("f1_50", ".3f", "≥ 0.88"),
    "kind": ("kind", ".1%", "≥ 90 %"),
    "of all events": ("kind_of_all", ".1%", ""),
    "material": ("material", ".1%", ""),
    "pitch within a semitone": ("within_semitone", ".1%", "≥ 70 %"),
    "median cents": ("cents", ".0f", ""),
    "hum's pitch with speed": ("hum_pitch", ".2f", "≥ 0.70"),
    "hum's level": ("hum_level", ".2f", ""),
    "silence below events, dB": ("silence_below", ".1f", "≥ 30"),
    "log-mel distance, dB": ("mel_decibels", ".1f", ""),
}
FIGURE_PACKAGES = ("vta-rt", "numpy", "scipy", "scikit-learn", "onnxruntime", "torch")
PLOT_NEPERS = (-8.0, 0.5)  # range of log-mel magnitudes that the colours of a plot show


def table(rows: Mapping[str, Scores]) -> str:
    """A Markdown table with a line for each system and, last, the goals of a bundle."""
    lines = [["sound", *COLUMNS], ["---"] * (len(COLUMNS) + 1)]
    for name, scores in rows.items():
        values = [(getattr(scores, field), form) for field, form, _ in COLUMNS.values()]
        lines.append([name, *("n/a" if value is None else format(value, form) for value, form in values)])
    lines.append(["*goal*", *(goal for _, _, goal in COLUMNS.values())])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def versions() -> dict[str, str]:
    """Versions of the packages that the figures may depend on."""
    found = {}
    for package in FIGURE_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def document(rows: Mapping[str, Sequence[ClipScore]], pooled: Mapping[str, Scores], about: dict[str, Any]) -> str:
    """The report as JSON: what was scored and how, the pooled figures, and the scores of every clip of every system."""
    clips = {name: [asdict(score) for score in scores] for name, scores in rows.items()}
    for scores in clips.values():
        for score in scores:
            score["hum"] = score["hum"] and score["hum"]._asdict()
    content = about | {"scores": {name: asdict(scores) for name, scores in pooled.items()}, "clips": clips}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def choose_plotted(clips: Sequence[Clip], count: int) -> list[Clip]:
    """The first clips of each kind of scene in turn, those in which something happens before the silent ones."""
    seen: Counter[str] = Counter()
    ranked = []
    for clip in clips:
        ranked.append((clip.is_silent, seen[clip.kind], clip.index, clip))
        seen[clip.kind] += 1
    return [entry[-1] for entry in sorted(ranked, key=lambda entry: entry[:-1])[:count]]


def check_plotting() -> None:
    """Check that plots can be drawn, before the work that comes first.

    Raises:
        VTAError: matplotlib is missing.
    """
    if find_spec("matplotlib") is None:
        raise VTAError('matplotlib is not installed; plots need: pip install "vta-rt[train]", or --pictures 0')


def plot(path: Path, clip: Clip, waves: Mapping[str, np.ndarray]) -> None:
    """Write a PNG: a log-mel spectrogram for each wave, one above the other, with true and found events marked.

    Raises:
        OutputError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.6 * len(waves)), layout="constrained")
    axes = figure.subplots(len(waves), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, wave) in zip(axes, waves.items(), strict=True):
        mel = mel_of(wave)
        axis.imshow(
            mel.T,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=PLOT_NEPERS[0],
            vmax=PLOT_NEPERS[1],
            extent=(0, len(mel) / 100, 0, 64),
        )
        axis.vlines(clip.times, 0, 64, colors="white", linewidth=0.8, linestyles="dotted", label="true event")
        found = onsets_of_mel(mel)
        axis.plot(
            found, np.full(len(found), 62), "v", color="cyan", markersize=6, linestyle="none", label="found onset"
        )
        axis.set(title=f"{clip.name} ({clip.kind}): {name}", ylabel="mel bin", ylim=(0, 64))
    axes[-1].set_xlabel("seconds")
    axes[0].legend(loc="upper right", fontsize="small")
    with atomic_write(path) as part:
        figure.savefig(part, dpi=100, metadata={"Software": None})
