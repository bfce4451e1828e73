"""Timestamps of copied packets, on tables of numbers alone."""

from __future__ import annotations

from fractions import Fraction

import pytest

from vta_rt.video.packets import FINER, Clock, CopyPlan, Row, Shown, plan_copy

B_FRAMES = [(0, -1), (3, 0), (1, 1), (2, 2), (6, 3), (4, 4), (5, 5)]  # (pts, dts) of I P B B P B B


def rows(*stamps: tuple[int | None, int | None], scale: int = 10, keys: tuple[int, ...] = (0,)) -> list[Row]:
    return [
        Row(None if pts is None else pts * scale, None if dts is None else dts * scale, scale, index in keys, False)
        for index, (pts, dts) in enumerate(stamps)
    ]


def plan(
    table: list[Row], first: int = 0, shown: Shown | None = None, flash: int | None = None, end: int | None = None
) -> CopyPlan:
    result = plan_copy(table, first, shown, 10, flash=flash, end=end)
    kept = [(pts, dts) for pts, dts, copied in zip(result.pts, result.dts, result.copied, strict=True) if copied]
    decoding = [dts for _, dts in kept]
    assert decoding == sorted(set(decoding))
    assert all(dts <= pts for pts, dts in kept)
    assert len({pts for pts, _ in kept}) == len(kept)
    shown_at = sorted(pts for pts, copied in zip(result.pts, result.copied, strict=True) if copied)
    ends = {pts + duration for pts, duration in zip(result.pts, result.durations, strict=True)}
    assert ends.issuperset(shown_at[1:])
    return result


def hide(table: list[Row], *indices: int) -> list[Row]:
    return [row._replace(is_discard=index in indices) for index, row in enumerate(table)]


def units(times: list[int]) -> list[float]:
    return [time / FINER for time in times]


def test_good_timestamps_stay() -> None:
    table = rows(*B_FRAMES)
    result = plan(table)
    assert units(result.pts) == [row.pts for row in table]
    assert units(result.dts) == [row.dts for row in table]
    assert units(result.durations) == [10] * 7
    assert (result.start, result.end, result.hidden, all(result.copied)) == (0, 70 * FINER, 0, True)
    assert not result.is_fine


@pytest.mark.parametrize("first", [5, 26 * 3600 * 9000, -1000])
def test_any_clock(first: int) -> None:
    result = plan(rows(*((pts + first, dts + first) for pts, dts in B_FRAMES)))
    assert units([result.start, result.end]) == [10 * first, 10 * first + 70]


@pytest.mark.parametrize(
    ("stamps", "shown_at"),
    [
        ([(0, 0), (1, 1), (1, 1), (3, 3)], [0, 10, 10 + 1 / FINER, 30]),  # one twice
        ([(0, 0), (1, 1), (1, 1), (1, 1)], [0, 10, 10 + 1 / FINER, 10 + 2 / FINER]),
        ([(0, None), (1, None), (2, None), (3, None)], [0, 10, 20, 30]),
        ([(0, 0), (1, 2), (2, 1), (3, 3)], [0, 10, 20, 30]),  # decoding times go back
        ([(0, 1), (1, 2), (2, 3), (3, 4)], [0, 10, 20, 30]),  # decoded after it is shown
    ],
)
def test_timestamps_are_put_right(stamps: list[tuple[int, int | None]], shown_at: list[float]) -> None:
    assert units(plan(rows(*stamps)).pts) == shown_at


def test_the_decoder_says_when_a_frame_is_shown() -> None:
    table = rows(*((None, index) for index in range(7)))
    shown = Shown({index: 10 * pts for index, (pts, _) in enumerate(B_FRAMES)}, 70)
    result = plan(table, shown=shown)
    assert units(result.pts) == [10 * pts for pts, _ in B_FRAMES]
    assert units(result.dts) == [-10, 0, 10, 20, 30, 40, 50]


def test_the_second_field_of_a_frame_follows_the_first() -> None:
    result = plan(rows(*((None, index) for index in range(4))), shown=Shown({0: 0, 2: 20}, 40))
    assert units(result.pts) == [0, 5, 20, 25]


