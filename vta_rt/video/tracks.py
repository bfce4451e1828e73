"""Which of a file's video streams is the film."""

from __future__ import annotations

from contextlib import suppress

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from vta_rt.errors import VideoError
from vta_rt.video.reader import Findings

PROBE_PACKETS = 256  # read at most to see which of several video streams moves
STILL = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


def find_track(video: Findings, container: InputContainer) -> tuple[int, bool]:
    """The index of the video stream that is meant, and whether packets were read to find it.

    Without a choice of the user's: moving frames before a still or a cover, then the default one, then the largest.
    """
    path, options = video.path, video.options
    streams = list(container.streams.video)
    if not streams or (
        options.track is None and all(stream.disposition & Disposition.attached_pic for stream in streams)
    ):
        raise VideoError(f"{path}: has no video stream" + (", only sound" if container.streams.audio else ""))
    counts: dict[int, int] = {}
    if options.track is not None:
        if options.track >= len(streams):
            raise VideoError(
                f"{path}: has {len(streams)} video streams, 0 to {len(streams) - 1}, and no track {options.track}"
            )
        chosen = streams[options.track]
    else:
        candidates = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
        counts = _count_packets(container, candidates) if len(candidates) > 1 else {}
        chosen = max(
            candidates,
            key=lambda stream: (
                stream.codec_context is not None,
                not stream.disposition & STILL and counts.get(stream.index, 2) > 1,
                bool(stream.disposition & Disposition.default),
                stream.codec_context.width * stream.codec_context.height if stream.codec_context is not None else 0,
                -stream.index,
            ),
        )
        if len(candidates) > 1:
            video.note(
                f"has {len(candidates)} video streams; track {streams.index(chosen)} is used, --video-track chooses another"
            )
    if chosen.codec_context is None:
        raise VideoError(f"{path}: its video codec is one that this FFmpeg cannot decode")
    _check_limits(video, chosen)
    return chosen.index, bool(counts)


def _count_packets(container: InputContainer, streams: list[VideoStream]) -> dict[int, int]:
    """How many packets of each stream are among the first that are read."""
    counts = dict.fromkeys((stream.index for stream in streams), 0)
    with suppress(av.FFmpegError, IndexError):
        for number, packet in enumerate(container.demux(*streams)):
            if packet.stream_index in counts:  # damaged data may add streams
                counts[packet.stream_index] += bool(packet.size)
            if number >= PROBE_PACKETS:
                break
    return counts


def _check_limits(video: Findings, stream: VideoStream) -> None:
    limits, width, height = video.options.limits, stream.codec_context.width, stream.codec_context.height
    if width * height > limits.pixels:
        raise VideoError(f"{video.path}: its frames are {width} x {height} pixels, the limit pixels is {limits.pixels}")
    if stream.average_rate and stream.average_rate > limits.frame_rate:
        raise VideoError(
            f"{video.path}: has {float(stream.average_rate):.0f} frames a second, the limit frame_rate is {limits.frame_rate}"
        )
