"""The contract of a backend: ``Session``, one loaded graph, and ``Lane``, where the arrays of a call lie between graphs.

The public methods ``run``, ``scan`` and ``bind`` check their arrays; a backend writes ``_run``, and ``_scan`` and ``_bind``
where it has something better than the host's. A session knows the names, shapes and types of its graph's tensors, not what
the graph computes.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np

from vta_rt.errors import OptionError, StoppedError, VTAError, one_line
from vta_rt.manifest import Precision, TensorSpec
from vta_rt.stopping import NEVER, Stop

Array: TypeAlias = Any
"""A numpy array, or an array in a device's lane: it has a shape and a dtype, and takes ``array[i]`` and ``array[i:j]``."""
Arrays = Mapping[str, np.ndarray]
OnRow = Callable[[int], Any]
Bound = Callable[[Stop], Any]
"""A graph on arrays that stay in place; a call of it runs the graph once, unless it is stopped."""
RATE_MATRIX_SIZE = 1536  # side of the matrices whose product shows a processor's rate


class TensorSpecs(Protocol):
    """What a session needs of a record, be it the manifest's of a graph or an engine's."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...


class Lane:
    """Where the arrays of one call lie between its graphs: here, numpy arrays in the host's memory.

    A device's lane has a stream and memory of its own, so that calls in other lanes can run at the same time. A lane
    serves one thread at a time, and the arrays in it last until it is given back.

    Attributes:
        stop: when the call in this lane is stopped before its end.
    """

    stop: Stop = NEVER

    def put(self, array: np.ndarray) -> Array:
        """Copy a host array into the lane."""
        return array

    def get(self, array: Array) -> np.ndarray:
        """Copy one of the lane's arrays to the host."""
        return array

    def batch(self, clips: Sequence[Array], shape: tuple[int, ...]) -> Array:
        """Clips ``[N_i, ...]`` float32 as one batch ``[B, N, ...]``, padded with zeros.

        Clips may be shorter than the batch along their first axis, and fewer than ``B``.
        """
        batch = np.zeros(shape, np.float32)
        for row, clip in zip(batch, clips, strict=False):
            row[: len(clip)] = clip
        return batch


@dataclass(frozen=True)
class Scan:
    """A graph called once a row, with some of its outputs carried into its inputs."""

    carried: Mapping[str, str]  # input -> the output that replaces it for the next row; names every output
    start: Mapping[str, Array]  # the carried inputs before the first row, and an initial array for each of ``rows``
    fixed: Mapping[str, Array]  # inputs that stay as they are
    rows: Mapping[
        str, Iterable[np.ndarray | None]
    ]  # other inputs, an array a row; None: the graph does not use it there
    count: int  # of rows

    def by_row(self) -> Iterator[dict[str, np.ndarray]]:
        """The new arrays of each row, by input; can be iterated only once if ``rows`` can."""
        iterators = {name: iter(arrays) for name, arrays in self.rows.items()}
        for _ in range(self.count):
            arrays = {name: next(iterator) for name, iterator in iterators.items()}
            yield {name: array for name, array in arrays.items() if array is not None}


class BoundScan:
    """The arrays of a scan, allocated once, and two bindings to them.

    Args:
        scan: gives the shapes and types.
        allocate: makes an array with the content of a host array.
        bind: returns a function that runs the graph once, on inputs and outputs by name.
    """

    def __init__(
        self,
        scan: Scan,
        allocate: Callable[[np.ndarray], Any],
        bind: Callable[[dict[str, Any], dict[str, Any]], Bound],
    ) -> None:
        # Two sets of state: each row reads one and writes the other, so that nothing is copied between rows.
        self._state = [{name: allocate(scan.start[name]) for name in scan.carried} for _ in range(2)]
        self._inputs = {name: allocate(array) for name, array in scan.fixed.items()}
        self._inputs |= {name: allocate(scan.start[name]) for name in scan.rows}
        self._calls = [
            bind({**read, **self._inputs}, {output: write[name] for name, output in scan.carried.items()})
            for read, write in (self._state, self._state[::-1])
        ]

    def run(
        self,
        scan: Scan,
        write: Callable[[Any, np.ndarray], Any],
        read: Callable[[Any], np.ndarray],
        on_row: OnRow,
        stop: Stop,
    ) -> dict[str, np.ndarray]:
        """Run a scan of the same shapes; ``write`` copies a host array into one of the arrays, ``read`` copies one out."""
        for name in scan.carried:
            write(self._state[0][name], scan.start[name])
        for name, array in scan.fixed.items():
            write(self._inputs[name], array)
        for index, arrays in enumerate(scan.by_row()):
            for name, array in arrays.items():
                write(self._inputs[name], array)
            self._calls[index % 2](stop)
            on_row(index + 1)
        return {output: read(self._state[scan.count % 2][name]) for name, output in scan.carried.items()}


