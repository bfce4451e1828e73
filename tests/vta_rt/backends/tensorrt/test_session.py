"""TensorRT sessions on the STAND-IN of CUDA and TensorRT (``stand_in.py``): order, addresses, clean-up. No GPU is involved."""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Callable

import numpy as np
import pytest

from tests.vta_rt.backends.conftest import MODEL, TOKENS, HostSession, Source, in_threads, kernels, plan
from tests.vta_rt.backends.stand_in import Machine
from vta_rt.backends import Backend
from vta_rt.backends.base import Lane, Session
from vta_rt.backends.tensorrt import session as tensorrt
from vta_rt.backends.tensorrt.cuda import Lanes
from vta_rt.backends.tensorrt.session import TensorRTSession
from vta_rt.config import FrameConfig
from vta_rt.denoise import Noise
from vta_rt.errors import DeviceError, EngineError, FallbackWarning, OptionError
from vta_rt.stages import Stages, graphs

Load = Callable[[str], Session]
CLOSE = {"rtol": 1e-6, "atol": 1e-7}
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def sessions(machine: Machine, lanes: Lanes, capture: bool = True, batches: tuple[int, ...] = (1,)) -> Load:
    sources = [Source(machine, batch) for batch in batches]
    loaded: dict[str, Session] = {}

    def load(name: str) -> Session:
        if name not in loaded:
            loaded[name] = TensorRTSession(name, machine.trt, sources, lanes, capture)
        return loaded[name]

    return load


def make_frames(count: int = TOKENS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)


def sound(
    load: Load, lane: Lane, clips: list[np.ndarray], steps: int = 3, guidance: float | np.ndarray = 2.0, seed: int = 0
) -> list:
    """Every stage, as ``Pipeline.generate`` calls them."""
    stages = Stages(load, lane, MODEL, FrameConfig())
    stages.load(graphs(guidance))
    tokens = [stages.encode(frames) for frames in clips]
    latents = stages.denoise(plan(steps, guidance), Noise(seed), tokens)
    return [lane.get(wave) for wave in stages.vocode(stages.decode(latents))]


def in_lane(lanes: Lanes, load: Load, *arguments: object, **options: object) -> list[np.ndarray]:
    with lanes.lane() as lane:
        return sound(load, lane, *arguments, **options)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_captured_or_not_it_gives_the_sound_of_the_host(machine: Machine, lanes: Lanes, host: Load, steps: int) -> None:
    loads = [sessions(machine, lanes, capture) for capture in (True, False)]
    for seed, guidance, count in ((1, 2.0, TOKENS), (2, 5.0, TOKENS - 2), (3, 1.0, 1)):
        clip = make_frames(count, seed)
        expected = sound(host, Lane(), [clip], steps, guidance, seed)
        waves = [in_lane(lanes, load, [clip], steps, guidance, seed)[0] for load in loads for _ in range(2)]
        np.testing.assert_allclose(waves[0], expected[0], **CLOSE)
        for wave in waves[1:]:
            np.testing.assert_array_equal(wave, waves[0])


@pytest.mark.parametrize("capture", [True, False])
def test_a_loop_of_two_graphs_gives_the_sound_of_the_host(
    machine: Machine, lanes: Lanes, host: Load, capture: bool
) -> None:
    """Guidance in an interval: three runs of rows, the state handed on inside the lane."""
    load = sessions(machine, lanes, capture)
    scales = np.array([1.0, 1.0, 4.0, 3.0, 1.0])
    for seed in (1, 2):
        expected = sound(host, Lane(), [make_frames(seed=seed)], 5, scales, seed)
        found = in_lane(lanes, load, [make_frames(seed=seed)], 5, scales, seed)
        np.testing.assert_allclose(found[0], expected[0], **CLOSE)
    assert (
        np.abs(
            in_lane(lanes, load, [make_frames()], 5, 4.0)[0] - in_lane(lanes, load, [make_frames()], 5, scales)[0]
        ).max()
        > 0
    )
    if capture:  # one launch a run of rows, beside those of the other stages
        before = len(machine.called("cudaGraphLaunch"))
        in_lane(lanes, load, [make_frames()], 5, scales)
        assert len(machine.called("cudaGraphLaunch")) - before == 6


