"""TensorRT engines as sessions, of either variant.

Every call of one shape runs at the same addresses: its inputs are copied there, its outputs from there, so that all its rows
can be captured once, as one CUDA graph, and launched again with other numbers.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from vta_rt.backends.base import Array, Lane, OnRow, Scan, Session, TensorSpecs
from vta_rt.backends.tensorrt.cuda import CaptureError, CudaLane, DeviceArray, Graph, Lanes, aligned, reserve, use
from vta_rt.backends.tensorrt.engines import Engines
from vta_rt.backends.tensorrt.variants import make_logger
from vta_rt.errors import DeviceError, EngineError, FallbackWarning, OptionError
from vta_rt.manifest import TensorSpec

MAX_GRAPH_ROWS = 500  # a graph grows with them, so a longer scan is not captured


class TensorRTSession(Session):
    """The engines of one graph, one for each batch size there is.

    Args:
        trt: the variant's Python module.
        sources: the engines of each profile. Where there are several, each is loaded on first use, so that only those used
            take memory.
        lanes: of the device to run on.
        capture: whether the rows of a scan are captured as one CUDA graph.

    Raises:
        EngineError: the engine cannot be read or loaded, or is not the one its record describes; also from ``run`` and
            ``scan`` when they load the engine of another batch size.
    """

    def __init__(
        self, name: str, trt: ModuleType, sources: Sequence[Engines], lanes: Lanes, capture: bool = True
    ) -> None:
        self._sources = list({source.records[name].inputs: source for source in sources}.values())
        super().__init__(name, _merge([source.records[name] for source in self._sources]))
        self.capture = capture
        self._trt = trt
        self._lanes = lanes
        self._engines: dict[int, _Engine] = {}
        self._preparing = threading.Lock()  # one engine is loaded, one context created at a time
        if len(self._sources) == 1:
            self._engine(0)  # an engine that cannot be loaded is better known now

    def batch_sizes(self, tensor: str) -> tuple[int, ...]:
        position = list(self.inputs).index(tensor)
        sizes = {source.records[self.name].inputs[position].shape[0] for source in self._sources}
        return tuple(sorted(size for size in sizes if isinstance(size, int)))

    def _run(self, feeds: Mapping[str, Array], lane: Lane | None) -> dict[str, Array]:
        plan = _Plan(self._source_index(feeds))
        return self._in_lane(lane, lambda lane: self._scan_on(lane, plan).run(feeds, {}, lambda _: None))

    def _scan(self, scan: Scan, on_row: OnRow, lane: Lane | None) -> dict[str, Array]:
        arrays: dict[str, list[np.ndarray]] = {name: [scan.start[name]] for name in scan.rows}
        slots: dict[str, list[int]] = {name: [] for name in scan.rows}
        for row in scan.by_row():
            for name, numbers in slots.items():
                if name in row:
                    # Rows may come in any type, as they do for the host's loop, which converts them as well.
                    arrays[name].append(np.asarray(row[name], np.dtype(self.inputs[name].dtype)))
                numbers.append(len(arrays[name]) - 1 if name in row else 0)
        feeds = {name: array for name, array in scan.start.items() if name in scan.carried} | dict(scan.fixed)
        plan = _Plan(
            self._source_index({**feeds, **scan.start}),
            scan.count,
            tuple(scan.carried.items()),
            tuple((name, tuple(numbers)) for name, numbers in slots.items()),
        )
        return self._in_lane(lane, lambda lane: self._scan_on(lane, plan).run(feeds, arrays, on_row))

    def _in_lane(self, lane: Lane | None, call: Callable[[CudaLane], dict[str, DeviceArray]]) -> dict[str, Array]:
        """Call in the lane given, or in one taken for the call, whose results are brought to the host."""
        if isinstance(lane, CudaLane):
            return dict(call(lane))
        with self._lanes.lane() as own:
            return {name: own.get(array) for name, array in call(own).items()}

    def _source_index(self, feeds: Mapping[str, Array]) -> int:
        """Which source has the engine for inputs of these shapes."""
        for index, source in enumerate(self._sources):
            if all(tuple(feeds[spec.name].shape) == spec.shape for spec in source.records[self.name].inputs):
                return index
        first = next(iter(self.inputs))
        sizes = ", ".join(map(str, self.batch_sizes(first)))
        raise OptionError(f"{self.name}: {first} is {list(feeds[first].shape)}; there are engines for {sizes}")

    def _scan_on(self, lane: CudaLane, plan: _Plan) -> _PlannedScan:
        def prepare() -> _PlannedScan:
            engine = self._engine(plan.source)
            with self._preparing:
                lane.activations(self._lanes.activations)  # the largest known so far: to grow later costs the captures
                try:
                    return _PlannedScan(lane, engine, plan, capture=self.capture and plan.count <= MAX_GRAPH_ROWS)
                except CaptureError as error:
                    warnings.warn(f"{self.name}: runs without a CUDA graph ({error})", FallbackWarning, stacklevel=2)
                    self.capture = False
                    return _PlannedScan(lane, engine, plan, capture=False)

        return lane.keep((self, plan), prepare)

    def _engine(self, index: int) -> _Engine:
        with self._preparing:
            if index not in self._engines:
                source = self._sources[index]
                use(self._lanes.device)  # an engine is loaded onto the thread's device
                engine = _Engine(self._trt, self.name, source.load(self.name), source.records[self.name])
                self._lanes.activations = max(self._lanes.activations, engine.activations)
                self._engines[index] = engine
            return self._engines[index]


@dataclass(frozen=True)
class _Plan:
    """Everything in a call that a captured graph depends on: calls of the same plan differ in their numbers only."""

    source: int  # index of the source whose engine runs
    count: int = 1  # of rows
    carried: tuple[tuple[str, str], ...] = ()  # an input and the output that replaces it for the next row
    # Of each input that rows bring: which of its arrays row i reads; 0 is the one it starts with.
    slots: tuple[tuple[str, tuple[int, ...]], ...] = ()


class _Engine:
    """A loaded engine: what its tensors are, and execution contexts on it."""

    def __init__(self, trt: ModuleType, name: str, content: bytes, record: TensorSpecs) -> None:
        self.name = name
        self.specs = {spec.name: spec for spec in (*record.inputs, *record.outputs)}
        self.outputs = [spec.name for spec in record.outputs]
        self._trt = trt
        self._log = make_logger(trt)
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

    def check_capture(self, context: Any, stream: int) -> None:
        """Ask the variant that knows whether a context's work can be captured."""
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(stream):
            raise CaptureError(f"{self.name}: TensorRT says that this engine cannot be captured")

    def size(self, name: str) -> int:
        """Bytes of one of its tensors, rounded up to where the next may begin."""
        spec = self.specs[name]
        return aligned(int(np.prod(_sizes(spec))) * np.dtype(spec.dtype).itemsize)


