"""Time from frames to wave on every backend this machine has, beside PyTorch as published and at its best.

    python benchmarks/latency.py --ckpt ckpt/vta-ldm-clip4clip-v-large --bundle engines/full-fp16 --steps 25

All rows have the same clip, steps and batch. Each runs in a process of its own, which keeps cold starts and memory apart, and
the failure of one row from the others. Times are per stage and of all stages in one call. The table goes
to standard output, the figures to benchmarks/results/latency.json, after every row. benchmarks/README.md
says what the rows and columns mean.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import numpy as np

STAGES = ("encode", "denoise", "decode", "vocode")
ROWS = {
    "published": "PyTorch eager, fp32, DDPM",
    "torch": "PyTorch compiled, half precision",
    "cpu": "ONNX Runtime, CPU",
    "openvino": "OpenVINO, CPU",
    "cuda": "ONNX Runtime, GPU",
    "cuda-none": "ONNX Runtime, GPU, no graph",
    "tensorrt": "TensorRT, the loop one graph",
    "tensorrt-none": "TensorRT, no graph",
}
COLUMNS = ("row", "batch", *STAGES, "total", "p95", "floor", "cold s", "host GB", "GPU GB")
Frames = list[np.ndarray]
System = dict[str, Callable[..., Any]]
"""What a row runs: ``call(clips)`` from frames to waves, and ``stages(clips)``, which gives seconds by stage."""


def main() -> None:
    parser = _parser()
    options = parser.parse_args()
    if options.timed_steps is not None and options.timed_steps < 1:
        parser.error(f"--timed-steps is {options.timed_steps}, at least 1 is needed")
    if options.inside:
        print(json.dumps(_measure(options)))
        return
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    work: dict[str, float] = _or_left_out("floor", left_out, _operations, options) or {}
    result = {"steps": options.steps, "published_steps": options.published_steps, "timed_steps": options.timed_steps}
    result |= {"guidance": options.guidance, "operations": work}
    result |= {"rows": rows, "left_out": left_out}
    for name in options.rows:
        for batch in options.batch:
            row = _or_left_out(f"{name}, batch {batch}", left_out, _in_process, name, batch, options)
            if row is not None:
                row["floor_ms"] = _or_left_out("floor", left_out, _floor, row, work, options.steps)
                rows.append(row)
                print(_line(row, rows), flush=True)
            machine.write(options.name, result, options.out)  # whatever becomes of the next one
    print("\n" + _table(rows))
    print(machine.write(options.name, result, options.out))


class LeftOut(Exception):
    """The reason why a row, or the floor, is left out."""


def _or_left_out(what: str, left_out: dict[str, str], work: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of ``work``, or None where it fails, with the reason printed and noted once."""
    try:
        return work(*arguments)
    except Exception as error:  # whatever it is, it concerns this one alone
        reason = " ".join(str(error).split()) or type(error).__name__
        if left_out.get(what) != reason:
            print(f"{what}: left out, {reason}", flush=True)
        left_out[what] = reason
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--ckpt", help="of the PyTorch rows and the floor; without it these are left out")
    parser.add_argument("--first-stage")
    parser.add_argument("--video", help="a clip (default: frames made up)")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--published-steps", type=int, default=300, help="of the row as published (default: 300)")
    parser.add_argument(
        "--timed-steps", type=int, metavar="N", help="denoise so many steps alone and multiply (default: all)"
    )
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--repeats", type=int, default=20, help="calls timed after two to warm up (default: 20)")
    parser.add_argument("--seconds", type=float, default=120.0, help="after which a row stops repeating (default: 120)")
    parser.add_argument(
        "--limit", type=float, default=900.0, help="seconds after which a row is given up (default: 900)"
    )
    parser.add_argument("--name", default="latency", help="of the files written")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="their folder (default: benchmarks/results)")
    parser.add_argument("--inside", help=argparse.SUPPRESS)  # the row measured in this process
    return parser


