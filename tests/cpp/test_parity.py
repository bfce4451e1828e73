"""libvta_rt gives what Python gives, stage by stage; the library is built by CMake, and VTA_RT_LIBRARY names it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cpp.binding import Failure, Library
from vta_rt.denoise import Noise, State, denoise
from vta_rt.errors import BundleError
from vta_rt.manifest import MANIFEST, read_manifest
from vta_rt.pipeline import Pipeline
from vta_rt.stages import split_by_graph

DEMO = Path(__file__).parents[2] / "engines" / "demo"
LIBRARY = os.environ.get("VTA_RT_LIBRARY", "")
pytestmark = pytest.mark.skipif(
    not LIBRARY, reason="VTA_RT_LIBRARY names no libvta_rt; docs/cpp.md says how to build it"
)
TOLERANCE = 1e-4  # relative, of every stage


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(Path(LIBRARY))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(DEMO, backend="cpu", threads=1)


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    """Frames ``[T, H, W, 3]`` uint8 of an odd size, wider than high, smooth and noisy in turn."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:131, :173]
    frames = [np.stack([x + 9 * t, y + 5 * t, x * y // 64 + t], -1) % 256 for t in range(20)]
    noise = generator.integers(0, 64, (20, 131, 173, 3))
    return np.clip(np.stack(frames) + noise - 32, 0, 255).astype(np.uint8)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def steps_of(pipeline: Pipeline, tokens: np.ndarray, seed: int, **options: Any) -> list[np.ndarray]:
    """The latents after every step, ``[C, T, F]``, of Python's own loop."""
    plan = pipeline.bundle.manifest.sampling.replace(**options).plan(pipeline.schedule)
    shape = pipeline.model.latent_shape()
    start, noises = Noise(seed).draw(plan, slice(0, 1), shape)
    state, found = State(np.array(start)), []
    conditioning = {"tokens": tokens[None], "token_mask": np.ones((1, len(tokens)), bool)}
    for graph, rows in split_by_graph(plan.guidance_scales):
        for row in range(rows.start, rows.stop):
            one = plan[row : row + 1]
            state = denoise(pipeline.session(graph), one, state, conditioning, noises=noises, on_step=lambda _: None)
            found.append(np.array(state.latents[0]))
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 5},
        {"seed": 1, "steps": 3, "solver": "dpmpp_2m_sde", "spacing": "leading"},
        {"seed": 2, "steps": 3, "solver": "unipc", "guidance_interval": (0.2, 5.0)},
    ],
    ids=lambda options: options.get("solver", "own"),
)
def test_every_stage_is_pythons(
    library: Library, pipeline: Pipeline, film: np.ndarray, options: dict[str, Any]
) -> None:
    times = [t / 25 for t in range(len(film))]
    given = {name: value.encode() if isinstance(value, str) else value for name, value in options.items()}
    if interval := given.pop("guidance_interval", None):
        given |= {"guidance_low": interval[0], "guidance_high": interval[1]}
    result = library.open(DEMO).generate((film, times, 0.8), **given)

    from PIL import Image

    from vta_rt.video import fit_frame

    frames = np.stack([fit_frame(Image.fromarray(frame), pipeline.frames.size, "crop") for frame in film])
    assert np.array_equal(result.stage("frames")[0], frames)
    tokens = pipeline.encode(frames)
    assert relative(result.stage("tokens")[0], tokens) <= TOLERANCE
    sampling = {name: value for name, value in options.items() if name != "seed"}
    latents = steps_of(pipeline, tokens, options["seed"], **sampling)
    assert len(result.stage("latents")) == len(latents)
    for found, expected in zip(result.stage("latents"), latents, strict=True):
        assert relative(found, expected) <= TOLERANCE
    mel = pipeline.decode(latents[-1][None])
    assert relative(result.stage("mel")[0], mel[0]) <= TOLERANCE
    wave = pipeline.vocode(mel)[0]
    assert relative(result.stage("wave")[0], wave) <= TOLERANCE
    assert np.array_equal(result.samples, result.stage("wave")[0][:12_800])


@pytest.mark.parametrize(
    "shape", [(80, 80), (90, 200), (300, 170), (721, 1283), (1080, 1920), (2000, 90), (64, 48)], ids=str
)
def test_frames_of_any_size_are_fitted_as_by_pillow(library: Library, shape: tuple[int, int]) -> None:
    from PIL import Image

    from vta_rt.video import fit_frame

    frame = np.random.default_rng(1).integers(0, 256, (1, *shape, 3)).astype(np.uint8)
    result = library.open(DEMO).generate((frame, [0.0], 0.04), steps=1)
    expected = fit_frame(Image.fromarray(frame[0]), 80, "crop")
    assert np.array_equal(result.stage("frames")[0][0], expected)


MANIFESTS: dict[str, tuple[tuple[str, ...], Any]] = {
    "a text for a number": (("model", "seconds"), "x"),
    "nothing": (("model", "seconds"), 0),
    "too much": (("frames", "size"), 1 << 40),
    "a field is missing": (("model",), {}),
    "another folder": (("graphs", "vocoder", "graph", "file"), "../vocoder.onnx"),
    "steps": (("sampling", "steps"), 5000),
    "newer": (("format_version",), 99),
    "a flag": (("model", "positions"), 1),
    "a choice": (("frames", "kernel"), "lanczos"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_wrong_manifest_is_told_in_the_same_words(library: Library, tmp_path: Path, name: str) -> None:
    import json

    manifest = json.loads((DEMO / MANIFEST).read_text())
    (*way, last), value = MANIFESTS[name]
    section = manifest
    for key in way:
        section = section[key]
    section[last] = value
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError) as expected:
        read_manifest(tmp_path / MANIFEST)
    with pytest.raises(Failure) as found:
        library.open(tmp_path)
    assert str(found.value) == str(expected.value)
