"""vta_rt: sound for silent video. Runs a bundle made by ``export`` with numpy, PyAV and ONNX Runtime; no training framework.

import vta_rt
audio = vta_rt.generate("clip.mp4", seed=1)
audio.mux("clip.mp4", "clip_with_sound.mp4")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vta_rt.errors import (
    BundleError,
    CancelledError,
    DeviceError,
    EngineError,
    FallbackWarning,
    LicenceWarning,
    OptionError,
    OutputError,
    PromptWarning,
    StoppedError,
    TimedOutError,
    VideoError,
    VTAError,
)

if TYPE_CHECKING:
    from vta_rt.audio import Audio
    from vta_rt.bundle import Bundle
    from vta_rt.pipeline import Pipeline, generate
    from vta_rt.video import Frames, Limits, Video, VideoOptions

__all__ = [
    "Audio",
    "Bundle",
    "BundleError",
    "CancelledError",
    "DeviceError",
    "EngineError",
    "FallbackWarning",
    "Frames",
    "LicenceWarning",
    "Limits",
    "OptionError",
    "OutputError",
    "Pipeline",
    "PromptWarning",
    "StoppedError",
    "TimedOutError",
    "VTAError",
    "Video",
    "VideoError",
    "VideoOptions",
    "generate",
]
__version__ = "0.1.0"

_HOMES = {
    "Audio": "audio",
    "Bundle": "bundle",
    "Frames": "video",
    "Limits": "video",
    "Pipeline": "pipeline",
    "Video": "video",
    "VideoOptions": "video",
    "generate": "pipeline",
}


if not TYPE_CHECKING:  # type checkers would take any name for one that exists

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used, so that the command can say what happens while packages are imported."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
