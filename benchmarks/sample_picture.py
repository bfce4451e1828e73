"""Draws what the shipped model makes of its sample clip: frames, spectrogram, true moments. Needs the extra ``train``.

    python benchmarks/sample_picture.py

Writes benchmarks/results/sample.png. The true moments stand in engines/demo/sample.json, a line of the generator's
events.jsonl.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from train.models.config import MelConfig
from train.models.mel import log_mel
from train.onsets import onsets_of_mel, score_onsets
from vta_rt import Pipeline
from vta_rt.files import atomic_write
from vta_rt.video import sample_frames

DEMO = Path(__file__).parents[1] / "engines" / "demo"
OUT = Path(__file__).parent / "results" / "sample.png"
FRAMES = 12  # of the strip above
RANGE = (-8.0, 0.5)  # of the log-mel that the colours show


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=DEMO, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE")
    options = parser.parse_args()
    video = DEMO / "sample.mp4"
    events = json.loads((DEMO / "sample.json").read_text())["events"]
    audio = Pipeline(options.bundle).generate(video, seed=options.seed)
    mel = log_mel(torch.from_numpy(audio.samples)[None], MelConfig())[0].numpy()
    found, true = onsets_of_mel(mel).tolist(), [event["time"] for event in events]
    score = score_onsets(found, true, 0.05)
    strip = sample_frames(video, FRAMES / audio.duration, 120, seconds=audio.duration)[:FRAMES]

    figure = Figure(figsize=(10, 4), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=(1, 2.4))
    top.imshow(np.concatenate(strip, axis=1))
    top.set_axis_off()
    bottom.imshow(
        mel.T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=RANGE[0],
        vmax=RANGE[1],
        extent=(0, audio.duration, 0, 64),
    )
    bottom.vlines(true, 0, 64, colors="white", linewidth=0.8, linestyles="dotted")
    for event in events:
        bottom.text(event["time"], 59, event["material"], color="white", fontsize=7, rotation=90, ha="right", va="top")
    bottom.plot(found, np.full(len(found), 62), "v", color="cyan", markersize=5)
    bottom.set(xlabel="seconds", ylabel="mel bin", xlim=(0, audio.duration), ylim=(0, 64))
    bottom.set_title(
        f"sound of vta_rt: {score.matched} of {score.true} true events (dotted) heard within 50 ms "
        f"(triangles), {score.found - score.matched} others",
        fontsize=9,
    )
    with atomic_write(options.out) as part:
        figure.savefig(part, dpi=100, metadata={"Software": None})
    print(
        f"{options.out}: {score.matched} of {score.true} events heard within 50 ms, {score.found - score.matched} others"
    )


if __name__ == "__main__":
    main()
