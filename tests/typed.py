"""What type checkers say of the public functions. It is checked, never run: every misuse must be an error of that kind."""

from __future__ import annotations

import threading
from typing import assert_type

import numpy as np

import vta_rt

frames = np.zeros((4, 8, 8, 3), np.uint8)
pipe = vta_rt.Pipeline()
audio = vta_rt.generate("a.mp4", seed=1, steps=3, cancel=threading.Event(), timeout=3.0)
assert_type(audio, vta_rt.Audio)
assert_type(vta_rt.generate(b"bytes"), vta_rt.Audio)
assert_type(vta_rt.generate(["a.mp4", b"bytes"], text=["a", "b"]), list[vta_rt.Audio])
assert_type(pipe.generate(frames, fps=24), vta_rt.Audio)
assert_type(pipe.generate((vta_rt.Frames(frames, 24.0), "a.mp4")), list[vta_rt.Audio])
assert_type(pipe.generate(text="a bell"), vta_rt.Audio)
assert_type(pipe.generate(text=["a", "b"]), list[vta_rt.Audio])

vta_rt.generate("a.mp4", sed=1)  # type: ignore[call-overload]
vta_rt.generate("a.mp4", steps="3")  # type: ignore[call-overload]
vta_rt.generate(3)  # type: ignore[call-overload]
pipe.generate("a.mp4", guidence=3.0)  # type: ignore[call-overload]
pipe.generate("a.mp4", timeout="1")  # type: ignore[call-overload]
pipe.generate("a.mp4", cancel=True)  # type: ignore[call-overload]
pipe.generate("a.mp4", text=["a", "b"], fps=[1])  # type: ignore[call-overload]
several: list[vta_rt.Audio] = vta_rt.generate("a.mp4")  # type: ignore[assignment]
one: vta_rt.Audio = vta_rt.generate(["a.mp4"])  # type: ignore[assignment]
vta_rt.Pipeline(bundel="demo")  # type: ignore[call-arg]
vta_rt.Audio([0.0], 16_000)  # type: ignore[arg-type]
audio.resample("44100")  # type: ignore[arg-type]
audio.mix(3.0)  # type: ignore[arg-type]
audio.save(3)  # type: ignore[arg-type]
vta_rt.Frames(frames, fps="24")  # type: ignore[arg-type]
vta_rt.Fames(frames)  # type: ignore[attr-defined]
