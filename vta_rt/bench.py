"""What each stage of a bundle costs on this machine: time, operations, rate and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vta_rt.denoise import Noise
from vta_rt.errors import OptionError
from vta_rt.pipeline import Pipeline
from vta_rt.sampling import Sampling, SamplingPlan
from vta_rt.stages import Stages, denoiser

MAX_COUNT = 64  # of clips in a batch and of repeats
STATUS = Path("/proc/self/status")
Work = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One stage at one batch size."""

    graph: str
    batch: int  # clips of a call
    calls: int  # of the graph for one batch
    cold: float | None  # seconds from loading the graph to its first result; None if it was loaded already
    warm: float  # seconds of a call, the median
    operations: float | None  # of a call
    memory: int | None  # the most bytes that the process used meanwhile; None if the system does not say
    peak: float | None = (
        None  # operations a second of a large matrix product at the graph's precision; None if not known
    )

    @property
    def seconds(self) -> float:
        """Of all calls, warm."""
        return self.calls * self.warm

    @property
    def rate(self) -> float | None:
        """Operations a second."""
        return None if self.operations is None else self.operations / self.warm


def measure(
    pipeline: Pipeline,
    sampling: Sampling | None = None,
    batches: Sequence[int] = (1,),
    repeats: int = 3,
    refuse: Callable[[str], Any] = lambda message: None,
) -> Iterator[Row]:
    """Run every stage on made-up input of the bundle's full length and yield a row for each, batch by batch.

    Args:
        refuse: called with a line for each batch that is left out, since the denoiser cannot run it in one call.

    Raises:
        OptionError: a batch or a number of repeats outside what is allowed.
    """
    for name, values in (("batch", batches), ("repeats", [repeats])):
        if wrong := [value for value in values if not 1 <= value <= MAX_COUNT]:
            raise OptionError(f"{name} is {wrong[0]}, 1 to {MAX_COUNT} are allowed")
    plan = (sampling or pipeline.bundle.manifest.sampling).plan(pipeline.schedule)
    for batch in batches:
        graphs = dict(_calls(plan.guidance_scales))
        denoisers = [graph for graph in graphs if "denoiser" in graph and batch > 1]
        sizes = {graph: pipeline.session(graph).batch_sizes("latents") for graph in denoisers}
        if other := next((graph for graph, own in sizes.items() if own and batch not in own), None):
            refuse(
                f"a batch of {batch} is not measured: {other} takes batches of {' or '.join(map(str, sizes[other]))} on "
                f"{pipeline.backend}; build the bundle with --dynamic-batch, or engines with --profile {batch}"
            )
            continue
        for graph, calls in graphs.items():
            yield _measure(pipeline, graph, calls, batch, repeats, plan)


def _calls(scales: np.ndarray) -> Iterator[tuple[str, int]]:
    """The graphs of a generation and how often each is called for one batch."""
    unguided = int((scales == 1.0).sum())
    yield "visual_encoder", 1
    if unguided < len(scales):
        yield "denoiser", len(scales) - unguided
    if unguided:
        yield "denoiser_unguided", unguided
    yield "vae_decoder", 1
    yield "vocoder", 1


def _measure(pipeline: Pipeline, graph: str, calls: int, batch: int, repeats: int, plan: SamplingPlan) -> Row:
    loaded = graph in pipeline.loaded_graphs
    _forget_peak()
    start = time.perf_counter()
    session = pipeline.session(graph)
    work = _work(pipeline, graph, batch, plan)
    work()
    cold = None if loaded else time.perf_counter() - start
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    operations = pipeline.bundle.manifest.graphs[graph].operations
    return Row(
        graph,
        batch,
        calls,
        cold,
        statistics.median(times),
        None if operations is None else operations * batch,
        _peak(),
        session.peak_rate(),
    )


def _work(pipeline: Pipeline, graph: str, batch: int, plan: SamplingPlan) -> Work:
    """One call of a graph as in a generation, for a batch of clips; encoders run once for each clip."""
    model, frames = pipeline.model, pipeline.frames
    rng = np.random.default_rng(0)
    count = model.frame_count(frames)
    latents = rng.standard_normal(model.latent_shape(batch), np.float32)

    def call(work: Callable[[Stages], Any]) -> Work:
        return lambda: pipeline.run(lambda stages: [stages.lane.get(value) for value in work(stages)])

    if graph == "visual_encoder":
        images = rng.integers(0, 256, (count, frames.size, frames.size, 3), np.uint8)
        return call(lambda stages: [stages.encode(images) for _ in range(batch)])
    if graph == "vae_decoder":
        return call(lambda stages: stages.decode(list(latents)))
    if graph == "vocoder":
        mel = rng.standard_normal((batch, 1, model.mel_frames, model.mel_bins), np.float32) - 4
        return call(lambda stages: stages.vocode(list(mel)))
    tokens = rng.standard_normal((batch, count, model.token_width), np.float32)
    row = next(row for row, scale in enumerate(plan.guidance_scales) if denoiser(scale) == graph)
    one_step, noise = plan[row : row + 1], Noise(0, initial=latents)
    return call(lambda stages: stages.denoise(one_step, noise, list(tokens)))


def _forget_peak() -> None:
    """Reset the process's peak memory, if the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int | None:
    """The most bytes that the process used since, mapped files included; None if the system does not say."""
    if not STATUS.exists():
        return None
    lines = (line.split() for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return next((int(words[1]) * 1024 for words in lines), None)


def table(rows: Sequence[Row]) -> str:
    """The rows as text. Shares are of the sum of a batch's stages, without reading and writing files."""
    lines = [
        f"{'graph':<18}{'batch':>6}{'calls':>7}{'cold s':>9}{'warm s':>10}{'share':>7}{'Gop':>10}{'Gop/s':>8}"
        f"{'peak':>8}{'of it':>7}{'GB':>7}"
    ]
    for row in rows:
        total = sum(other.seconds for other in rows if other.batch == row.batch)
        share = None if row.peak is None or row.rate is None else row.rate / row.peak
        lines.append(
            f"{row.graph:<18}{row.batch:>6}{row.calls:>7}{_number(row.cold, '.2f'):>9}{row.warm:>10.4f}"
            f"{row.seconds / total:>7.0%}{_number(row.operations, '.1f', 1e9):>10}{_number(row.rate, '.1f', 1e9):>8}"
            f"{_number(row.peak, '.1f', 1e9):>8}{_number(share, '.0%'):>7}{_number(row.memory, '.2f', 1e9):>7}"
        )
    for batch in dict.fromkeys(row.batch for row in rows):
        seconds = sum(row.seconds for row in rows if row.batch == batch)
        lines.append(f"a batch of {batch}: {seconds:.2f} s, {seconds / batch:.2f} s a clip")
    return "\n".join(lines)


def _number(value: float | None, form: str, unit: float = 1.0) -> str:
    return "n/a" if value is None else format(value / unit, form)
