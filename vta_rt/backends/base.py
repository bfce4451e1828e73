"""The contract of a backend: ``Session``, one loaded graph, and ``Lane``, where the arrays of a call lie between graphs.

Public methods check; a backend fills in what is behind them. A session knows the names, shapes and types of its graph,
never what the graph computes; that one call's outputs may be the next call's inputs is all it knows of loops (``scan``).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from vta_rt.errors import BundleError, OptionError
from vta_rt.manifest import TensorSpec

Array: TypeAlias = Any
"""A numpy array, or what a device's lane has in its place: with a shape, a dtype, and ``array[i]``, ``array[i:j]``."""
Arrays = Mapping[str, np.ndarray]
OnRow = Callable[[int], Any]


class Signature(Protocol):
    """What a session takes from a record: the manifest's of a graph, or an engine's."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...


class Lane:
    """Where the arrays of one call lie between its graphs: here, in the host's memory, as numpy's.

    A device's lane has a stream and memory of its own, so that calls in other lanes run beside it. A lane serves one
    thread at a time, and the arrays in it last until it is given back.
    """

    def put(self, array: np.ndarray) -> Array:
        """The lane's form of a host array."""
        return array

    def get(self, array: Array) -> np.ndarray:
        """The host's form of one of the lane's arrays."""
        return array

    def batch(self, clips: Sequence[Array], shape: tuple[int, ...]) -> Array:
        """Clips ``[N_i, ...]`` float32 as one batch ``[B, N, ...]``: zeros after a short one, and for those missing.

        Only the clips' first axis may be shorter than the batch's.
        """
        batch = np.zeros(shape, np.float32)
        for row, clip in zip(batch, clips, strict=False):
            row[: len(clip)] = clip
        return batch


@dataclass(frozen=True)
class Scan:
    """A graph called once a row, some of its outputs carried into its inputs.

    carried: input -> the output it is replaced by for the next row; no output is left out. fixed: inputs that stay as they
    are. rows: every other input, an array a row; None where the graph multiplies what it reads by zero, so that any
    numbers will do. start: the carried inputs before the first row, and an array for each of ``rows`` to begin with.
    count: how many rows.
    """

    carried: Mapping[str, str]
    start: Mapping[str, Array]
    fixed: Mapping[str, Array]
    rows: Mapping[str, Iterable[np.ndarray | None]]
    count: int

    def by_row(self) -> Iterator[dict[str, np.ndarray]]:
        """The arrays each row brings, by input; can be gone through once where ``rows`` can."""
        iterators = {name: iter(arrays) for name, arrays in self.rows.items()}
        for _ in range(self.count):
            arrays = {name: next(iterator) for name, iterator in iterators.items()}
            yield {name: array for name, array in arrays.items() if array is not None}


class Session(ABC):
    """One graph, ready to run. Safe to call from several threads at once.

    Args:
        name: the graph's name in the bundle, for messages.
        record: its inputs and outputs.
    """

    def __init__(self, name: str, record: Signature) -> None:
        self.name = name
        self.inputs: dict[str, TensorSpec] = {spec.name: spec for spec in record.inputs}
        self.outputs: dict[str, TensorSpec] = {spec.name: spec for spec in record.outputs}

    def run(self, feeds: Mapping[str, Array], lane: Lane | None = None) -> dict[str, Array]:
        """Run once; arrays in, arrays out.

        Args:
            feeds: host arrays or the lane's own. lane: where the results shall lie; None for the host.

        Raises:
            OptionError: an input is missing, unknown, or of another shape or type than the graph takes.
            VTAError: the backend could not run the graph.
        """
        self._check(feeds, self.inputs)
        return self._run({name: _contiguous(array) for name, array in feeds.items()}, lane)

    def scan(self, scan: Scan, on_row: OnRow, lane: Lane | None = None) -> dict[str, Array]:
        """Run once a row and return the outputs of the last; nothing leaves the device in between.

        Args:
            on_row: called with the number of rows done, once at the end by a backend that runs them all in one go.

        Raises:
            OptionError, VTAError: as for ``run``; an array of a row counts as an input.
        """
        self._check({**scan.start, **scan.fixed}, self.inputs)
        return self._scan(scan, on_row, lane)

    def bind(self, inputs: Arrays, outputs: Arrays) -> Callable[[], None]:
        """Tie the graph to arrays that stay in place, and return the call that reads the one and fills the other.

        For loops: nothing is allocated or copied per call. The arrays must be C-contiguous and outlive the call.
        One binding belongs to one thread; a session may have many.

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
        """The sizes the first axis of an input may have, smallest first; none named where any will do."""
        size = self.fixed_size(tensor, 0)
        return () if size is None else (size,)

    def peak_rate(self) -> float | None:
        """Operations a second of a large matrix product in the precision this graph is computed in; None if not known."""
        return None

    @abstractmethod
    def _run(self, feeds: Mapping[str, Array], lane: Lane | None) -> dict[str, Array]: ...

    def _bind(self, inputs: Arrays, outputs: Arrays) -> Callable[[], None]:
        """For a backend that has nothing better: run, and copy what came out."""

        def call() -> None:
            for name, array in self._run(inputs, None).items():
                np.copyto(outputs[name], array)

        return call

    def _scan(self, scan: Scan, on_row: OnRow, lane: Lane | None) -> dict[str, Array]:
        """On host arrays, through ``bind``."""
        # Two sets of state: each row reads the one and writes the other, so nothing is copied between rows.
        state = [{name: np.array(scan.start[name], order="C") for name in scan.carried} for _ in range(2)]
        row = {name: np.array(scan.start[name], order="C") for name in scan.rows}
        fixed = {name: np.ascontiguousarray(array) for name, array in scan.fixed.items()}
        calls = [
            self.bind({**read, **row, **fixed}, {output: write[name] for name, output in scan.carried.items()})
            for read, write in (state, state[::-1])
        ]
        for index, arrays in enumerate(scan.by_row()):
            for name, array in arrays.items():
                np.copyto(row[name], array)
            calls[index % 2]()
            on_row(index + 1)
        return {output: state[scan.count % 2][name] for name, output in scan.carried.items()}

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

    def _check_signature(self, inputs: list[TensorSpec], outputs: list[TensorSpec], path: object) -> None:
        """Refuse a graph file whose inputs or outputs are not those the manifest lists."""
        for kind, found, expected in (("inputs", inputs, self.inputs), ("outputs", outputs, self.outputs)):
            if {(s.name, s.dtype, _pattern(s)) for s in found} != {
                (s.name, s.dtype, _pattern(s)) for s in expected.values()
            }:
                raise BundleError(
                    f"{path}: is not the graph {self.name}: its {kind} are "
                    f"{', '.join(f'{s.name} {s.dtype} {list(s.shape)}' for s in found)}"
                )


def best_rate(product: Callable[[], Any], side: int) -> float:
    """Operations a second of a product of square matrices, the best of several calls."""
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - start)
    return 2.0 * side**3 / best


def _contiguous(array: Array) -> Array:
    return np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array


def _pattern(spec: TensorSpec) -> tuple[int | None, ...]:
    """A shape with the names of its varying axes left out: backends rename those."""
    return tuple(size if isinstance(size, int) else None for size in spec.shape)


def _fits(shape: tuple[int, ...], pattern: tuple[int | str, ...]) -> bool:
    return len(shape) == len(pattern) and all(
        isinstance(allowed, str) or size == allowed for size, allowed in zip(shape, pattern, strict=True)
    )
