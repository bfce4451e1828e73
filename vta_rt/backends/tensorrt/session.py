"""TensorRT engines behind the ``Session`` contract, of both flavours. Knows TensorRT and lanes; knows nothing of diffusion.

Every call of one shape runs at the same addresses: its inputs are copied there, its outputs from there, so that all its
rows can be captured once, as one CUDA graph, and launched again with other numbers.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from vta_rt.backends.base import Array, Lane, OnRow, Scan, Session, Signature
from vta_rt.backends.tensorrt.cuda import CaptureError, CudaLane, DeviceArray, Graph, Lanes, aligned, reserve, use
from vta_rt.errors import DeviceError, EngineError, FallbackWarning, OptionError
from vta_rt.manifest import TensorSpec

Capture = str
"""What becomes a CUDA graph: all rows of a scan together (``loop``), one row (``step``), or nothing (``none``)."""

LONGEST_GRAPH = 500  # rows; a graph grows with them, so a longer scan is captured row by row


class EngineSource(Protocol):
    """Where engines of one bucket come from; ``vta_rt.backends.tensorrt.engines.Engines`` is one."""

    @property
    def records(self) -> Mapping[str, Signature]: ...
    def load(self, graph: str) -> bytes: ...


class TensorRTSession(Session):
    """One graph's engines, one for each batch size there is.

    Args:
        trt: the flavour's Python module.
        buckets: the engines of each bucket; loaded on first use, so that only those used take memory.
        lanes: of the device to run on. capture: see ``Capture``.

    Raises:
        EngineError: the engine cannot be read or loaded, or is not the one its record describes; also from ``run`` and
            ``scan`` when they load another batch size's.
    """

    def __init__(
        self, name: str, trt: ModuleType, buckets: Sequence[EngineSource], lanes: Lanes, capture: Capture = "loop"
    ) -> None:
        records = {bucket.records[name].inputs: bucket for bucket in buckets}
        super().__init__(name, _merged([bucket.records[name] for bucket in records.values()]))
        self.capture = capture
        self._trt = trt
        self._lanes = lanes
        self._sources = list(records.values())
        self._engines: dict[int, _Engine] = {}
        self._building = threading.Lock()  # one engine loads, one context compiles at a time
        if len(self._sources) == 1:
            self._engine(0)  # what cannot be loaded is better known now

    def batch_sizes(self, tensor: str) -> tuple[int, ...]:
        position = list(self.inputs).index(tensor)
        sizes = {source.records[self.name].inputs[position].shape[0] for source in self._sources}
        return tuple(sorted(size for size in sizes if isinstance(size, int)))

    def _run(self, feeds: Mapping[str, Array], lane: Lane | None) -> dict[str, Array]:
        plan = _Plan(self._bucket(feeds))
        return self._in(lane, lambda lane: self._loop(lane, plan).run(feeds, {}, lambda _: None))

    def _scan(self, scan: Scan, on_row: OnRow, lane: Lane | None) -> dict[str, Array]:
        arrays: dict[str, list[np.ndarray]] = {name: [scan.start[name]] for name in scan.rows}
        places: dict[str, list[int]] = {name: [] for name in scan.rows}
        for row in scan.by_row():
            for name, numbers in places.items():
                if name in row:
                    arrays[name].append(self._as_taken(name, row[name]))
                numbers.append(len(arrays[name]) - 1 if name in row else 0)
        feeds = {name: array for name, array in scan.start.items() if name in scan.carried} | dict(scan.fixed)
        slots = tuple((name, tuple(numbers)) for name, numbers in places.items())
        plan = _Plan(self._bucket({**feeds, **scan.start}), scan.count, tuple(scan.carried.items()), slots)
        return self._in(lane, lambda lane: self._loop(lane, plan).run(feeds, arrays, on_row))

    def _as_taken(self, name: str, array: np.ndarray) -> np.ndarray:
        """An array of a row in the type the engine reads: rows may come in any, the host's loop converts them as well."""
        return np.asarray(array, np.dtype(self.inputs[name].dtype))

    def _in(self, lane: Lane | None, call: Callable[[CudaLane], dict[str, DeviceArray]]) -> dict[str, Array]:
        """Call in the lane given, or in one of its own with the results brought to the host."""
        if isinstance(lane, CudaLane):
            return dict(call(lane))
        with self._lanes.lane() as own:
            return {name: own.get(array) for name, array in call(own).items()}

    def _bucket(self, feeds: Mapping[str, Array]) -> int:
        for index, source in enumerate(self._sources):
            if all(tuple(feeds[spec.name].shape) == spec.shape for spec in source.records[self.name].inputs):
                return index
        first = next(iter(self.inputs))
        raise OptionError(
            f"{self.name}: {first} is {list(feeds[first].shape)}; there are engines for "
            f"{', '.join(map(str, self.batch_sizes(first)))}"
        )

    def _loop(self, lane: CudaLane, plan: _Plan) -> _Loop:
        return lane.keep((self, plan), lambda: self._new_loop(lane, plan))

    def _new_loop(self, lane: CudaLane, plan: _Plan) -> _Loop:
        engine = self._engine(plan.bucket)
        capture: Capture = "step" if self.capture == "loop" and plan.count > LONGEST_GRAPH else self.capture
        with self._building:
            try:
                lane.activations(self._lanes.activations)  # what is the largest for now; growing later costs captures
                return _Loop(lane, engine, plan, capture)
            except CaptureError as error:
                warnings.warn(f"{self.name}: runs without a CUDA graph ({error})", FallbackWarning, stacklevel=2)
                self.capture = "none"
                return _Loop(lane, engine, plan, "none")

    def _engine(self, bucket: int) -> _Engine:
        with self._building:
            if bucket not in self._engines:
                source = self._sources[bucket]
                use(self._lanes.device)  # an engine is loaded onto the thread's device
                content = source.load(self.name)
                engine = _Engine(self._trt, self.name, content, source.records[self.name])
                self._lanes.activations = max(self._lanes.activations, engine.activations)
                self._engines[bucket] = engine
            return self._engines[bucket]