@pytest.mark.parametrize("capture", [True, False])
def test_prompts_go_through_the_same_captures(machine: Machine, lanes: Lanes, host: Load, capture: bool) -> None:
    """With and without, positive and negative, one after another in one lane."""

    def prompted(load: Load, lane: Lane, text: int, negative: int | None) -> np.ndarray:
        stages = Stages(load, lane, MODEL, FrameConfig())
        stages.load(graphs(2.0, ("visual_encoder", "text_encoder")))
        tokens = [stages.condition(make_frames(2), np.array([1, text, 9]))]
        negative_tokens = [None if negative is None else stages.encode_text(np.array([1, negative, 9]), 1)]
        latents = stages.denoise(plan(3, 2.0), Noise(0), tokens, negative_tokens=negative_tokens)
        return lane.get(latents[0])

    load, found = sessions(machine, lanes, capture), []
    for text, negative in ((2, None), (2, 4), (3, 4), (2, None)):
        with lanes.lane() as lane:
            found.append(prompted(load, lane, text, negative))
        np.testing.assert_allclose(found[-1], prompted(host, Lane(), text, negative), **CLOSE)
        if len(found) == 1:
            captures = len(machine.called("cudaGraphInstantiate"))
    assert len(machine.called("cudaGraphInstantiate")) == captures
    np.testing.assert_array_equal(found[0], found[3])
    assert not np.allclose(found[0], found[1])
    assert not np.allclose(found[1], found[2])


def test_a_capture_follows_the_recipe(machine: Machine, lanes: Lanes) -> None:
    in_lane(lanes, sessions(machine, lanes), [make_frames()], 4)
    names = machine.names()
    assert names[0] == "cudaSetDevice"
    assert names.index("cudaSetDevice") < names.index("deserialize_cuda_engine")
    # The denoiser's is the capture of four rows: warmed up by one plain call, then all rows, then instantiated.
    order = [
        name
        for name in names
        if name in {"execute_async_v3", "cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphLaunch"}
        or name in {"cudaGraphGetNodes", "cudaGraphInstantiate", "cudaGraphUpload", "cudaGraphDestroy"}
    ]
    once = ["execute_async_v3", "cudaStreamBeginCapture", "execute_async_v3", "cudaStreamEndCapture"]
    after = ["cudaGraphGetNodes", "cudaGraphInstantiate", "cudaGraphDestroy", "cudaGraphUpload", "cudaGraphLaunch"]
    rows = [*once[:2], *["execute_async_v3"] * 4, "cudaStreamEndCapture"]
    assert order == [*once, *after, *rows, *after, *once, *after, *once, *after]
    warm = names.index("execute_async_v3")
    assert "cudaStreamSynchronize" in names[warm : names.index("cudaStreamBeginCapture")]
    assert {arguments[1] for arguments in machine.called("cudaStreamBeginCapture")} == {"thread"}
    cleared = {address for address, *_ in machine.called("cudaMemsetAsync")}
    assert set(machine.called("execute_async_v3")[0][1].values()) <= cleared, "no run reads numbers at random"


def test_each_row_reads_what_the_last_one_wrote_and_its_own_row_of_the_table(machine: Machine, lanes: Lanes) -> None:
    in_lane(lanes, sessions(machine, lanes), [make_frames()], 4)
    rows = [addresses for _, addresses in machine.called("execute_async_v3") if "step" in addresses][1:]
    assert len(rows) == 4
    for row, following in itertools.pairwise(rows):
        assert (following["latents"], following["previous"]) == (row["latents_next"], row["denoised"])
        assert following["step"] == row["step"] + 256
        assert following["timestep"] == row["timestep"] + 256
        assert (following["tokens"], following["token_mask"]) == (row["tokens"], row["token_mask"])
    for row in rows:
        assert not {row["latents"], row["previous"]} & {row["latents_next"], row["denoised"]}
    # Rows 1 and 3 add no noise: they read where the zeros are, rows 0 and 2 each a place of their own.
    noise = [row["noise"] for row in rows]
    assert noise[1] == noise[3] < noise[0] < noise[2]


