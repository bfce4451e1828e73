from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vta_rt
from tests.conftest import relative_error
from tests.vta_rt.conftest import make_clip
from vta_rt.backends.base import Session
from vta_rt.denoise import Noise
from vta_rt.errors import BundleError, OptionError, VTAError
from vta_rt.manifest import MANIFEST, write_manifest
from vta_rt.pipeline import Pipeline, _pipeline
from vta_rt.sampling import Sampling, SamplingPlan
from vta_rt.schedule import noise_levels, solver_table
from vta_rt.stages import Stages

QUICK = {"steps": 2, "guidance": 2.0}


@pytest.fixture(scope="module")
def pipeline(bundle_short: Path) -> Pipeline:
    return Pipeline(bundle_short)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three clips of different lengths: 0.2 s, 0.48 s, and 1.2 s, which is longer than the model's window."""
    folder = tmp_path_factory.mktemp("clips")
    return [make_clip(folder / f"{n}.mp4", seconds=s, frame_rate=25) for n, s in enumerate((0.2, 0.48, 1.2))]


def test_sound_is_as_long_as_the_video(pipeline: Pipeline, clips: list[Path]) -> None:
    lengths = [pipeline.generate(clip, **QUICK).duration for clip in clips]
    np.testing.assert_allclose(lengths, [0.2, 0.48, 1.2], atol=1 / 16000)