def test_a_long_frame_after_a_gap() -> None:
    """A frame that is decoded before a gap and shown after it does not last as long as the gap."""
    table = rows((0, -1), (103, 0), (1, 1), (2, 2), (106, 103), (104, 104), (105, 105))
    table = [row._replace(duration=1010) if index == 3 else row for index, row in enumerate(table)]
    result = plan(table)
    assert units(result.durations) == [10, 10, 10, 1010, 10, 10, 10]
    assert result.end == 1070 * FINER


def test_what_cannot_be_decoded_is_left_out() -> None:
    before, after = [(8, 1), (6, 2), (7, 3)], [(pts + 12, dts + 5) for pts, dts in B_FRAMES]
    result = plan(rows(*before, *after, keys=(3,)), first=3)
    assert result.copied == [False] * 3 + [True] * 7
    assert result.start == 120 * FINER
    # Frames that are shown before the key frame and refer to frames that are not there.
    leading = [(12, 1), (10, 2), (11, 3), (15, 4), (13, 5), (14, 6)]
    assert plan(rows(*leading)).copied == [True, False, False, True, True, True]


def test_a_hidden_start_is_copied_where_it_stays_hidden() -> None:
    table = hide(rows(*((pts - 3, dts - 3) for pts, dts in B_FRAMES)), 0, 2, 3)
    result = plan(table, first=1)
    assert (result.start, result.end, result.hidden) == (0, 40 * FINER, 3)
    assert units(result.pts) == [row.pts for row in table]
    shortened = plan(table, first=1, flash=1)
    assert (shortened.start, shortened.end, shortened.hidden) == (0, 40 * FINER, 3)
    assert units(sorted(shortened.pts)[:4]) == [-3, -2, -1, 0]


def test_a_hidden_end_is_left_out_but_for_what_is_referred_to() -> None:
    result = plan(hide(rows(*B_FRAMES), 4, 6))  # the last frame that is shown is that of packet 5, at 40
    assert result.copied == [True] * 6 + [False]
    assert result.end == 50 * FINER
    assert result.pts[4] == result.end - 1  # packet 4 is shown after it, as the decoder gives it, and not to be seen
    assert result.hidden == 0
    assert plan(hide(rows(*B_FRAMES), 4, 6), end=47).end == 47 * FINER


def test_hidden_frames_in_the_middle() -> None:
    """A second edit that begins between keyframes."""
    first = [(0, 0), (1, 1), (2, 2)]
    hidden, second = [(1, 3), (2, 4)], [(3, 5), (4, 6)]
    result = plan(hide(rows(*first, *hidden, *second, keys=(0, 3)), 3, 4))
    assert units(result.pts[:3] + result.pts[5:]) == [0, 10, 20, 30, 40]
    assert result.pts[3:5] == [30 * FINER - 2, 30 * FINER - 1]


@pytest.mark.parametrize(
    ("stamps", "is_discontinuous", "expected"),
    [
        ([0, 10, 20, 30], True, [0, 10, 20, 30]),
        ([500, 510, 0, 10], True, [500, 510, 520, 530]),  # the clock starts again
        ([500, 510, 0, 10], False, [500, 510, 520, 530]),
        ([0, 10, 5000, 5010], True, [0, 10, 20, 30]),  # it jumps ahead
        ([0, 10, 5000, 5010], False, [0, 10, 5000, 5010]),  # a frame that stays for long
        ([500, 510, 0, 10, 20, 30, 0, 10], True, [500, 510, 520, 530, 540, 550, 560, 570]),
        ([0, 10, 9, 20], True, [0, 10, 9, 20]),  # too small a step to be a clock that starts again
    ],
)
def test_jumps_of_the_clock(stamps: list[int], is_discontinuous: bool, expected: list[int]) -> None:
    clock = Clock(
        Fraction(1, 250),
        10,
        is_discontinuous=is_discontinuous,
        max_jump=Fraction(10),
        max_step_back=Fraction(1, 10),
    )
    assert [stamp + clock.advance(stamp, stamp, 0) for stamp in stamps] == expected
