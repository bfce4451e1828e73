"""When the packets of a video stream are shown and decoded once they are copied to another file, and which are left out."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, takewhile
from typing import NamedTuple


class Row(NamedTuple):
    """A packet without its data. Times are in units of the stream's time base."""

    pts: int | None
    dts: int | None
    duration: int  # 0 if unknown
    is_keyframe: bool
    is_discard: bool  # decoded but not meant to be shown: an edit list hides it


FINER = 16  # parts of a unit of time; frames that are moved apart are moved by one


@dataclass(frozen=True)
class Shown:
    """When a decoder shows the frames of a stream, in units of the stream's time base."""

    times: dict[int, int]  # by the index of the packet
    end: int  # of the last frame


@dataclass(frozen=True)
class CopyPlan:
    """What becomes of every packet, in the order of decoding. Times are in parts of the time base, ``FINER`` a unit."""

    pts: list[int]  # when it is shown; distinct
    dts: list[int]  # when it is decoded; increasing, never after pts
    durations: list[int]  # to the next frame that is shown
    copied: list[bool]  # the others cannot be decoded, or are hidden and nothing refers to them
    start: int  # pts of the first frame that is shown: time 0
    end: int  # of the last frame that is shown
    hidden: int  # packets before the start that are copied because frames refer to them

    @property
    def is_fine(self) -> bool:
        """Whether times are used that are no multiples of the stream's own unit."""
        rows = zip(self.pts, self.dts, self.copied, strict=True)
        return any(copied and (pts % FINER or dts % FINER) for pts, dts, copied in rows)


