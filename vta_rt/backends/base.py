"""The contract of a backend: ``Session``, one loaded graph. Public methods check; a backend fills in what is behind them.

A session knows the names, shapes and types of its graph, never what the graph computes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import numpy as np

from vta_rt.errors import BundleError, OptionError
from vta_rt.manifest import GraphRecord, TensorSpec

Arrays = Mapping[str, np.ndarray]


class Session(ABC):
    """One graph, ready to run. Safe to call from several threads at once.

    Args:
        name: the graph's name in the bundle, for messages.
        record: what the manifest says of it.
    """

    def __init__(self, name: str, record: GraphRecord) -> None:
        self.name = name
        self.inputs: dict[str, TensorSpec] = {spec.name: spec for spec in record.inputs}
        self.outputs: dict[str, TensorSpec] = {spec.name: spec for spec in record.outputs}

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Run once; arrays in, arrays out.

        Raises:
            OptionError: an input is missing, unknown, or of another shape or type than the graph takes.
            VTAError: the backend could not run the graph.
        """
        self._check(feeds, self.inputs)
        return self._run({name: np.ascontiguousarray(array) for name, array in feeds.items()})

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

    @abstractmethod
    def _run(self, feeds: Arrays) -> dict[str, np.ndarray]: ...

    @abstractmethod
    def _bind(self, inputs: Arrays, outputs: Arrays) -> Callable[[], None]: ...

    def _check(self, arrays: Arrays, specs: Mapping[str, TensorSpec]) -> None:
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


def _pattern(spec: TensorSpec) -> tuple[int | None, ...]:
    """A shape with the names of its varying axes left out: backends rename those."""
    return tuple(size if isinstance(size, int) else None for size in spec.shape)


def _fits(shape: tuple[int, ...], pattern: tuple[int | str, ...]) -> bool:
    return len(shape) == len(pattern) and all(
        isinstance(allowed, str) or size == allowed for size, allowed in zip(shape, pattern, strict=True)
    )
