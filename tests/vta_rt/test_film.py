"""Videos longer than the model's window, with a micro model whose window is 0.64 s."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import relative_error
from tests.vta_rt.conftest import make_clip
from vta_rt.audio import Audio
from vta_rt.errors import OptionError
from vta_rt.pipeline import Pipeline
from vta_rt.video import Frames, Video
from vta_rt.windows import Windows

QUICK: dict[str, Any] = {"steps": 2, "guidance": 2.0, "seed": 3}
SECONDS, RATE = 2.77, 16000


@pytest.fixture(scope="module")
def pipeline(bundle_short: Path) -> Pipeline:
    return Pipeline(bundle_short)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = 277
    return make_clip(tmp_path_factory.mktemp("film") / "film.mp4", seconds=frames / 100, frame_rate=100)


@pytest.fixture(scope="module")
def whole(pipeline: Pipeline, film: Path) -> np.ndarray:
    return pipeline.generate(film, **QUICK).samples


def test_a_stream_is_the_sound_in_pieces(pipeline: Pipeline, film: Path, whole: np.ndarray) -> None:
    assert len(whole) == round(SECONDS * RATE)
    reported: list[tuple[str, int, int]] = []
    stream = pipeline.stream(film, progress=lambda *told: reported.append(told), **QUICK)
    chunks = [next(stream)]
    assert reported[-1][1] < reported[-1][2] / 2  # the first is there long before the end
    chunks += stream
    assert len(chunks) == len(Windows(pipeline.model, pipeline.frames, SECONDS))
    np.testing.assert_array_equal(np.concatenate([chunk.samples for chunk in chunks]), whole)
    done = [told[1] for told in reported if told[0] == "windows"]
    assert done == sorted(done)
    assert done[-1] == reported[-1][2]


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.3), (1.0, 1.01), (0.9, 2.2), (2.5, None), (None, 9.0)])
@pytest.mark.parametrize("sampling", [{}, {"solver": "lcm", "steps": 5}, {"solver": "dpmpp_2m", "steps": 7}], ids=str)
def test_a_section_is_what_it_is_in_the_whole(
    pipeline: Pipeline, film: Path, whole: np.ndarray, start: float | None, end: float | None, sampling: dict[str, Any]
) -> None:
    if sampling:
        whole = pipeline.generate(film, **QUICK | sampling).samples
    section = pipeline.generate(film, start=start, end=end, **QUICK | sampling).samples
    expected = whole[round((start or 0) * RATE) : round(min(end or 9, SECONDS) * RATE)]
    np.testing.assert_array_equal(section, expected)


def test_a_section_of_a_short_video(pipeline: Pipeline, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", seconds=0.48)
    samples = pipeline.generate(clip, **QUICK).samples
    np.testing.assert_array_equal(pipeline.generate(clip, start=0.1, end=0.2, **QUICK).samples, samples[1600:3200])
    assert [len(chunk) for chunk in pipeline.stream(clip, **QUICK)] == [7680]


def test_a_redone_section_leaves_the_rest(pipeline: Pipeline, film: Path, whole: np.ndarray) -> None:
    section = pipeline.generate(film, start=1.0, end=2.0, **QUICK | {"seed": 4})
    samples = Audio(whole, RATE).splice(section, 1.0).samples
    np.testing.assert_array_equal(samples[:16000], whole[:16000])
    np.testing.assert_array_equal(samples[32000:], whole[32000:])
    np.testing.assert_array_equal(samples[16400:31600], section.samples[400:-400])
    assert relative_error(samples[16000:32000], whole[16000:32000]) > 0.1
    with pytest.raises(OptionError, match=r"the section ends at 3.00 s, the sound that it is to be in at 2.77 s"):
        Audio(whole, RATE).splice(section, 2.0)


def test_a_video_may_come_in_any_form_and_beside_others(pipeline: Pipeline, film: Path, whole: np.ndarray) -> None:
    with Video(film) as video, film.open("rb") as file:
        frames = Frames(np.zeros((60, 48, 64, 3), np.uint8), fps=25)
        sounds = pipeline.generate([film, video, file, film.read_bytes(), frames], **QUICK)
    for sound in sounds[:4]:
        np.testing.assert_array_equal(sound.samples, whole)
    assert len(sounds[4]) == 2.4 * RATE


def test_frames_are_read_once_and_the_latents_of_neighbours_agree(
    pipeline: Pipeline, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vta_rt.film as module

    read, held = [], []
    take = module.Film._window_frames

    def count(self: Any, index: int) -> np.ndarray:
        frames = take(self, index)
        read.append(self._first + len(self._queue))
        held.append((len(self._queue), max(len(states) for states in self._states)))
        return frames

    monkeypatch.setattr(module.Film, "_window_frames", count)
    pipeline.generate(film, **QUICK)
    windows = Windows(pipeline.model, pipeline.frames, SECONDS)
    assert read == sorted(read)
    assert len(read) == len(windows)  # each window's once, in order
    assert max(queued for queued, _ in held) <= pipeline.model.frame_count(pipeline.frames)
    assert max(states for _, states in held) <= 2 * 4 + 1  # however long the film