def plan_copy(
    rows: Sequence[Row],
    first: int,
    shown: Shown | None,
    interval: int,
    *,
    flash: int | None = None,
    end: int | None = None,
) -> CopyPlan:
    """Plan the copy of a stream whose packets are ``rows``.

    Args:
        rows: in the order of decoding, at least one.
        first: index of the packet of the first frame that is shown.
        shown: for a stream whose own presentation times are incomplete or wrong; None to take those of the packets.
        interval: from one frame to the next, where nothing else says; at least 1.
        flash: how long frames before the start are shown in a file that cannot hide them, and others that are hidden; None
            for a file that hides its start, where others are shown for one part of a unit.
        end: where an edit list ends what is shown, if it does.
    """
    pts = [FINER * time for time in _fill(rows, shown, interval)]
    copied = _choose(rows, pts, first)
    places = [index for index, chosen in enumerate(copied) if chosen]
    early = [index for index in places if pts[index] < pts[first]]
    late = [index for index in places if rows[index].is_discard and index not in set(early)]
    hidden = {*early, *late}
    visible = [index for index in places if index not in hidden]
    moved = [_separate(pts, visible)]
    start, last = pts[first], max(visible, key=pts.__getitem__)
    stop = FINER * (shown.end if shown is not None else pts[last] // FINER + (rows[last].duration or interval))
    if end is not None and pts[last] < FINER * end < stop:
        stop = FINER * end
    stop = max(stop, pts[last] + 1)
    moved.append(_tuck_in(rows, pts, visible, late, stop, 1 if flash is None else FINER * flash))
    if flash is None:
        moved.append(_separate(pts, early))
    else:
        for place, index in enumerate(sorted(early, key=pts.__getitem__)):
            pts[index] = start - FINER * flash * (len(early) - place)
        moved.append(bool(early))
    dts = [None if row.dts is None else FINER * row.dts for row in rows]
    if shown is not None or any(moved) or not _are_decoding_times(dts, pts, copied):
        dts = [*_find_decoding_times(pts, copied, FINER * interval)]
    durations = [0] * len(rows)
    order = sorted(places, key=pts.__getitem__)
    for index, following in zip(
        order, [*(pts[index] for index in order[1:]), max(stop, pts[order[-1]] + 1)], strict=True
    ):
        durations[index] = following - pts[index]
    return CopyPlan(pts, [time or 0 for time in dts], durations, copied, start, stop, len(early))


def _fill(rows: Sequence[Row], shown: Shown | None, interval: int) -> list[int]:
    """The presentation time of every packet, known or made up for those that are never shown."""
    pts: list[int] = []
    for index, row in enumerate(rows):
        time = row.pts if shown is None else shown.times.get(index)
        if time is None:  # the second field of a frame, or one that cannot be decoded
            time = pts[-1] + max(1, interval // 2) if pts else row.dts or 0
        pts.append(time)
    return pts


def _choose(rows: Sequence[Row], pts: Sequence[int], first: int) -> list[bool]:
    """Leave out what cannot be decoded before the first frame, and what is hidden and not referred to.

    A hidden packet is referred to only by frames that are decoded after it and before the next keyframe, or that are shown
    before that keyframe.
    """
    key = next((index for index in range(first, -1, -1) if rows[index].is_keyframe), first)
    copied = [False] * len(rows)
    is_needed = False  # by a packet that comes later
    for index in range(len(rows) - 1, key - 1, -1):
        row = rows[index]
        is_undecodable = index > key and not row.is_discard and pts[index] < min(pts[key], pts[first])
        copied[index] = not is_undecodable and (not row.is_discard or is_needed)
        is_needed = is_needed or (copied[index] and not row.is_discard)
        if row.is_keyframe:
            following = takewhile(lambda other: not rows[other].is_keyframe, range(index + 1, len(rows)))
            is_needed = any(copied[other] and pts[other] < pts[index] for other in following)
    return copied


def _separate(pts: list[int], indices: Sequence[int]) -> bool:
    """Move frames that would be shown at the same time apart; returns whether there were any."""
    altered, previous = False, None
    for index in sorted(indices, key=pts.__getitem__):
        if previous is not None and pts[index] <= previous:
            pts[index], altered = previous + 1, True
        previous = pts[index]
    return altered


def _tuck_in(
    rows: Sequence[Row], pts: list[int], visible: Sequence[int], late: Sequence[int], end: int, flash: int
) -> bool:
    """Show hidden frames that others refer to too briefly to be seen, in the order in which a decoder gives them.

    Formats cannot hide a frame in the middle or at the end. One is moved to just before the next frame that is shown, of those
    between two keyframes, or to just after the last of them.
    """
    taken = {pts[index] for index in visible}
    times, groups = sorted(taken), [*accumulate(row.is_keyframe for row in rows)]
    shown: dict[int, list[int]] = defaultdict(list)
    for index in visible:
        insort(shown[groups[index]], pts[index])
    places: dict[int, int] = {}  # of each hidden frame: the time before which it is shown
    for index in late:
        group = shown[groups[index]]
        place = bisect_right(group, pts[index])
        if place < len(group):
            places[index] = group[place]
        else:
            places[index] = [*times, end][bisect_right(times, group[-1])] if group else times[0]
    for index in sorted(late, key=pts.__getitem__, reverse=True):
        time = places[index] - flash
        while any(other in taken for other in range(time, time + flash)):
            time -= flash
        pts[index] = time
        taken.add(time)
    return bool(late)


def _are_decoding_times(dts: Sequence[int | None], pts: Sequence[int], copied: Sequence[bool]) -> bool:
    previous = None
    for decoded, shown, chosen in zip(dts, pts, copied, strict=True):
        if not chosen:
            continue
        if decoded is None or decoded > shown or (previous is not None and decoded <= previous):
            return False
        previous = decoded
    return True


def _find_decoding_times(pts: Sequence[int], copied: Sequence[bool], interval: int) -> list[int]:
    """Decoding times for frames in the order of decoding: their own presentation times in order, as late as is needed."""
    indices = [index for index, chosen in enumerate(copied) if chosen]
    times = sorted(pts[index] for index in indices)
    rank = {time: place for place, time in enumerate(times)}
    delay = max((place - rank[pts[index]] for place, index in enumerate(indices)), default=0)
    dts = [0] * len(pts)
    for place, index in enumerate(indices):
        dts[index] = times[place - delay] if place >= delay else times[0] - (delay - place) * interval
    return dts


class Clock:
    """Takes jumps out of the timestamps of packets in the order of decoding, as FFmpeg's own copy does.

    What comes after a clock that started again continues where the clock before it stopped.

    Args:
        time_base: seconds per unit of the timestamps.
        interval: from one frame to the next, in these units.
        is_discontinuous: whether the clock of this format may jump forward too.
        max_jump, max_step_back: seconds by which decoding times may jump.
    """

    def __init__(
        self, time_base: Fraction, interval: int, *, is_discontinuous: bool, max_jump: Fraction, max_step_back: Fraction
    ) -> None:
        self.offset = 0  # added to timestamps
        self._interval = interval
        self._max_jump = max_jump / time_base if is_discontinuous else None
        self._max_step_back = max_step_back / time_base
        self._last: int | None = None
        self._step = interval

    def advance(self, dts: int | None, pts: int | None, duration: int) -> int:
        """The number to add to the next packet's timestamps."""
        if dts is None:
            return self.offset
        time = dts + self.offset
        if self._last is not None:
            step = time - self._last
            steps_back = step < -self._max_step_back and (
                pts is None or pts + self.offset < self._last - self._max_step_back
            )
            if steps_back or (self._max_jump is not None and step > self._max_jump):
                self.offset += self._last + self._step - time
                time = dts + self.offset
        self._last, self._step = time, duration or self._interval
        return self.offset