def _in_process(name: str, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one row at one batch in a new process; ``LeftOut`` where this machine cannot."""
    if name in ("published", "torch") and not options.ckpt:
        raise LeftOut("it needs --ckpt")
    # The later of two like options counts, and a list ends where the next option begins.
    command = [sys.executable, *sys.argv, "--inside", name, "--batch", str(batch)]
    start = time.time()
    with machine.DeviceMemory() as memory:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=options.limit)
        except subprocess.TimeoutExpired:
            raise LeftOut(f"it was not done after {options.limit:g} s") from None
    if done.returncode:
        raise LeftOut((done.stderr.strip().splitlines() or [f"it ended with exit code {done.returncode}"])[-1])
    row = json.loads(done.stdout.splitlines()[-1])
    row["cold_start_s"] = round(row.pop("first_sound") - start, 2)
    return {"row": name, "title": ROWS[name], "batch": batch, **row, "device_gb": memory.peak_gb}


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure a row in this process: the first call, then as many as asked for."""
    name, batch = options.inside, options.batch[-1]
    frames = _frames(options)
    clips = [frames] * batch
    system, notes = _torch(name, options) if name in ("published", "torch") else _backend(name, options)
    waves = system["call"](clips)
    first_sound = time.time()
    if len(waves) != batch or not all(np.isfinite(wave).all() for wave in waves):
        sys.exit("error: what came out is not sound")
    system["call"](clips)
    totals, stages = [], []
    steps = _steps(name, options)
    times_more = steps / _timed_steps(steps, options) - 1  # of what the loop took
    end = time.perf_counter() + options.seconds
    while len(totals) < options.repeats and (time.perf_counter() < end or len(totals) < 2):
        start = time.perf_counter()
        system["call"](clips)
        totals.append(time.perf_counter() - start)
        stages.append(system["stages"](clips))
        totals[-1] += times_more * stages[-1]["denoise"]
        stages[-1]["denoise"] *= 1 + times_more
    return {
        "total": _percentiles(totals),
        "stages": {stage: _percentiles([times[stage] for times in stages]) for stage in STAGES},
        "calls": len(totals),
        "host_gb": machine.peak_memory_gb(),
        "first_sound": first_sound,
        **notes,
    }


def _backend(name: str, options: argparse.Namespace) -> tuple[System, dict[str, Any]]:
    from vta_rt import Pipeline, VTAError
    from vta_rt.denoise import Noise
    from vta_rt.sampling import Sampling

    backend, _, capture = name.partition("-")
    try:
        pipeline = Pipeline(options.bundle, backend=backend, capture=capture or "loop")
    except VTAError as error:
        sys.exit(f"{error}")
    plan = Sampling(options.steps, "dpmpp_2m", options.guidance).plan(pipeline.schedule)
    plan = plan[: _timed_steps(options.steps, options)]

    def run(stages: Any, clips: Frames, timed: Callable[[str, Callable[[], Any]], Any]) -> list[np.ndarray]:
        tokens = timed("encode", lambda: [stages.encode(frames) for frames in clips])
        latents = timed("denoise", lambda: stages.denoise(plan, Noise(0), tokens))
        mels = timed("decode", lambda: stages.decode(latents))
        return timed("vocode", lambda: [stages.lane.get(wave) for wave in stages.vocode(mels)])

    def staged(clips: Frames) -> dict[str, float]:
        times: dict[str, float] = {}

        def work(stages: Any) -> None:
            wait = getattr(stages.lane, "wait", lambda: None)
            run(stages, clips, lambda stage, call: _timed(times, stage, call, wait))

        pipeline.run(work)
        return times

    def call(clips: Frames) -> list[np.ndarray]:
        return pipeline.run(lambda stages: run(stages, clips, lambda stage, call: call()))

    return {"call": call, "stages": staged}, {
        "runs_on": pipeline.backend,
        "precision": pipeline.bundle.manifest.precision,
    }


def _torch(name: str, options: argparse.Namespace) -> tuple[System, dict[str, Any]]:
    """The torch modules of the same graphs in a plain loop. As published: eager, fp32, DDPM, as many steps as its script."""
    import torch

    from export.bundling import open_checkpoint
    from export.stages import Denoiser, VAEDecoder, VisualEncoder, Vocoder
    from vta_rt.bundle import Bundle
    from vta_rt.schedule import solver_table

    torch.set_grad_enabled(False)
    published = name == "published"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float32 if published else torch.float16 if device == "cuda" else torch.bfloat16
    checkpoint = open_checkpoint(options.ckpt, options.first_stage)
    manifest, encoder = Bundle(options.bundle).manifest, checkpoint.modules.encoder
    model = manifest.model
    steps = _steps(name, options)
    table = solver_table("ddpm" if published else "dpmpp_2m", checkpoint.config.noise, steps)
    table = table[: _timed_steps(steps, options)]
    guided = options.guidance != 1.0
    modules = {
        "encode": VisualEncoder(encoder, encoder.config.window(model.frame_count(manifest.frames))),
        "denoise": Denoiser(checkpoint.modules.unet, guided=guided),
        "decode": VAEDecoder(checkpoint.modules.vae, checkpoint.config.vae.scale_factor),
        "vocode": Vocoder(checkpoint.modules.vocoder),
    }
    for stage, module in modules.items():
        module.to(device, dtype).eval()
        if not published:
            if stage in ("denoise", "decode"):
                module.to(memory_format=torch.channels_last)
            # The GPU's mode captures CUDA graphs by itself.
            modules[stage] = torch.compile(module, mode="max-autotune" if device == "cuda" else "default")

    def denoise(tokens: torch.Tensor) -> torch.Tensor:
        batch = len(tokens)
        generator = torch.Generator(device).manual_seed(0)
        latents = torch.randn(model.latent_shape(batch), generator=generator, device=device)
        previous = torch.zeros_like(latents)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=device)
        for timestep, *coefficients in table.tolist():
            noise = torch.randn(latents.shape, generator=generator, device=device)
            step = torch.tensor([*coefficients, options.guidance, 0.0], device=device)
            times = torch.full((batch,), timestep, device=device)
            latents, previous = modules["denoise"](latents, previous, noise, tokens, mask, times, step)
            latents, previous = latents.clone(), previous.clone()  # a captured graph writes over what it gave
        return latents

    def run(clips: Frames, timed: Callable[[str, Callable[[], Any]], Any]) -> list[np.ndarray]:
        def encode() -> torch.Tensor:
            on_device = [torch.from_numpy(frames).to(device) for frames in clips]
            return torch.stack([modules["encode"](frames).clone() for frames in on_device])

        tokens = timed("encode", encode)
        latents = timed("denoise", lambda: denoise(tokens))
        mel = timed("decode", lambda: modules["decode"](latents).clone())
        return list(timed("vocode", lambda: modules["vocode"](mel).cpu().numpy()))

    def staged(clips: Frames) -> dict[str, float]:
        times: dict[str, float] = {}
        wait = torch.cuda.synchronize if device == "cuda" else lambda: None
        run(clips, lambda stage, call: _timed(times, stage, call, wait))
        return times

    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    notes = {"runs_on": f"torch {torch.__version__}, {where}", "precision": str(dtype).removeprefix("torch.")}
    return {"call": lambda clips: run(clips, lambda stage, call: call()), "stages": staged}, notes | {"steps": steps}