def test_another_seed_guidance_or_video_needs_no_new_capture(machine: Machine, lanes: Lanes) -> None:
    load = sessions(machine, lanes)
    in_lane(lanes, load, [make_frames()], 3)
    captures, memory = len(machine.called("cudaGraphInstantiate")), len(machine.called("cudaMalloc"))
    for seed in range(3):
        in_lane(lanes, load, [make_frames(TOKENS - seed, seed)], 3, 2.5 + seed, seed)
    assert len(machine.called("cudaGraphInstantiate")) == captures == 4
    assert len(machine.called("cudaMalloc")) == memory, "a lane that has run once has all the memory it needs"
    in_lane(lanes, load, [make_frames()], 5)
    in_lane(lanes, load, [make_frames()], 3, 1.0)
    assert len(machine.called("cudaGraphInstantiate")) == captures + 2, "more steps, and the unguided graph"


@pytest.mark.parametrize(("capture", "graphs"), [(True, 1), (False, 0)])
def test_one_context_for_each_graph(machine: Machine, lanes: Lanes, capture: bool, graphs: int) -> None:
    load = sessions(machine, lanes, capture)
    for _ in range(2):
        in_lane(lanes, load, [make_frames()], 6)
    others = 3 * (capture)
    assert len(machine.executables) == graphs + others
    held = [executable.contexts for executable in machine.executables]
    assert all(len(contexts) == 1 for contexts in held)
    assert len(set().union(*held)) == len(held)
    assert len(machine.called("create_execution_context")) == max(graphs, 1) + 3
    rows = len([call for call in machine.called("execute_async_v3") if "step" in call[1]])
    assert rows == 1 + (6 if capture else 2 * 6), "once to prepare"


def test_the_arrays_between_stages_stay_on_the_device(machine: Machine, lanes: Lanes) -> None:
    load = sessions(machine, lanes)
    in_lane(lanes, load, [make_frames()], 3)
    before = len(machine.calls)
    in_lane(lanes, load, [make_frames()], 3)
    copies = [arguments for name, arguments in machine.calls[before:] if name == "cudaMemcpyAsync"]
    up = sum(1 for _, _, _, kind, _ in copies if kind == "up")
    assert up == 1 + 1 + 2 + 2 + 3, (
        "frames; mask; those of the unconditional branch; latents and previous; noise, timesteps and rows, each in one piece"
    )
    assert [size for _, _, size, kind, _ in copies if kind == "down"] == [MODEL.samples * 4]
    waits = [name for name, _ in machine.calls[before:] if name == "cudaStreamSynchronize"]
    assert len(waits) == 2, "for the wave, and at the end"


def test_engines_share_one_block_of_activations(machine: Machine, lanes: Lanes) -> None:
    load = sessions(machine, lanes)
    in_lane(lanes, load, [make_frames()], 3)
    blocks = {context.memory[0] for executable in machine.executables for context in executable.contexts}
    assert len(blocks) == 1
    assert (5000,) in machine.called("cudaMalloc"), "of the largest that is loaded"


def test_a_block_that_must_grow_moves_and_captures_follow(machine: Machine, lanes: Lanes, host: Load) -> None:
    load = sessions(machine, lanes)
    frames = make_frames()
    with lanes.lane() as lane:
        np.testing.assert_allclose(
            lane.get(load("visual_encoder").run({"frames": frames}, lane)["tokens"]),
            host("visual_encoder").run({"frames": frames})["tokens"],
        )
    expected = sound(host, Lane(), [frames])
    for _ in range(2):
        np.testing.assert_allclose(in_lane(lanes, load, [frames])[0], expected[0], **CLOSE)
    assert len(machine.called("cudaGraphInstantiate")) == 1 + 4
    assert len(machine.executables) == 4


