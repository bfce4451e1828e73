"""The clips that frames are measured with are as x264 and ffmpeg make them."""

import runpy
from pathlib import Path

import av

from vta_rt.video.thinning import _units

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_picture_is_one_slice(tmp_path: Path) -> None:
    """PyAV by itself would cut it into one for each of the machine's cores."""
    make = runpy.run_path(str(BENCHMARKS / "clips.py"))["make"]
    with av.open(str(make(tmp_path / "clip.mp4", (320, 240), 1))) as container:
        stream = container.streams.video[0]
        extradata = stream.codec_context.extradata
        packets = [packet for packet in container.demux(stream) if packet.size]
        slices = [sum(unit & 31 in (1, 5) for unit in _units(packet, extradata)) for packet in packets]
    assert slices == [1] * 25