def test_one_seed_one_sound(pipeline: Pipeline, clips: list[Path]) -> None:
    first, again, other = (pipeline.generate(clips[1], seed=seed, **QUICK).samples for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert relative_error(other, first) > 0.1


def test_no_seed_differs_each_time(pipeline: Pipeline) -> None:
    tokens = np.zeros((1, pipeline.model.token_width), np.float32)
    first, second = (pipeline.denoise(tokens, seed=None, **QUICK) for _ in range(2))
    assert relative_error(second, first) > 0.1


@pytest.mark.parametrize("solver", ["ddpm", "dpmpp_2m"])
def test_a_batch_gives_each_clip_the_sound_it_gets_alone(pipeline: Pipeline, clips: list[Path], solver: str) -> None:
    together = pipeline.generate(clips, seed=3, solver=solver, **QUICK)
    for clip, audio in zip(clips, together, strict=True):
        alone = pipeline.generate(clip, seed=3, solver=solver, **QUICK)
        assert relative_error(audio.samples, alone.samples) < 1e-4


def test_guidance_one_runs_the_unguided_graph_and_agrees(pipeline: Pipeline, bundle_short: Path) -> None:
    tokens = np.random.default_rng(0).normal(size=(1, 2, pipeline.model.token_width)).astype(np.float32)
    plain = Pipeline(bundle_short)
    unguided = plain.denoise(tokens, steps=3, guidance=1.0, seed=1)
    assert plain.loaded_graphs == {"denoiser_unguided"}
    nearly = pipeline.denoise(tokens, steps=3, guidance=1.0 + 1e-9, seed=1)
    assert relative_error(nearly, unguided) < 1e-4
    guided = pipeline.denoise(tokens, steps=3, guidance=4.0, seed=1)
    assert relative_error(guided, unguided) > 0.01


def test_outside_the_guidance_interval_the_unguided_graph_does_the_steps(
    pipeline: Pipeline, bundle_short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = np.random.default_rng(0).normal(size=(2, 2, pipeline.model.token_width)).astype(np.float32)
    how = {"steps": 6, "solver": "dpmpp_2m_sde", "seed": 1, "spacing": "karras"}
    levels = noise_levels(solver_table(how["solver"], pipeline.schedule, 6, "karras"), pipeline.schedule)
    interval = (float(levels[3]), float(levels[2]))  # of six steps the third and fourth
    ran: list[tuple[str, int]] = []
    scan = Session.scan
    monkeypatch.setattr(
        Session, "scan", lambda self, rows, *rest: ran.append((self.name, rows.count)) or scan(self, rows, *rest)
    )
    seen: list[tuple[str, int, int]] = []
    found = pipeline.denoise(
        tokens, guidance=4.0, guidance_interval=interval, progress=lambda *event: seen.append(event), **how
    )
    assert ran[:3] == [("denoiser_unguided", 2), ("denoiser", 2), ("denoiser_unguided", 2)]
    assert [done for _, done, _ in seen] == list(range(1, 1 + seen[-1][2]))

    # The guided graph at scale 1 gives what the unguided one does, so that it alone can do all six.
    plan = Sampling(
        guidance=4.0, guidance_interval=interval, **{name: value for name, value in how.items() if name != "seed"}
    ).plan(pipeline.schedule)
    scales = plan.guidance_scales
    assert scales.tolist() == [1, 1, 4, 4, 1, 1]
    guided = SamplingPlan(plan.table, scales + 1e-9 * (scales == 1))
    one_graph = pipeline.run(lambda stages: stages.denoise(guided, Noise(1), list(tokens)))
    assert relative_error(found, np.stack(one_graph)) < 1e-4
    assert relative_error(pipeline.denoise(tokens, guidance=4.0, **how), found) > 1e-3
    assert relative_error(pipeline.denoise(tokens, guidance=1.0, **how), found) > 1e-3


def test_a_bundle_s_own_sampling_is_the_default(bundle_copy: Path, pipeline: Pipeline) -> None:
    own = Sampling(steps=3, solver="lcm", guidance=1.0, spacing="linspace")
    manifest = replace(pipeline.bundle.manifest, sampling=own)
    (bundle_copy / MANIFEST).unlink()  # it is a link
    write_manifest(bundle_copy / MANIFEST, manifest)
    plain = Pipeline(bundle_copy)
    tokens = np.random.default_rng(0).normal(size=(1, 2, plain.model.token_width)).astype(np.float32)
    expected = pipeline.denoise(tokens, steps=3, solver="lcm", guidance=1.0, spacing="linspace", seed=1)
    np.testing.assert_array_equal(plain.denoise(tokens, seed=1), expected)
    assert plain.loaded_graphs == {"denoiser_unguided"}
    assert relative_error(plain.denoise(tokens, steps=2, seed=1), expected) > 1e-3


def test_padded_tokens_change_nothing(pipeline: Pipeline) -> None:
    tokens = np.random.default_rng(1).normal(size=(1, 3, pipeline.model.token_width)).astype(np.float32)
    padded = np.pad(tokens, ((0, 0), (0, 4), (0, 0)))
    mask = np.arange(7)[None] < 3
    alone = pipeline.denoise(tokens, seed=2, **QUICK)
    assert relative_error(pipeline.denoise(padded, token_mask=mask, seed=2, **QUICK), alone) < 1e-4
    assert relative_error(pipeline.denoise(padded, seed=2, **QUICK), alone) > 1e-3


def test_frames_leave_as_they_came(pipeline: Pipeline) -> None:
    frames = np.random.default_rng(2).integers(0, 256, (2, 3, 224, 224, 3), np.uint8)
    tokens = pipeline.encode(frames)
    assert tokens.shape == (2, 3, pipeline.model.token_width)
    np.testing.assert_allclose(pipeline.encode(frames[1]), tokens[1], rtol=1e-5, atol=1e-6)


def test_many_threads_share_one_pipeline(bundle_short: Path, clips: list[Path]) -> None:
    pipeline = Pipeline(bundle_short)
    sounds: dict[int, np.ndarray] = {}

    def work(seed: int) -> None:
        sounds[seed] = pipeline.generate(clips[seed % 3], seed=seed, **QUICK).samples

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        assert relative_error(sounds[seed], pipeline.generate(clips[seed % 3], seed=seed, **QUICK).samples) < 1e-4


def test_progress_tells_every_stage_in_order(pipeline: Pipeline, clips: list[Path]) -> None:
    seen: list[tuple[str, int, int]] = []
    pipeline.generate(clips[0], progress=lambda *event: seen.append(event), **QUICK)
    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == ["frames", "encode", "denoise", "decode", "vocode"]
    assert [event for event in seen if event[0] == "denoise"] == [("denoise", 1, 2), ("denoise", 2, 2)]


def test_first_calls_at_once_load_one_pipeline(bundle_short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Slow(Pipeline):
        def __init__(self, *arguments: Any) -> None:
            time.sleep(0.2)
            super().__init__(*arguments)
            made.append(self)

        def generate(self, *_: Any, **__: Any) -> Any:
            return self

    monkeypatch.setattr("vta_rt.pipeline.Pipeline", Slow)
    _pipeline.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        used = list(pool.map(lambda _: vta_rt.generate("clip.mp4", bundle=bundle_short), range(4)))
    _pipeline.cache_clear()
    assert used == made * 4


def test_threads_that_nobody_waits_for_end_their_work(bundle_short: Path, clips: list[Path], tmp_path: Path) -> None:
    script = (
        "import sys, threading, vta_rt; bundle, clip, out = sys.argv[1:];"
        "pipeline = vta_rt.Pipeline(bundle, backend='cpu');"
        "work = lambda i: pipeline.generate(clip, steps=1, guidance=1).save(f'{out}/{i}.wav');"
        "[threading.Thread(target=work, args=(i,)).start() for i in range(2)]"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, bundle_short, clips[0], tmp_path], capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.wav", "1.wav"]


def test_a_video_shorter_than_a_sample(pipeline: Pipeline, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", seconds=1 / 90_000, frame_rate=90_000)
    assert len(pipeline.generate(clip, **QUICK).samples) == 1


def test_the_one_call(bundle_short: Path, clips: list[Path], pipeline: Pipeline) -> None:
    audio = vta_rt.generate(clips[0], bundle=bundle_short, seed=9, **QUICK)
    np.testing.assert_array_equal(audio.samples, pipeline.generate(clips[0], seed=9, **QUICK).samples)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"guidance": 1e39}, "guidance"),
        ({"steps": 1001}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"solver": "euler"}, "euler.*ddpm, ddim, dpmpp_2m"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"guidance": -1}, "guidance is -1"),
        ({"guidance_interval": (2.0, 1.0)}, "guidance_interval is .2.0, 1.0., two noise levels"),
        ({"guidance_interval": 3}, "guidance_interval is 3"),
        ({"spacing": "cosine"}, "timestep_spacing is 'cosine'"),
        ({"seed": -3}, "seed is -3"),
        ({"video": []}, "no video given"),
        ({"seed": 1.5}, "seed is 1.5"),
    ],
)
def test_options_outside_what_is_allowed_are_refused_before_any_work(
    pipeline: Pipeline, clips: list[Path], option: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "encode", lambda frames: pytest.fail("worked in vain"))
    with pytest.raises(OptionError, match=message):
        pipeline.generate(**{"video": clips[0]} | option)


