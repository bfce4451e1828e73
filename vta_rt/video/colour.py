"""High dynamic range frames as an encoder was trained to see them: in standard dynamic range."""

from __future__ import annotations

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from PIL import Image

PQ, HLG = 16, 18  # transfer characteristics (ITU-T H.273, table 3)
REFERENCE_WHITE = 203.0  # cd/m² of diffuse white (ITU-R BT.2408, table 1)
HLG_PEAK, HLG_GAMMA = 1000.0, 1.2  # cd/m² and system gamma of the reference display (ITU-R BT.2100, table 5)
SDR_GAMMA = 2.4  # of a reference display (ITU-R BT.1886)
BT2020 = 9  # primaries and matrix (ITU-T H.273, tables 2 and 4)
MAX_SIDE_SCALE = 2  # frames are mapped at no more than this many times the size that they are resized to

# Linear light, ITU-R BT.2020 to BT.709 primaries (ITU-R BT.2087, M2).
TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32
)
LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020 primaries


def is_high_dynamic_range(frame: VideoFrame) -> bool:
    """Whether a frame says that its values are PQ or HLG."""
    return frame.color_trc in (PQ, HLG)


def map_tones(frame: VideoFrame, side: int, converter: VideoReformatter) -> Image.Image:
    """A PQ or HLG frame as an 8-bit RGB image in BT.709.

    Diffuse white, at 203 cd/m², becomes white; all below keeps its luminance on a reference display, as ITU-R BT.2408 maps
    standard into high dynamic range; what is brighter is white.

    Args:
        side: of the square that the image will be resized to, in pixels; a frame that is much larger is made smaller first.
    """
    scale = min(1.0, MAX_SIDE_SCALE * side / min(frame.width, frame.height))
    rgb = converter.reformat(
        frame,
        width=max(1, round(frame.width * scale)),
        height=max(1, round(frame.height * scale)),
        format="rgb48le",
        src_colorspace=Colorspace.BT2020 if frame.colorspace == BT2020 else None,
        interpolation=Interpolation.AREA if scale < 1 else Interpolation.BICUBIC,
    )
    values = rgb.to_ndarray().astype(np.float32) / 65535  # [H, W, 3]
    light = (_read_pq(values) if frame.color_trc == PQ else _read_hlg(values)) / REFERENCE_WHITE
    if frame.color_primaries == BT2020:
        light = light @ TO_BT709.T
    shown = np.clip(light, 0, 1) ** (1 / SDR_GAMMA)
    return Image.fromarray(np.rint(255 * shown).astype(np.uint8))


def _read_pq(values: np.ndarray) -> np.ndarray:
    """cd/m² of PQ values (SMPTE ST 2084, equation 4.1)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = values ** (1 / m2)
    return 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def _read_hlg(values: np.ndarray) -> np.ndarray:
    """cd/m² of HLG values on the reference display (ITU-R BT.2100, table 5)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12)
    luminance = np.maximum(scene @ LUMINANCE, 0)[..., None]
    return HLG_PEAK * luminance ** (HLG_GAMMA - 1) * scene
