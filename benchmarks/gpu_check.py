"""Whether the sound made on this GPU is correct, every time and over minutes; the one check to run on a machine with a GPU.

    python benchmarks/gpu_check.py --reference engines/full-fp32 --bundle engines/full-fp16 --backend tensorrt cuda

Compares every stage and the complete loop with the reference bundle on ONNX Runtime's CPU provider (relative error, listed),
asks for the same seed twice and for all three ways of capturing, then calls from four threads for three minutes and looks at
the memory. Needs the bundles and vta_rt alone. The figures go to benchmarks/results/gpu_check.json, after every part of it,
and a part that fails does not keep the next one from its turn; exit code 1 if anything is not as it should be, 2 if no
backend asked for is there.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import machine
import numpy as np

from vta_rt import Pipeline, VTAError
from vta_rt.cli.command import run_command

LIMITS = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 5e-2}  # relative error of a stage
LOOP_LIMITS = {"fp32": 1e-2, "fp16": 1e-1, "bf16": 3e-1}  # of the loop, whose steps build on each other
GROWTH = 0.2  # GB that memory may grow in the second half of the calls


class Report:
    """Checks of one backend after another, printed as they are made."""

    def __init__(self) -> None:
        self.checks: list[dict[str, Any]] = []
        self.backend = ""

    def add(self, what: str, value: Any, limit: Any, passed: bool) -> None:
        self.checks.append(
            {"backend": self.backend, "what": what, "value": value, "limit": limit, "passed": bool(passed)}
        )
        print(f"{'pass' if passed else 'FAIL'}  {what:<52}{value!s:>14}   limit {limit}", flush=True)

    @property
    def passed(self) -> bool:
        return all(check["passed"] for check in self.checks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", required=True, help="bundle at fp32, run on the CPU")
    parser.add_argument("--bundle", required=True, help="bundle of the same checkpoint, run on the GPU")
    parser.add_argument("--backend", nargs="+", default=["tensorrt"], help="to check (default: tensorrt)")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--name", default="gpu_check", help="of the file written")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="its folder (default: benchmarks/results)")
    options = parser.parse_args()

    report, there, left_out = Report(), {}, {}
    for name in dict.fromkeys(options.backend):
        try:
            there[name] = Pipeline(options.bundle, backend=name).backend
        except VTAError as error:
            left_out[name] = str(error)
            print(f"{name}: left out, {error}")
    if not there:
        raise VTAError(f"no backend to check: {'; '.join(dict.fromkeys(left_out.values()))}")
    reference = Reference(options.reference)
    for name, title in there.items():
        print(f"{options.bundle}: {title}")
        report.backend = name
        tested = Pipeline(options.bundle, backend=name)
        for part in (compare, repeat, call_from_threads):
            attempt(part, tested, name, options, reference, report)
            result = {"backends": there, "left_out": left_out, "steps": options.steps, "checks": report.checks}
            path = machine.write(options.name, result, options.out)
        del tested  # and the GPU's memory with it
    print(path)
    return 0 if report.passed else 1


def attempt(part: Callable[..., None], tested: Pipeline, *arguments: Any) -> None:
    report: Report = arguments[-1]
    try:
        part(tested, *arguments)
    except Exception as error:  # whatever it is, it belongs in the report
        report.add(f"{part.__name__} to its end", f"{type(error).__name__}: {error}", "no error", False)


class Reference:
    """Outputs of the reference bundle on the CPU for made-up frames, each computed once, when first needed."""

    def __init__(self, bundle: str) -> None:
        self.pipeline = Pipeline(bundle, backend="cpu")
        model, taken = self.pipeline.model, self.pipeline.frames
        rng = np.random.default_rng(0)
        self.frames = rng.integers(0, 256, (model.frame_count(taken), taken.size, taken.size, 3), np.uint8)

    @cache  # noqa: B019 (there is one)
    def tokens(self) -> np.ndarray:
        return self.pipeline.encode(self.frames)

    @cache  # noqa: B019
    def latents(self, steps: int, solver: str, guidance: float) -> np.ndarray:
        return self.pipeline.denoise(self.tokens(), steps=steps, solver=solver, guidance=guidance, seed=1)

    @cache  # noqa: B019
    def mel(self, steps: int) -> np.ndarray:
        return self.pipeline.decode(self.latents(steps, "dpmpp_2m", 3.0))

    @cache  # noqa: B019
    def wave(self, steps: int) -> np.ndarray:
        return self.pipeline.vocode(self.mel(steps))


def compare(tested: Pipeline, backend: str, options: argparse.Namespace, reference: Reference, report: Report) -> None:
    """Compare every stage on the reference's own inputs, so that errors do not add up, then the loops."""
    limits = {name: LIMITS[record.precision] for name, record in tested.bundle.manifest.graphs.items()}

    tokens, steps = reference.tokens(), options.steps
    stage("visual_encoder", tested.encode(reference.frames), tokens, limits, report)

    def loop(count: int, solver: str, guidance: float) -> tuple[np.ndarray, np.ndarray]:
        found = tested.denoise(tokens, steps=count, solver=solver, guidance=guidance, seed=1)
        return found, reference.latents(count, solver, guidance)

    for guidance, graph in ((3.0, "denoiser"), (1.0, "denoiser_unguided")):
        stage(graph, *loop(1, "ddim", guidance), limits, report)
    limit = LOOP_LIMITS[tested.bundle.manifest.graphs["denoiser"].precision]
    for count, solver in ((steps, "dpmpp_2m"), (10, "ddpm"), (10, "ddim")):
        found = relative_error(*loop(count, solver, 3.0))
        report.add(f"loop of {count} guided steps, {solver}", f"{found:.2e}", limit, found < limit)
    latents, mel = reference.latents(steps, "dpmpp_2m", 3.0), reference.mel(steps)
    stage("vae_decoder", tested.decode(latents), mel, limits, report)
    stage("vocoder", tested.vocode(mel), reference.wave(steps), limits, report)


