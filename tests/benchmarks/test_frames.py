"""The clips that reading frames is measured with are as x264 and ffmpeg make them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import av

from vta_rt.video.thinning import _units


def test_a_frame_is_one_slice(load_script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """PyAV by itself would cut it into one for each of the machine's cores."""
    clip = load_script("frames").make_clip(tmp_path / "clip.mp4", (320, 240), 1)
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        extradata = stream.codec_context.extradata
        packets = [packet for packet in container.demux(stream) if packet.size]
        slices = [sum(unit & 31 in (1, 5) for unit in _units(packet, extradata)) for packet in packets]
    assert slices == [1] * 25