@pytest.mark.parametrize(
    ("stage", "array", "message"),
    [
        ("encode", np.zeros((2, 100, 100, 3), np.uint8), r"frames are uint8 \[2, 100, 100, 3\]"),
        ("encode", np.zeros((2, 224, 224, 3), np.float32), "frames are float32"),
        ("encode", np.zeros((0, 224, 224, 3), np.uint8), "frames are"),
        ("denoise", np.zeros((2, 7), np.float32), r"tokens are \[1, 2, 7\]"),
        ("decode", np.zeros((1, 8, 16), np.float32), "latents is"),
        ("decode", np.zeros((1, 3, 16, 16), np.float32), "latents is"),
        ("vocode", np.zeros((64,), np.float32), "mel is"),
    ],
)
def test_arrays_of_the_wrong_shape(pipeline: Pipeline, stage: str, array: np.ndarray, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        getattr(pipeline, stage)(array)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial": np.zeros((1, 8, 4, 16))}, r"initial is \[1, 8, 4, 16\] where \[1, 8, 16, 16\] is needed"),
        ({"steps": 2, "step_noise": np.zeros((3, 1, 8, 16, 16))}, "step_noise is"),
        ({"token_mask": np.zeros((1, 2), bool)}, r"token_mask is \[1, 2\] where \[1, 1\] is needed"),
    ],
)
def test_noise_and_masks_of_the_wrong_shape(pipeline: Pipeline, options: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        pipeline.denoise(np.zeros((1, pipeline.model.token_width), np.float32), **options)


@pytest.mark.parametrize("pair", [("denoiser", "denoiser_unguided"), ("vae_decoder", "vocoder")])
def test_a_graph_that_is_another_one(bundle_copy: Path, pair: tuple[str, str]) -> None:
    """Hashes and listed shapes right, files exchanged."""
    path = bundle_copy / "bundle.json"
    manifest = json.loads(path.read_text())
    first, second = (manifest["graphs"][name] for name in pair)
    for part in ("graph", "weights"):
        first[part], second[part] = second[part], first[part]
    path.unlink()
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=rf"is not the graph {pair[0]}, but {pair[1]}"):
        Pipeline(bundle_copy).session(pair[0])


def test_a_bundle_that_changes_under_a_pipeline(bundle_copy: Path) -> None:
    pipeline = Pipeline(bundle_copy)
    weights = bundle_copy / "vocoder.onnx.data"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 0xFF]))
    with pytest.raises(BundleError, match=r"vocoder\.onnx\.data: has changed since the bundle was opened"):
        pipeline.session("vocoder")


def test_old_names_of_arguments_still_work(pipeline: Pipeline) -> None:
    tokens = np.zeros((2, pipeline.model.token_width))
    for call, name in (
        (lambda: pipeline.generate(text="a", negative="a"), "negative_prompt"),
        (lambda: pipeline.denoise(tokens, negative=tokens), "negative_tokens"),
    ):
        with pytest.warns(DeprecationWarning, match=name), pytest.raises(OptionError, match="takes no prompts"):
            call()


def test_an_option_that_does_not_exist(pipeline: Pipeline, clips: list[Path]) -> None:
    with pytest.raises(TypeError, match="stepps"):
        pipeline.generate(clips[0], stepps=3)


def test_values_that_are_not_finite_are_not_called_sound(
    bundle_short: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(bundle_short)
    monkeypatch.setattr(Stages, "vocode", lambda stages, mels: [np.full(10240, np.nan, np.float32) for _ in mels])
    with pytest.raises(VTAError, match=r"0\.mp4: the model gave values that are not finite"):
        pipeline.generate(clips[0], **QUICK)
