"""Every film of the table through our reader and muxer; ffmpeg and ffprobe judge what came out."""

from __future__ import annotations

import os
import re
import shutil
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from _pytest.mark.structures import ParameterSet

from tests.files import judge
from tests.files.films import FILMS
from tests.files.studio import BITS, Film, Studio
from vta_rt import video as videos
from vta_rt.errors import OutputError, VideoError, VTAError
from vta_rt.video import Video, VideoOptions

RATE = 16_000  # the model's; a frame of AAC is 64 ms long
MAX_OFFSET = 0.020  # seconds between a frame and its sound
TICK = 0.0016  # seconds; Matroska counts in milliseconds
CUT_SECONDS = 0.25  # of the end of a file that was cut off, where programs may differ in what they make of it
FLASH = 0.0025  # seconds that a frame which cannot be hidden may be on screen

pytestmark = [
    pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg command is not installed"),
    pytest.mark.slow,
]


@pytest.fixture
def studio(tmp_path: Path, stocked: Path) -> Studio:
    for path in stocked.iterdir():
        os.link(path, tmp_path / path.name)
    return Studio(tmp_path)


Shown = list[tuple[float, int]]


class Expected(NamedTuple):
    """What is to be seen of a film: frames from 0 on."""

    numbers: list[int] | None
    times: list[Fraction]
    end: Fraction


def expect(film: Film, path: Path) -> Expected:
    numbers = film.numbers
    if film.is_cut or numbers == "decoded":
        shown = judge.frames_shown(path)
        assert shown, "ffmpeg decodes nothing"
        if numbers == "decoded":
            times = [Fraction(time - shown[0][0]).limit_denominator(90_000) for time, _ in shown]
            return Expected([number for _, number in shown], times, times[-1] + 1 / film.rate)
        numbers = range(len(shown))  # the last ones may be damaged
    count = film.count or len(numbers or ())
    times = film.times or [Fraction(index) / film.rate for index in range(count)]
    return Expected(None if numbers is None else list(numbers), list(times), film.end or times[-1] + 1 / film.rate)


class Problems(list[str]):
    """What is wrong with a film, all of it."""

    def check(self, is_right: bool, text: str) -> None:
        if not is_right:
            self.append(text)


@contextmanager
def opened(film: Film, path: Path, out: Path) -> Iterator[Video]:
    """The film, encoded again if no container can hold a copy."""
    if not film.is_encoded:
        with Video(path) as video:
            yield video
        return
    if not videos.is_webp(path):
        with pytest.raises(OutputError, match="cannot hold"):
            videos.check_mux(path, out)
    with videos.encode_video(path, out.parent) as encoded, Video(encoded) as video:
        yield video


def row(film: Film) -> ParameterSet:
    marks = [pytest.mark.xfail(strict=True, reason=film.known)] if film.known else []
    return pytest.param(film, id=film.name, marks=marks)


@pytest.mark.parametrize("film", [row(film) for film in FILMS])
def test_film(film: Film, studio: Studio) -> None:
    film.make(studio, film.name)
    path, out = studio.folder / film.name, studio.folder / f"out{film.out}"
    if film.refused:
        before = sorted(os.listdir(studio.folder))
        for call in (
            lambda: videos.check_mux(path, out),
            lambda: videos.mux(path, np.zeros(RATE, np.float32), RATE, out),
        ):
            with pytest.raises(VTAError, match=film.refused) as caught:
                call()
            assert str(caught.value).count("\n") == 0
        assert sorted(os.listdir(studio.folder)) == before
        return
    expected, problems = expect(film, path), Problems()
    with opened(film, path, out) as video:
        videos.check_mux(video, out)
        info = videos.probe(video)
        tolerance = CUT_SECONDS if film.is_cut else TICK + 0.5 / 25 * (film.rate == 25)
        problems.check(
            abs(info.duration - expected.end) <= tolerance,
            f"probe: {info.duration:.4f} s, not {float(expected.end):.4f} s",
        )
        seen = see(video, film, expected, problems)
        click = render(video, film, expected, seen, out)
        said = video.warnings
    if film.said:
        problems.check(any(re.search(film.said, line) for line in said), f"says {said}, nothing about {film.said!r}")
    shown = judge.frames_shown(out)
    judge_frames(film, expected, shown, problems)
    judge_sound(film, expected, click, shown, out, problems)
    judge_facts(film, expected, out, problems)
    judge_kept_click(film, path, out, problems)
    if film.is_strict:
        with pytest.raises(VideoError), Video(path, VideoOptions(strict=True)) as video:
            videos.probe(video)
    assert not problems, "\n".join(["", *problems, *(f"said: {line}" for line in said)])