@dataclass(frozen=True)
class _Plan:
    """All of a call that a captured graph depends on: two calls of one plan differ in numbers only.

    carried: input and the output it is replaced by. slots: for each input that rows bring, which of its arrays row i
    reads; number 0 is the one it starts with.
    """

    bucket: int
    count: int = 1
    carried: tuple[tuple[str, str], ...] = ()
    slots: tuple[tuple[str, tuple[int, ...]], ...] = ()


class _Engine:
    """A loaded engine: what its tensors are, and execution contexts on it."""

    def __init__(self, trt: ModuleType, name: str, content: bytes, record: Signature) -> None:
        self.name = name
        self.specs = {spec.name: spec for spec in (*record.inputs, *record.outputs)}
        self.outputs = [spec.name for spec in record.outputs]
        self._trt = trt
        self._log = _logger(trt)
        try:
            self._runtime = trt.Runtime(self._log)
        except TypeError:  # what the bindings make of a null pointer
            raise EngineError(f"{name}: TensorRT does not start here ({self._log.last})") from None
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise EngineError(f"{name}: TensorRT cannot load its engine ({self._log.last})")
        self._engine = engine
        self.activations = max(engine.device_memory_size_v2, 1)  # bytes
        found = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        if found != self.specs.keys():
            raise EngineError(f"{name}: its engine is another graph's, with {', '.join(sorted(found))}")
        for spec in self.specs.values():
            shape = tuple(engine.get_tensor_shape(spec.name))
            if shape != spec.shape:
                raise EngineError(f"{name}: {spec.name} of its engine is {list(shape)}, not {list(spec.shape)}")

    def context(self, lane: CudaLane) -> Any:
        """A new execution context, its activations in the block that the lane's engines share."""
        trt = self._trt
        context = self._engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise DeviceError(f"{self.name}: TensorRT cannot make an execution context ({self._log.last})")
        context.set_device_memory(lane.activations(self.activations), self.activations)
        return context

    def enqueue(self, context: Any, addresses: Mapping[str, int], stream: int) -> None:
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise DeviceError(f"{self.name}: TensorRT refuses the address of {name} ({self._log.last})")
        if not context.execute_async_v3(stream):
            raise DeviceError(f"{self.name}: TensorRT could not run it ({self._log.last})")

    def enqueue_all(self, context: Any, rows: Sequence[Mapping[str, int]], stream: int) -> None:
        for addresses in rows:
            self.enqueue(context, addresses, stream)

    def check_capture(self, context: Any, stream: int) -> None:
        """Ask the flavour that knows whether a context's work can be captured."""
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(stream):
            raise CaptureError(f"{self.name}: TensorRT says that this engine cannot be captured")

    def size(self, name: str) -> int:
        """Bytes of one of its tensors, rounded up to where the next may begin."""
        spec = self.specs[name]
        return aligned(int(np.prod(_sizes(spec))) * np.dtype(spec.dtype).itemsize)


