"""Windows of clips: frames, sound and labels of the same moments."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from train.data.events import LEVEL_UNIT
from train.demo.pretrain.clips import Alteration, Reel, load_frames
from train.models.config import SystemConfig
from train.models.mel import log_mel


def test_windows_of_frames_sound_and_labels_belong_together(system: SystemConfig, reels: list[Reel]) -> None:
    """Where a frame is lit, its mel frames are loud; a margin keeps the window's ends as they are in the whole clip."""
    reel = reels[0]
    frames, mel, labels = reel.batch(6, 12, np.random.default_rng(0))
    assert frames.shape == (6, 12, 3, 16, 16)
    lit = frames[:, :, 1].amax((2, 3)) > 0.4
    assert labels is not None
    assert mel is not None
    np.testing.assert_array_equal(lit.numpy(), labels.onset > 0)
    loud = mel.unflatten(1, (12, 4)).mean((2, 3)) > -4
    assert (lit == loud).float().mean() > 0.9  # an analysis window reaches over into the next frame
    every = [log_mel(torch.from_numpy(reel.clips.wave(index))[None], system.mel)[0] for index in range(len(reel.clips))]
    distances = sorted(
        (mel[0] - clip[start : start + 48]).abs().max().item() for clip in every for start in range(0, 128 - 47, 4)
    )
    assert distances[0] < 1e-4 < distances[1]


def test_a_whole_clip(reels: list[Reel]) -> None:
    frames, mel, labels = reels[0].whole(2)
    assert (frames.shape, mel.shape) == ((1, 32, 3, 16, 16), (1, 128, 64))
    assert labels is not None
    assert labels.onset.shape == (1, 32)


def test_a_clip_that_ends_early_stands_still(reels: list[Reel]) -> None:
    clips = reels[0].clips
    late = load_frames(clips, 0, 30, 4)
    torch.testing.assert_close(late[:2], load_frames(clips, 0, 30, 2))
    torch.testing.assert_close(late[2:], late[1:2].expand(2, -1, -1, -1))
    torch.testing.assert_close(load_frames(clips, 0, 40, 2), late[1:2].expand(2, -1, -1, -1))


@pytest.mark.parametrize("zoomed", [False, True])
def test_clips_are_altered_as_a_whole_and_labels_with_them(reels: list[Reel], zoomed: bool) -> None:
    frames = torch.zeros(3, 3, 80, 80)
    frames[:, :, 32:48, 24:56] = 1.0
    assert reels[0].labels is not None
    labels = reels[0].labels[0].crop(0, 3)
    labels = replace(labels, place=np.full_like(labels.place, 0.5))
    places, widths = set(), set()
    for seed in range(40):
        alteration = Alteration.draw(np.random.default_rng(seed), zoomed)
        clip = alteration.frames(frames)
        torch.testing.assert_close(clip[0], clip[2])
        low, high = clip[0, 0].min(), clip[0, 0].max()
        share = (clip[0, 0] - low) / (high - low)  # of each pixel that the shape covers
        width, height = share.max(0).values.sum().item(), share.max(1).values.sum().item()
        assert (width, height) == pytest.approx((32 * alteration.zoom, 16 * alteration.zoom), abs=0.6)
        at = torch.arange(80) + 0.5
        centre = (share.sum(0) @ at / share.sum() / 80).item(), (share.sum(1) @ at / share.sum() / 80).item()
        np.testing.assert_allclose(alteration.labels(labels).place[2, 1], centre, atol=4e-3)
        places.add(centre)
        widths.add(round(width))
    assert len(places) > 20
    assert (len(widths) > 10) == zoomed


def test_windows_from_another_distance_have_no_sound(reels: list[Reel]) -> None:
    frames, mel, labels = reels[0].batch(6, 12, np.random.default_rng(0), zoomed=True)
    assert mel is None
    assert labels is not None
    lit = frames[:, :, 1].amax((2, 3)) > 0.4
    np.testing.assert_array_equal(lit.numpy(), labels.onset > 0)


def test_what_is_seen_larger_is_larger_lower_and_louder(reels: list[Reel]) -> None:
    assert reels[0].labels is not None
    labels = reels[0].labels[0]
    larger = labels.transform(False, 2.0, 0.0, 0.0)
    hit, thing = labels.onset > 0, labels.thing >= 0
    assert hit.any()
    np.testing.assert_allclose(larger.size, labels.size + thing)
    np.testing.assert_allclose(larger.note[hit], labels.note[hit] - 12)
    np.testing.assert_allclose(larger.level[hit], labels.level[hit] + 20 * np.log10(2) / LEVEL_UNIT, rtol=1e-6)
    np.testing.assert_array_equal(larger.note[~hit], -1)
    np.testing.assert_array_equal(larger.level[~hit], 0)
    for name in ("onset", "material", "thing", "hit", "speed", "turns"):
        np.testing.assert_array_equal(getattr(larger, name), getattr(labels, name))
    assert (labels.transform(False, 1.0, 0.0, 0.0).place == labels.place)[thing].all()
