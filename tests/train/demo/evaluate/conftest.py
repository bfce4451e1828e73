"""Generated clips and a judge that has heard others, made in memory once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from train.demo.evaluate.clips import Clip, make_clip
from train.demo.evaluate.judge import Judge
from train.demo.evaluate.score import fit_judge
from train.demo.synthetic.audio import synthesise
from train.demo.synthetic.dataset import ground_truth
from train.demo.synthetic.scene import compose


def make_clips(seed: int, kinds: Sequence[str], seconds: float = 5.12) -> list[Clip]:
    """One clip of each kind of scene named."""
    clips = []
    for index, kind in enumerate(kinds):
        rng = np.random.default_rng([seed, index])
        scene = compose(rng, seconds, kind)
        clips.append(make_clip(ground_truth(scene), synthesise(scene, rng), f"{index:06}", index))
    return clips


@pytest.fixture(scope="session")
def clips() -> list[Clip]:
    """26 clips of all kinds, none of which the judge knows."""
    return make_clips(11, ["bounce", "strike"] * 8 + ["spin"] * 3 + ["mixed"] * 5 + ["nothing"] * 2)


@pytest.fixture(scope="session")
def judge() -> Judge:
    return fit_judge(make_clips(12, ["bounce", "strike", "bounce", "strike", "mixed"] * 24))


@pytest.fixture
def make_video() -> Callable[..., Path]:
    """Writes an mp4 of 25 pictures a second; picture i is all of one grey, lighter than the one before, or as drawn."""

    def make(
        path: Path,
        *,
        seconds: float = 1.0,
        picture: Callable[[int], np.ndarray] | None = None,
        size: tuple[int, int] = (64, 48),
        audio: bool = False,
    ) -> Path:
        draw = picture or (lambda index: np.full((size[1], size[0], 3), 10 + 8 * index, np.uint8))
        with av.open(str(path), "w") as sink:
            stream = sink.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "18", "threads": "1"})
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            sound = sink.add_stream("aac", rate=16_000, layout="mono") if audio else None
            for index in range(round(seconds * 25)):
                sink.mux(stream.encode(av.VideoFrame.from_ndarray(draw(index), format="rgb24")))
            sink.mux(stream.encode(None))
            if sound is not None:
                noise = 0.1 * np.random.default_rng(0).standard_normal((1, round(seconds * 16_000)))
                samples = av.AudioFrame.from_ndarray(noise.astype(np.float32), format="fltp", layout="mono")
                samples.sample_rate = 16_000
                sink.mux(sound.encode(samples))
                sink.mux(sound.encode(None))
        return path

    return make