def _steps(name: str, options: argparse.Namespace) -> int:
    return options.published_steps if name == "published" else options.steps


def _timed_steps(steps: int, options: argparse.Namespace) -> int:
    """Return how many of the steps are run; the time of the others is extrapolated."""
    return min(options.timed_steps or steps, steps)


def _operations(options: argparse.Namespace) -> dict[str, float]:
    """Operations (a multiplication and an addition are two) of one clip by stage; of the denoiser, for one branch and step.

    Counted by PyTorch in the modules of the checkpoint; empty without one.
    """
    if not options.ckpt:
        return {}
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from export import stages
    from export.bundling import open_checkpoint
    from vta_rt.bundle import Bundle

    manifest = Bundle(options.bundle).manifest
    model, frames = manifest.model, manifest.frames
    checkpoint = open_checkpoint(options.ckpt, options.first_stage)
    made = {
        "encode": stages.visual_encoder(checkpoint.modules.encoder, model, frames),
        "denoise": stages.denoiser(checkpoint.modules.unet, model, frames, guided=False, dynamic_batch=False),
        "decode": stages.vae_decoder(
            checkpoint.modules.vae, checkpoint.config.vae.scale_factor, model, dynamic_batch=False
        ),
        "vocode": stages.vocoder(checkpoint.modules.vocoder, model, dynamic_batch=False),
    }
    counted = {}
    for name, stage in made.items():
        module = stage.module.to("meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(*(value.to("meta") for value in stage.inputs.values()))
        counted[name] = float(counter.get_total_flops())
    branches = 1 if options.guidance == 1.0 else 2
    return {**counted, "branches": branches}


def _floor(row: dict[str, Any], work: dict[str, float], steps: int) -> float | None:
    """Return the milliseconds that the row's operations take at the measured matrix rate of its device and precision."""
    if not work:
        return None
    on_gpu = row["row"].partition("-")[0] in ("cuda", "tensorrt") or "CPU" not in row["runs_on"]
    half = "32" not in row["precision"] and (on_gpu or row["row"] in ("torch", "openvino"))
    rate = machine.matrix_rate("cuda" if on_gpu else "cpu", half=half)
    steps = row.get("steps", steps)
    once = sum(work[stage] for stage in ("encode", "decode", "vocode"))
    return round(row["batch"] * (once + steps * work["branches"] * work["denoise"]) / rate * 1e3, 2)


def _frames(options: argparse.Namespace) -> np.ndarray:
    from vta_rt.bundle import Bundle
    from vta_rt.video import frames_of

    manifest = Bundle(options.bundle).manifest
    count, size = manifest.frames.padded_count(manifest.model.frame_count(manifest.frames)), manifest.frames.size
    if not options.video:
        return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    frames = frames_of(options.video, manifest.frames, manifest.model.seconds)
    return frames[np.arange(count) % len(frames)]  # a short clip over again, so that every machine has the same work


def _line(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Format a row as text, with its speed relative to the published row of the same batch."""
    base = next((other for other in rows if other["row"] == "published" and other["batch"] == row["batch"]), None)
    faster = f", {base['total']['p50_ms'] / row['total']['p50_ms']:.1f} x as published" if base else ""
    return f"{row['title']}, batch {row['batch']}: {row['total']['p50_ms']:,.1f} ms{faster} ({row['runs_on']})"


def _table(rows: list[dict[str, Any]]) -> str:
    """Format rows as a Markdown table: milliseconds, the medians of each stage and of the entire call."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        stages = [f"{row['stages'][stage]['p50_ms']:,.1f}" for stage in STAGES]
        total = [f"{row['total'][name]:,.1f}" for name in ("p50_ms", "p95_ms")]
        rest = (row["floor_ms"], row["cold_start_s"], row["host_gb"], row["device_gb"])
        cells = [row["title"], str(row["batch"]), *stages, *total, *("" if x is None else f"{x:,g}" for x in rest)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _timed(times: dict[str, float], stage: str, call: Callable[[], Any], wait: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    value = call()
    wait()
    times[stage] = time.perf_counter() - start
    return value


def _percentiles(seconds: list[float]) -> dict[str, float]:
    p50, p95 = np.percentile(seconds, (50, 95)) * 1e3
    return {"p50_ms": round(float(p50), 3), "p95_ms": round(float(p95), 3)}


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.path.insert(0, str(Path(__file__).parents[1]))  # export, which is not installed with the package everywhere
    main()
