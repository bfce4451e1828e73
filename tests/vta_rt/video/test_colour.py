"""High dynamic range: known levels of ITU-R BT.2408 and a chart encoded by the formulas of ITU-R BT.2100."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from vta_rt import video as videos

PQ, HLG, BT2020 = 16, 18, 9
BT709_TO_BT2020 = np.array(
    [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
)  # ITU-R BT.2087, table 2


def encode_pq(light: np.ndarray) -> np.ndarray:
    """Values of light in cd/m² (SMPTE ST 2084)."""
    power = (np.asarray(light, float) / 10_000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def encode_hlg(light: np.ndarray) -> np.ndarray:
    """Values of light in cd/m² on a display of 1000 cd/m² (ITU-R BT.2100)."""
    shown = np.asarray(light, float) / 1000
    luminance = np.maximum(shown @ [0.2627, 0.6780, 0.0593], 1e-9)[..., None]
    scene = shown * luminance ** ((1 - 1.2) / 1.2)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def write(path: Path, values: np.ndarray, transfer: int, primaries: int = BT2020) -> Path:
    """A lossless clip of one 10-bit RGB frame; ``values`` is [H, W, 3] in [0, 1]."""
    levels = np.ascontiguousarray(np.rint(1023 * values).astype(np.uint16))
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream("ffv1", rate=5, width=values.shape[1], height=values.shape[0], pix_fmt="gbrp10le")
        stream.codec_context.color_trc, stream.codec_context.color_primaries = transfer, primaries
        frame = av.VideoFrame(values.shape[1], values.shape[0], "gbrp10le")
        for plane, channel in zip(frame.planes, (1, 2, 0), strict=True):
            rows = np.zeros((values.shape[0], plane.line_size // 2), np.uint16)
            rows[:, : values.shape[1]] = levels[..., channel]
            plane.update(rows.tobytes())
        frame.color_trc, frame.color_primaries = transfer, primaries
        for packet in (*stream.encode(frame), *stream.encode(None)):
            sink.mux(packet)
    return path


@pytest.mark.parametrize(
    ("transfer", "value", "expected"),
    [
        (PQ, 0.58, 255),  # reference white, BT.2408 table 1
        (HLG, 0.75, 255),
        (PQ, 0.0, 0),
        (HLG, 0.0, 0),
        (PQ, 0.90, 255),  # highlights
        (HLG, 1.0, 255),
        (PQ, 0.38, 106),  # 18 % grey card at 26 cd/m²
        (HLG, 0.38, 108),
    ],
)
def test_reference_levels(tmp_path: Path, transfer: int, value: float, expected: int) -> None:
    frame = videos.sample_frames(write(tmp_path / "grey.mkv", np.full((16, 16, 3), value), transfer), size=16)
    np.testing.assert_allclose(frame, expected, atol=2)


@pytest.mark.parametrize(("transfer", "encode"), [(PQ, encode_pq), (HLG, encode_hlg)])
def test_standard_range_comes_back(tmp_path: Path, transfer: int, encode) -> None:
    """A chart in BT.709, carried in high dynamic range as ITU-R BT.2408 says, looks as it did."""
    levels = np.linspace(0, 1, 6)
    chart = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(12, 18, 3)
    chart = chart.repeat(8, 0).repeat(8, 1)
    light = 203 * chart**2.4 @ BT709_TO_BT2020.T
    path = write(tmp_path / "chart.mkv", np.clip(encode(np.maximum(light, 0)), 0, 1), transfer)
    shown = videos.sample_frames(path, size=144, fit="squash")[0].astype(float)
    wanted = videos.fit_frame(_image(chart), 144, "squash").astype(float)
    middle = np.s_[3::8, 3::12]  # of each patch
    assert np.abs(shown - wanted)[middle].mean() < 3


def test_high_dynamic_range_of_another_tag_is_left_alone(tmp_path: Path) -> None:
    frame = videos.sample_frames(write(tmp_path / "sdr.mkv", np.full((16, 16, 3), 0.5), 1, 1), size=16)
    np.testing.assert_allclose(frame, 128, atol=1)


def _image(chart: np.ndarray):
    from PIL import Image

    return Image.fromarray(np.rint(255 * chart).astype(np.uint8))