def stage(graph: str, value: np.ndarray, reference: np.ndarray, limits: dict[str, float], report: Report) -> None:
    error = relative_error(value, reference)
    report.add(graph, f"{error:.2e}", limits[graph], error < limits[graph])


def repeat(tested: Pipeline, backend: str, options: argparse.Namespace, reference: Reference, report: Report) -> None:
    """Check that a seed gives the same latents, bit for bit: again, in another lane, captured or not."""
    tokens, settings = reference.tokens(), {"steps": options.steps, "guidance": 3.0, "seed": 7}
    first = tested.denoise(tokens, **settings)
    count = differing(tested.denoise(tokens, **settings), first)
    report.add("numbers that differ with the same seed", count, 0, count == 0)
    other = relative_error(tested.denoise(tokens, **{**settings, "seed": 8}), first)
    report.add("another seed, relative difference", f"{other:.2e}", "> 1e-2", other > 1e-2)
    for capture in ("loop", "none"):
        pipeline = Pipeline(options.bundle, backend=backend, capture=capture)
        count = differing(pipeline.denoise(tokens, **settings), first)
        report.add(f"numbers that differ with capture {capture}", count, 0, count == 0)


def call_from_threads(
    tested: Pipeline, backend: str, options: argparse.Namespace, reference: Reference, report: Report
) -> None:
    """Call from several threads at once and check every result, and that no memory is lost."""
    expected = {seed: sound(tested, reference.frames, seed) for seed in range(options.threads)}
    end, wrong, calls = time.monotonic() + options.minutes * 60, [], [0] * options.threads

    def work(number: int) -> None:
        while time.monotonic() < end and not wrong:
            try:
                seed = (number + calls[number]) % options.threads
                if differing(sound(tested, reference.frames, seed), expected[seed]):
                    wrong.append(f"seed {seed}")
            except Exception as error:  # whatever it is, it belongs in the report
                wrong.append(f"{type(error).__name__}: {error}")
            calls[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(options.threads)]
    for thread in threads:
        thread.start()
    middle = None
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.5)
        if middle is None and time.monotonic() > end - options.minutes * 30:
            middle = memory()
    after = memory()
    report.add(f"calls from {options.threads} threads", sum(calls), "all right", not wrong)
    if wrong:
        print(f"      {wrong[0]}")
    for kind in after:
        growth = round(after[kind] - (middle or after)[kind], 3)
        report.add(f"{kind} memory grown in the second half, GB", growth, GROWTH, growth < GROWTH)


def sound(tested: Pipeline, frames: np.ndarray, seed: int) -> np.ndarray:
    tokens = tested.encode(frames)
    return tested.vocode(tested.decode(tested.denoise(tokens, steps=5, guidance=3.0, seed=seed)))


def memory() -> dict[str, float]:
    """Return the GB in use by the process, and by the GPU where ``nvidia-smi`` tells."""
    used = machine.device_memory_gb()
    return {"host": machine.memory_gb(), **({} if used is None else {"GPU": used})}


def differing(value: np.ndarray, reference: np.ndarray) -> int:
    return int((value != reference).sum())


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    """Norm of the difference over the norm of the reference, in float64."""
    return float(np.linalg.norm(value.astype(np.float64) - reference) / np.linalg.norm(reference.astype(np.float64)))


if __name__ == "__main__":
    sys.exit(run_command(lambda arguments: main()))