def see(video: Video, film: Film, expected: Expected, problems: Problems) -> list[int]:
    """The numbers that our reader sees at each multiple of 1 / sampling."""
    if not film.sample_numbers or expected.numbers is None:
        frames = videos.sample_frames(video, 10, 16, fit="squash")
        problems.check(len(frames) >= 1, "no frame was sampled")
        return []
    step = Fraction(1, film.sampling)
    seen = []
    for frame in videos.iter_frames(video, film.sampling, 16, fit="squash"):
        columns = frame.mean(axis=(0, 2)).reshape(BITS, -1).mean(axis=1)
        seen.append(int(((columns > 127) << np.arange(BITS)).sum()))
    wrong = []
    for index, number in enumerate(seen):
        time = index * step
        allowed = {
            expected.numbers[max(0, bisect_right(expected.times, time + shift) - 1)] for shift in (-step, 0, step)
        }
        if number not in allowed:
            wrong.append((float(time), number, sorted(allowed)))
    problems.check(
        len(wrong) <= (CUT_SECONDS * film.sampling if film.is_cut else 0),
        f"sampled wrong, (s, number, right): {wrong[:5]} of {len(wrong)}",
    )
    problems.check(
        abs(len(seen) * step - expected.end) <= step + (CUT_SECONDS if film.is_cut else 0.001),
        f"{len(seen)} samples at {film.sampling}/s of {float(expected.end)} s",
    )
    return seen