@pytest.mark.parametrize("capture", [True, False])
def test_whichever_call_fails_all_is_given_back_and_the_next_sound_is_right(
    machine: Machine, lanes: Lanes, host: Load, capture: bool
) -> None:
    """Fails each call of a first and a second sound in turn; the last turns find no call left to fail."""
    expected = sound(host, Lane(), [make_frames()])[0]
    outcomes: set[str] = set()
    for turn in itertools.count():
        load = sessions(machine, lanes, capture)
        machine.calls.clear()
        machine.fail = turn
        for _ in range(2):
            outcome, wave = attempt(lambda load=load: in_lane(lanes, load, [make_frames()])[0])
            outcomes.add(outcome)
            if wave is not None:
                np.testing.assert_allclose(wave, expected, **CLOSE)
        done = turn >= len(machine.calls)
        machine.fail = None
        np.testing.assert_allclose(in_lane(lanes, load, [make_frames()])[0], expected, **CLOSE)
        lanes.close()
        assert machine.held == (0, 0, 0, 0, 0), f"after {machine.names()[turn]} failed"
        if done:
            break
    assert turn > 100
    assert outcomes == {"well", "DeviceError", "EngineError"} | ({"not captured"} if capture else set())


def attempt(call: Callable[[], np.ndarray]) -> tuple[str, np.ndarray | None]:
    """How a call ended, and what it gave."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            wave = call()
        except (DeviceError, EngineError) as error:
            return type(error).__name__ if "\n" not in str(error) else "several lines", None
    return "not captured" if warned else "well", wave


def test_calls_at_once_have_a_lane_each(machine: Machine, lanes: Lanes, host: Load) -> None:
    load = sessions(machine, lanes)
    expected = {seed: sound(host, Lane(), [make_frames(seed=seed)], seed=seed)[0] for seed in range(4)}
    start = threading.Barrier(6)

    def work(number: int) -> None:
        start.wait()
        for turn in range(5):
            seed = (number + turn) % 4
            found = in_lane(lanes, load, [make_frames(seed=seed)], seed=seed)[0]
            np.testing.assert_allclose(found, expected[seed], **CLOSE)

    in_threads(work, 6)
    assert 1 <= len(machine.streams) <= 4, "as many lanes as calls at once, at most four"
    streams = {call[0] for call in machine.called("execute_async_v3")}
    assert streams == set(machine.streams)
    assert len(machine.executables) == 4 * len(machine.streams), "graphs are a lane's own"


def test_what_a_caller_raises_leaves_the_lane_in_use(machine: Machine, lanes: Lanes) -> None:
    load = sessions(machine, lanes)
    with pytest.raises(ZeroDivisionError), lanes.lane() as lane:
        sound(load, lane, [make_frames()])
        raise ZeroDivisionError
    in_lane(lanes, load, [make_frames()])
    assert len(machine.called("cudaStreamCreateWithFlags")) == 1


def test_batches_go_to_the_engines_there_are(machine: Machine, lanes: Lanes, host: Load) -> None:
    load = sessions(machine, lanes, batches=(1, 4))
    clips = [make_frames(TOKENS - index % 2, index) for index in range(6)]
    expected = sound(host, Lane(), clips)
    for found, wanted in zip(in_lane(lanes, load, clips), expected, strict=True):
        np.testing.assert_allclose(found, wanted, **CLOSE)
    assert load("denoiser").batch_sizes("latents") == (1, 4)
    assert load("denoiser").fixed_size("tokens", 1) == TOKENS
    with pytest.raises(OptionError, match=r"vocoder: mel is \[3, 1, 16, 16\]; there are engines for 1, 4"):
        load("vocoder").run({"mel": np.zeros((3, 1, 16, 16), np.float32)})


def test_noise_of_another_type_is_converted_as_the_host_does(machine: Machine, lanes: Lanes, host: Load) -> None:
    """As numpy's generators give it by default: twice as wide, it must not run over what is reserved for it."""
    noise = np.random.default_rng(0).normal(size=(3, 1, *MODEL.latent_shape()[1:]))
    assert noise.dtype == np.float64

    def latents(load: Load, lane: Lane) -> np.ndarray:
        tokens = [np.ones((TOKENS, 3), np.float32)]
        stages = Stages(load, lane, MODEL, FrameConfig())
        return lane.get(stages.denoise(plan(3, 2.0), Noise(0, steps=noise), tokens)[0])

    with lanes.lane() as lane:
        found = latents(sessions(machine, lanes), lane)
    np.testing.assert_allclose(found, latents(host, Lane()), **CLOSE)


