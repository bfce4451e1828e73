"""vta_rt: sound for silent video. Runs a bundle made by ``export`` with numpy, PyAV and ONNX Runtime; no training framework.

import vta_rt
audio = vta_rt.generate("clip.mp4", seed=1)
audio.mux("clip.mp4", "clip_with_sound.mp4")
"""

import logging

from vta_rt.audio import Audio
from vta_rt.bundle import Bundle
from vta_rt.errors import VTAError
from vta_rt.pipeline import Pipeline, generate

__all__ = ["Audio", "Bundle", "Pipeline", "VTAError", "generate"]
__version__ = "0.1.0"

logging.getLogger("vta_rt").addHandler(logging.NullHandler())  # silent unless the program that uses it wants to hear
