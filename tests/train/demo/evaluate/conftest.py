"""Generated clips and a judge that has heard others, made in memory once."""

from __future__ import annotations

from collections.abc import Sequence

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