def test_a_backend_nobody_has_any_more_gives_everything_back(machine: Machine, lanes: Lanes) -> None:
    load = sessions(machine, lanes)
    backend = Backend("tensorrt", "the stand-in", load, lanes.lane, lanes.close)
    with backend.lane() as lane:
        sound(backend.session, lane, [make_frames()])
    assert machine.held[0] > 0
    assert machine.contexts == 4
    del backend
    assert machine.held == (0, 0, 0, 0, 0)


def test_engines_of_a_batch_that_is_not_used_are_not_loaded(machine: Machine, lanes: Lanes) -> None:
    sources = [Source(machine, 1), Source(machine, 4)]
    session = TensorRTSession("vocoder", machine.trt, sources, lanes)
    session.run({"mel": np.zeros((4, 1, 16, 16), np.float32)})
    assert [source.loaded for source in sources] == [[], ["vocoder"]]


def test_host_arrays_in_and_out_without_a_lane(machine: Machine, lanes: Lanes) -> None:
    mel = np.random.default_rng(0).normal(size=(1, 1, 16, 16)).astype(np.float32)
    found = TensorRTSession("vocoder", machine.trt, [Source(machine, 1)], lanes).run({"mel": mel})["wave"]
    expected = HostSession("vocoder", kernels(1)["vocoder"]).run({"mel": mel})["wave"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_loop_too_long_for_one_graph_is_not_captured(
    machine: Machine, lanes: Lanes, host: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "MAX_GRAPH_ROWS", 4)
    found = in_lane(lanes, sessions(machine, lanes), [make_frames()], 9)
    np.testing.assert_allclose(found[0], sound(host, Lane(), [make_frames()], 9)[0], **CLOSE)
    assert len([call for call in machine.called("execute_async_v3") if "step" in call[1]]) == 1 + 9


@pytest.mark.parametrize("why", ["nothing recorded", "not capturable"])
def test_what_cannot_be_captured_runs_without(
    machine: Machine, lanes: Lanes, host: Load, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "nothing recorded":
        monkeypatch.setattr(
            machine.cudart, "cudaGraphGetNodes", lambda graph: (machine.cudart.cudaError_t.cudaSuccess, [], 0)
        )
    else:
        monkeypatch.setattr("tests.vta_rt.backends.stand_in.Context.is_stream_capturable", lambda self, stream: False)
    load = sessions(machine, lanes)
    with pytest.warns(FallbackWarning, match="runs without a CUDA graph") as warned:
        found = in_lane(lanes, load, [make_frames()])
    in_lane(lanes, load, [make_frames()])
    assert len(warned) == 4, "one a graph of the bundle, once"
    np.testing.assert_allclose(found[0], sound(host, Lane(), [make_frames()])[0], **CLOSE)


def test_an_engine_that_is_another_graphs(machine: Machine, lanes: Lanes) -> None:
    source = Source(machine, 1)
    machine.kernels["vocoder 1"] = kernels(1)["vae_decoder"]
    with pytest.raises(EngineError, match="vocoder: its engine is another graph's, with latents, mel"):
        TensorRTSession("vocoder", machine.trt, [source], lanes)
    machine.kernels["vocoder 1"] = kernels(2)["vocoder"]
    with pytest.raises(EngineError, match=r"vocoder: mel of its engine is \[2, 1, 16, 16\], not \[1, 1, 16, 16\]"):
        TensorRTSession("vocoder", machine.trt, [source], lanes)


def test_an_engine_goes_to_the_device_of_its_lanes_whichever_the_thread_had(machine: Machine) -> None:
    TensorRTSession("vocoder", machine.trt, [Source(machine, 1)], Lanes(device=2))
    assert machine.calls == [("cudaSetDevice", (2,)), ("deserialize_cuda_engine", ())]


def test_an_engine_that_cannot_be_loaded(machine: Machine, lanes: Lanes) -> None:
    source = Source(machine, 1)
    del machine.kernels["vocoder 1"]
    with pytest.raises(
        EngineError, match=r"vocoder: TensorRT cannot load its engine \(the stand-in cannot read this\)"
    ):
        TensorRTSession("vocoder", machine.trt, [source], lanes)