class Session(ABC):
    """One graph, ready to run. Safe to call from several threads at once.

    Args:
        name: the graph's name in the bundle, for messages.
        record: its inputs and outputs.
    """

    library: ClassVar[str]  # that runs the graph, for messages
    computes_in: Precision | None = None  # where it is another precision than the graph's
    failure: ClassVar[type[VTAError]] = VTAError  # raised when the library fails to run the graph

    def __init__(self, name: str, record: TensorSpecs) -> None:
        self.name = name
        self.inputs: dict[str, TensorSpec] = {spec.name: spec for spec in record.inputs}
        self.outputs: dict[str, TensorSpec] = {spec.name: spec for spec in record.outputs}

    def run(self, feeds: Mapping[str, Array], lane: Lane | None = None) -> dict[str, Array]:
        """Run the graph once.

        Args:
            feeds: the inputs, host arrays or the lane's own.
            lane: where the outputs are left; None for the host.

        Raises:
            StoppedError: the lane's call was stopped.
            OptionError: an input is missing, unknown, or of another shape or type than the graph takes.
            VTAError: the backend could not run the graph.
        """
        self._check(feeds, self.inputs)
        return self._run({name: _contiguous(array) for name, array in feeds.items()}, lane)

    def scan(self, scan: Scan, on_row: OnRow, lane: Lane | None = None) -> dict[str, Array]:
        """Run the graph once for each row and return the last outputs; nothing leaves the device in between.

        Args:
            on_row: called with the number of rows done; only at the end by a backend that runs all rows in one go.

        Raises:
            OptionError, VTAError: as for ``run``; an array of a row counts as an input.
        """
        self._check({**scan.start, **scan.fixed}, self.inputs)
        return self._scan(scan, on_row, lane)

    def bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        """Bind the graph to arrays that stay in place; returns the function that reads the inputs and fills the outputs.

        A call allocates and copies nothing. The arrays must be C-contiguous and outlive the binding. A session may have
        many bindings, each used by one thread.

        Raises:
            OptionError: as for ``run``, for inputs and outputs alike.
        """
        self._check(inputs, self.inputs)
        self._check(outputs, self.outputs)
        for name, array in (*inputs.items(), *outputs.items()):
            if not array.flags.c_contiguous:
                raise OptionError(f"{self.name}: {name} must be C-contiguous to be bound")
        return self._bind(inputs, outputs)

    def fixed_size(self, tensor: str, axis: int) -> int | None:
        """The size of one axis of an input where the graph fixes it, None where it may vary."""
        size = self.inputs[tensor].shape[axis]
        return size if isinstance(size, int) else None

    def batch_sizes(self, tensor: str) -> tuple[int, ...]:
        """The sizes the first axis of an input may have, smallest first; empty if it may have any."""
        size = self.fixed_size(tensor, 0)
        return () if size is None else (size,)

    def peak_rate(self) -> float | None:
        """Operations a second of a large matrix product in the precision this graph is computed in; None if not known."""
        return None

    @abstractmethod
    def _run(self, feeds: Mapping[str, Array], lane: Lane | None) -> dict[str, Array]: ...

    def _bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        """For a backend without bindings of its own: run, and copy the outputs."""

        def call(stop: Stop) -> None:
            stop.check()
            for name, array in self._run(inputs, None).items():
                np.copyto(outputs[name], array)

        return call

    def _scan(self, scan: Scan, on_row: OnRow, lane: Lane | None) -> dict[str, Array]:
        """On host arrays, through ``bind``."""
        bound = BoundScan(scan, lambda array: np.array(array, order="C"), self.bind)
        return bound.run(scan, np.copyto, np.array, on_row, stop_of(lane))

    def _check(self, arrays: Mapping[str, Array], specs: Mapping[str, TensorSpec]) -> None:
        if missing := specs.keys() - arrays.keys():
            raise OptionError(f"{self.name}: missing {', '.join(sorted(missing))}")
        if unknown := arrays.keys() - specs.keys():
            raise OptionError(f"{self.name}: has no {', '.join(sorted(unknown))}; it has {', '.join(specs)}")
        for name, spec in specs.items():
            array = arrays[name]
            if array.dtype != np.dtype(spec.dtype) or not _fits(array.shape, spec.shape):
                raise OptionError(
                    f"{self.name}: {name} is {array.dtype} {list(array.shape)} where the graph takes "
                    f"{spec.dtype} [{', '.join(map(str, spec.shape))}]"
                )

    @contextmanager
    def _raises_failure(self) -> Iterator[None]:
        """Whatever the library raises inside becomes one line, raised as ``failure``."""
        try:
            yield
        except StoppedError:
            raise
        except Exception as error:  # onnxruntime raises a dozen kinds without a common base, openvino its own
            raise self.failure(f"{self.name}: {self.library} could not run it ({one_line(error)})") from error


def stop_of(lane: Lane | None) -> Stop:
    """When the call in a lane is stopped before its end."""
    return NEVER if lane is None else lane.stop


def measure_rate(product: Callable[[], Any]) -> float:
    """Operations a second of a product of square matrices of ``RATE_MATRIX_SIZE``, the best of several calls."""
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - start)
    return 2.0 * RATE_MATRIX_SIZE**3 / best


def _contiguous(array: Array) -> Array:
    return np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array


def _fits(shape: tuple[int, ...], pattern: tuple[int | str, ...]) -> bool:
    return len(shape) == len(pattern) and all(
        isinstance(allowed, str) or size == allowed for size, allowed in zip(shape, pattern, strict=True)
    )