def render(video: Video, film: Film, expected: Expected, seen: list[int], out: Path) -> tuple[int, float] | None:
    """Put sound on the film that clicks when our reader first sees a certain frame: its number and the time."""
    duration = float(videos.probe(video).duration)
    samples = np.zeros(max(1, round(duration * RATE)), np.float32)
    click = None
    if seen and expected.numbers is not None:
        number = expected.numbers[len(expected.numbers) // 2]
        if number in seen:
            click = number, seen.index(number) / film.sampling
            at = round(click[1] * RATE)
            samples[at : at + 320] = 0.9 * np.sin(2 * np.pi * 1000 / RATE * (0.5 + np.arange(320)))[: len(samples) - at]
    videos.mux(video, samples, RATE, out)
    return click


def judge_frames(film: Film, expected: Expected, shown: Shown, problems: Problems) -> None:
    if film.flashes:
        ends = [*(time for time, _ in shown[1:]), float(expected.end)]
        shown = [(time, number) for (time, number), end in zip(shown, ends, strict=True) if end - time > FLASH]
    if not shown:
        problems.append("ffmpeg shows no frame of the result")
        return
    # Matroska cannot hide the frames before the start: they come first, for a millisecond each.
    start = shown[0][0] if film.flashes and film.out == ".mkv" else 0.0
    problems.check(abs(shown[0][0] - start) <= TICK and start < 0.1, f"the first frame is at {shown[0][0]:.4f} s")
    spread = round(CUT_SECONDS * film.rate) if film.is_cut else 0
    problems.check(
        abs(len(shown) - len(expected.times)) <= spread, f"{len(shown)} frames are shown, not {len(expected.times)}"
    )
    if expected.numbers is not None:
        numbers = [number for _, number in shown]
        wrong = [pair for pair in zip(numbers, expected.numbers, strict=False) if pair[0] != pair[1]]
        problems.check(len(wrong) <= spread, f"{len(wrong)} frames are others, (shown, right): {wrong[:4]}")
    late = [
        (float(time - start), float(right))
        for (time, _), right in zip(shown, expected.times, strict=False)
        if abs(time - start - right) > TICK + (FLASH if film.flashes else 0)
    ]
    problems.check(len(late) <= spread, f"{len(late)} frames are at other times, (s, right): {late[:4]}")


def judge_sound(
    film: Film, expected: Expected, click: tuple[int, float] | None, shown: Shown, out: Path, problems: Problems
) -> None:
    start, samples = judge.sound_heard(out)
    # What AAC's encoder puts before the sound is hidden by MP4's edit list, and lies before 0 in Matroska.
    problems.check(-1024 / RATE * (film.out == ".mkv") - 0.005 <= start <= 0.005, f"the sound starts at {start:.4f} s")
    length = len(samples) / judge.SOUND_RATE + min(0, start)
    problems.check(
        abs(length - expected.end) <= (0.3 if film.is_cut else 0.13),
        f"{length:.3f} s of sound for {float(expected.end):.3f} s",
    )
    if click is None:
        return
    seen_at = {number: time for time, number in reversed(shown)}
    offset = judge.click_of(start, samples) - seen_at.get(click[0], float("nan"))
    problems.check(abs(offset) <= MAX_OFFSET, f"frame {click[0]} is heard {offset * 1000:+.0f} ms late")


def judge_facts(film: Film, expected: Expected, out: Path, problems: Problems) -> None:
    found = judge.facts(out)
    if "error" in found:
        problems.append(f"ffprobe: {found['error']}")
        return
    longest = float(expected.end) + (0.3 if film.is_cut else 0.15) + (1 if film.click else 0)
    problems.check(
        found["duration"] <= longest, f"ffprobe: {found['duration']:.3f} s long, not {float(expected.end):.3f} s"
    )
    problems.check(-0.1 <= found["start"] <= TICK, f"ffprobe: starts at {found['start']:.4f} s")
    for name, right in film.facts.items():
        value = found.get(name)
        is_right = abs(value / right - 1) < 0.01 if isinstance(right, Fraction) and value else value == right
        problems.check(is_right, f"{name}: {value!r}, not {right!r}")


def judge_kept_click(film: Film, path: Path, out: Path, problems: Problems) -> None:
    """The film's own sound stays where it was beside the frames."""
    if film.click:
        right = judge.click_of(*judge.sound_heard(path)) - judge.frames_shown(path)[0][0]
        heard = judge.click_of(*judge.sound_heard(out, "a:1"))
        problems.check(
            abs(heard - right) <= MAX_OFFSET, f"the film's own sound clicks at {heard:.3f} s, not {right:.3f} s"
        )


HOLDERS = {".mp4": "h264 hevc vp9 av1 mpeg4 mpeg2", ".mov": "h264 hevc mpeg4 mpeg2 prores", ".webm": "vp8 vp9 av1"}
MOVED = {  # films whose clock, order or beginning is unusual, and their codecs
    **dict.fromkeys(
        ("clock_at_26h.ts", "wraps_in_the_middle.ts", "begins_mid_gop.ts", "h264_b.avi", "starts_again.ts"), "h264"
    ),
    **dict.fromkeys(
        ("fragmented.mp4", "at_10s.mkv", "trimmed_start.mp4", "varying.mp4", "rate_30000_1001.mp4"), "h264"
    ),
    "begins_mid_gop_hevc.ts": "hevc",
    "xvid_b.avi": "mpeg4",
    "dvd.mpg": "mpeg2",
    "prores.mov": "prores",
    "at_5s.webm": "vp9",
    "recorder.webm": "vp8",
    "av1.webm": "av1",
    "begins_mid_gop_vp8.webm": "vp8",
}
HELD = [
    (name, suffix)
    for name, codec in MOVED.items()
    for suffix in videos.CONTAINERS
    if suffix == ".mkv" or codec in HOLDERS[suffix].split()
]


@pytest.mark.parametrize(("name", "suffix"), HELD)
def test_sound_and_frames_together(name: str, suffix: str, studio: Studio) -> None:
    """In every container, what is heard when a frame was seen by our reader is heard when that frame is seen again."""
    film = replace(next(film for film in FILMS if film.name == name), out=suffix)
    film.make(studio, name)
    path, out, problems = studio.folder / name, studio.folder / f"out{suffix}", Problems()
    with Video(path) as video:
        expected = expect(film, path)
        click = render(video, film, expected, see(video, film, expected, problems), out)
    assert click is not None
    judge_sound(film, expected, click, judge.frames_shown(out), out, problems)
    assert not problems, "\n".join(problems)