class _Loop:
    """The calls of one plan on one lane: memory at fixed addresses, contexts, and the graphs captured on them."""

    def __init__(self, lane: CudaLane, engine: _Engine, plan: _Plan, capture: Capture) -> None:
        self._lane, self._engine, self._plan = lane, engine, plan
        self._carried, self._slots = dict(plan.carried), dict(plan.slots)
        self._graphs: list[Graph] = []
        self._contexts: list[Any] = []
        with ExitStack() as resources:
            try:
                self._set_up(resources, capture)
            except BaseException:
                lane.drain()  # what was begun must not lose its memory
                raise
            self._resources = resources.pop_all()

    def run(
        self, feeds: Mapping[str, Array], rows: Mapping[str, Sequence[np.ndarray]], on_row: OnRow
    ) -> dict[str, DeviceArray]:
        """Inputs in, all rows, outputs out: into memory of the call's own, since the next call writes over these."""
        lane, plan = self._lane, self._plan
        for name, array in feeds.items():
            lane.write(self._state[0][name] if name in self._carried else self._single[name], array)
        for name, arrays in rows.items():
            lane.write_rows(self._rows[name], arrays, self._engine.size(name))
        if len(self._graphs) == 1:
            self._graphs[0].launch(lane.stream)
            on_row(plan.count)
        else:
            for index in range(plan.count):
                self._row(index)
                on_row(index + 1)
        last = self._addresses(plan.count - 1)
        return {name: self._taken(name, last[name]) for name in self._engine.outputs}

    def close(self) -> None:
        self._resources.close()

    def _set_up(self, resources: ExitStack, capture: Capture) -> None:
        """Take the memory, then make contexts and graphs: one context each, since a graph holds what is in its context."""
        engine, lane, plan = self._engine, self._lane, self._plan
        # Two sets of state: each row reads the one and writes the other.
        self._state = [{name: self._reserve(resources, name, 1) for name in self._carried} for _ in range(2)]
        # For each input that rows bring: its arrays one after another, then the place of a single captured row's.
        self._rows = {name: self._reserve(resources, name, max(slots) + 2) for name, slots in plan.slots}
        single = engine.specs.keys() - {*self._carried, *self._carried.values(), *self._rows}
        self._single = {name: self._reserve(resources, name, 1) for name in single}
        stream = int(lane.stream)
        resources.callback(self._contexts.clear)
        whole = capture == "loop" or plan.count == 1
        # The rows each graph holds: all of them, or one that reads the first state and one that reads the second.
        parts = [range(plan.count)] if whole or capture == "none" else [range(1), range(1, 2)]
        for part in parts:
            context = engine.context(lane)
            self._contexts.append(context)
            addresses = [self._addresses(index, current=not whole and capture == "step") for index in part]
            engine.enqueue(context, addresses[0], stream)  # what is prepared on first use cannot be captured
            lane.wait()
            if capture != "none":
                engine.check_capture(context, stream)
                graph = Graph(lane.stream, partial(engine.enqueue_all, context, addresses, stream))
                resources.callback(graph.close)
                self._graphs.append(graph)

    def _row(self, index: int) -> None:
        """One row without the others: by the graph of its parity, or captured in none."""
        if not self._graphs:
            self._engine.enqueue(self._contexts[0], self._addresses(index), int(self._lane.stream))
            return
        here, there = self._addresses(index), self._addresses(index, current=True)
        for name in self._rows:
            self._lane.move(there[name], here[name], self._engine.size(name))
        self._graphs[index % 2].launch(self._lane.stream)

    def _addresses(self, index: int, *, current: bool = False) -> dict[str, int]:
        """Where row ``index`` reads and writes; ``current``: what rows bring is read from the one place for all."""
        read, write = self._state[index % 2], self._state[(index + 1) % 2]
        addresses = dict(self._single)
        for name, output in self._carried.items():
            addresses[name], addresses[output] = read[name], write[name]
        for name, slots in self._slots.items():
            slot = max(slots) + 1 if current else slots[index]
            addresses[name] = self._rows[name] + slot * self._engine.size(name)
        return addresses

    def _reserve(self, resources: ExitStack, name: str, count: int) -> int:
        size = self._engine.size(name) * count
        address = reserve(resources, size)
        self._lane.clear(address, size)  # the first run, before any input is written, must not read numbers at random
        return address

    def _taken(self, name: str, address: int) -> DeviceArray:
        spec = self._engine.specs[name]
        array = self._lane.empty(_sizes(spec), spec.dtype)
        self._lane.move(array.address, address, array.nbytes)
        return array


@cache
def _logger(trt: ModuleType) -> Any:
    """A logger that keeps the last error for our own message. One a flavour: TensorRT holds on to the first it is given."""

    class Log(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.last = " ".join(message.split())[:300]

    return Log()


def _merged(records: Sequence[Signature]) -> Any:
    """One signature for several: where sizes differ, the batch."""

    def merge(specs: Sequence[TensorSpec]) -> TensorSpec:
        shapes = zip(*(spec.shape for spec in specs), strict=True)
        return replace(specs[0], shape=tuple(sizes[0] if len(set(sizes)) == 1 else "batch" for sizes in shapes))

    return _Merged(
        tuple(map(merge, zip(*(record.inputs for record in records), strict=True))),
        tuple(map(merge, zip(*(record.outputs for record in records), strict=True))),
    )


@dataclass(frozen=True)
class _Merged:
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(int(size) for size in spec.shape)