class _PlannedScan:
    """The calls of one plan on one lane: memory at fixed addresses, a context, and the graph captured on it."""

    def __init__(self, lane: CudaLane, engine: _Engine, plan: _Plan, *, capture: bool) -> None:
        self._lane, self._engine, self._plan = lane, engine, plan
        self._graph: Graph | None = None
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
        """Copy the inputs in, run all rows, and copy the outputs into memory of the call's own: the next call reuses this."""
        lane, count = self._lane, self._plan.count
        for name, array in feeds.items():
            lane.write(self._addresses(0)[name], array)
        for name, arrays in rows.items():
            lane.write_rows(self._rows[name], arrays, self._engine.size(name))
        if self._graph is not None:
            self._graph.launch(lane.stream)
            on_row(count)
        else:
            for index in range(count):
                self._enqueue(index)
                on_row(index + 1)
        last = self._addresses(count - 1)
        return {name: self._copy_out(name, last[name]) for name in self._engine.outputs}

    def close(self) -> None:
        self._resources.close()

    def _set_up(self, resources: ExitStack, capture: bool) -> None:
        engine, lane, plan = self._engine, self._lane, self._plan
        carried = dict(plan.carried)
        # Two sets of state: each row reads one and writes the other.
        self._state = [{name: self._reserve(resources, name, 1) for name in carried} for _ in range(2)]
        # Of each input that rows bring: its arrays one after another.
        self._rows = {name: self._reserve(resources, name, max(slots) + 1) for name, slots in plan.slots}
        single = engine.specs.keys() - {*carried, *carried.values(), *self._rows}
        self._single = {name: self._reserve(resources, name, 1) for name in single}
        self._context = engine.context(lane)
        resources.callback(vars(self).pop, "_context")  # which must go before its memory
        self._enqueue(0)  # what is prepared on first use cannot be captured
        lane.wait()
        if capture:
            engine.check_capture(self._context, int(lane.stream))
            self._graph = Graph(lane.stream, self._enqueue_all)
            resources.callback(self._graph.close)

    def _enqueue(self, index: int) -> None:
        self._engine.enqueue(self._context, self._addresses(index), int(self._lane.stream))

    def _enqueue_all(self) -> None:
        for index in range(self._plan.count):
            self._enqueue(index)

    def _addresses(self, index: int) -> dict[str, int]:
        """Where row ``index`` reads and writes, by tensor."""
        read, write = self._state[index % 2], self._state[(index + 1) % 2]
        addresses = self._single | read | {output: write[name] for name, output in self._plan.carried}
        for name, slots in self._plan.slots:
            addresses[name] = self._rows[name] + slots[index] * self._engine.size(name)
        return addresses

    def _reserve(self, resources: ExitStack, name: str, count: int) -> int:
        size = self._engine.size(name) * count
        address = reserve(resources, size)
        self._lane.clear(address, size)  # the first run, before any input is written, must not read whatever was there
        return address

    def _copy_out(self, name: str, address: int) -> DeviceArray:
        spec = self._engine.specs[name]
        array = self._lane.empty(_sizes(spec), spec.dtype)
        self._lane.move(array.address, address, array.nbytes)
        return array


def _merge(records: Sequence[Any]) -> Any:
    """One record for several: sizes that differ become the batch axis."""

    def merge(specs: Sequence[TensorSpec]) -> TensorSpec:
        axes = zip(*(spec.shape for spec in specs), strict=True)
        return replace(specs[0], shape=tuple(sizes[0] if len(set(sizes)) == 1 else "batch" for sizes in axes))

    inputs, outputs = (
        tuple(map(merge, zip(*(getattr(record, kind) for record in records), strict=True)))
        for kind in ("inputs", "outputs")
    )
    return replace(records[0], inputs=inputs, outputs=outputs)


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(int(size) for size in spec.shape)
