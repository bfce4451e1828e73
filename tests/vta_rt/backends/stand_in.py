"""A STAND-IN for CUDA and TensorRT: no GPU, no library of either, only their rules, on the host's memory.

It shows that our calls come in the right order, with the right addresses, and that all is given back whichever of them
fails. It does not show that a GPU does what it is told.

What is put on a stream runs when the stream is waited for, in order, as late as a GPU may: whoever reads too early reads
garbage. New memory holds garbage; what is read or written outside of it, or after it was freed, is an error.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np

from vta_rt.manifest import TensorSpec

GARBAGE = 0xFF  # four of them are a float that is not a number


class Error(Enum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorUnknown = 999


class Stream:
    def __init__(self, number: int) -> None:
        self.number = number
        self.thread = threading.get_ident()
        self.queue: list[Callable[[], None]] = []
        self.capture: Graph | None = None

    def __int__(self) -> int:
        return self.number

    def put(self, work: Callable[[], None], context: Context | None = None) -> None:
        if self.capture is None:
            self.queue.append(work)
        else:
            self.capture.work.append(work)
            self.capture.contexts |= {context} - {None}

    def run(self) -> None:
        while self.queue:
            self.queue.pop(0)()


class Graph:
    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.contexts: set[Any] = set()

    def __int__(self) -> int:
        return id(self)


class Machine:
    """One machine with one GPU. ``cudart`` and ``trt`` stand for the modules."""

    def __init__(self) -> None:
        self.kernels: dict[str, Any] = {}  # what engine files hold, by their content
        self.calls: list[tuple[str, tuple[Any, ...]]] = []  # all calls so far
        self.fail: int | None = None  # number of the call that shall fail
        self.blocks: dict[int, Any] = {}  # address -> memory; device and pinned
        self.streams: dict[int, Stream] = {}
        self.graphs: set[Graph] = set()
        self.executables: set[Graph] = set()
        self.contexts = 0  # alive
        self.capturing = threading.local()
        self._lock = threading.RLock()
        self.cudart = _cudart(self)
        self.trt = _tensorrt(self)

    @property
    def held(self) -> tuple[int, ...]:
        """What is not given back: blocks, streams, graphs, executables and contexts."""
        return len(self.blocks), len(self.streams), len(self.graphs), len(self.executables), self.contexts

    def called(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for called, arguments in self.calls if called == name]

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def fails(self, name: str, *arguments: Any) -> bool:
        """Note a call; whether it is the one that shall fail."""
        with self._lock:
            self.calls.append((name, arguments))
            return self.fail == len(self.calls) - 1

    def reserve(self, size: int) -> int:
        memory = (ctypes.c_uint8 * (size + 256))()
        address = -(-ctypes.addressof(memory) // 256) * 256
        ctypes.memset(address, GARBAGE, size)
        with self._lock:
            self.blocks[address] = (memory, size)
        return address

    def view(self, address: int, size: int) -> int:
        """An address, after a look whether so many bytes of live memory are there."""
        with self._lock:
            assert any(
                start <= address and address + size <= start + length for start, (_, length) in self.blocks.items()
            )
        return address

    def array(self, address: int, spec: TensorSpec) -> np.ndarray:
        size = int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
        memory = (ctypes.c_uint8 * size).from_address(self.view(address, size))
        return np.frombuffer(memory, spec.dtype).reshape(spec.shape)


def _cudart(machine: Machine) -> Any:
    ok, failed = Error.cudaSuccess, Error.cudaErrorUnknown
    module = SimpleNamespace(
        cudaError_t=Error,
        cudaStreamNonBlocking=1,
        cudaHostAllocDefault=0,
        cudaStreamCaptureMode=SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread"),
        cudaMemcpyKind=SimpleNamespace(
            cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down", cudaMemcpyDeviceToDevice="there"
        ),
        cudaDeviceAttr=SimpleNamespace(cudaDevAttrComputeCapabilityMajor=8, cudaDevAttrComputeCapabilityMinor=9),
        cudaGetLastError=lambda: (ok,),
        cudaGetErrorString=lambda error: (ok, b"the stand-in was told to fail"),
    )

    def call(function: Callable[..., Any], name: str = "") -> None:
        """One CUDA call: a tuple that begins with the error, and None for each value of a call that failed."""
        name = name or function.__name__

        def called(*arguments: Any) -> tuple[Any, ...]:
            if machine.fails(name, *arguments):
                if any(word in name for word in ("Free", "Destroy", "EndCapture")):
                    function(*arguments)  # what ends something ends it, whatever it reports
                if name == "cudaStreamSynchronize":
                    arguments[0].queue.clear()  # it fails because what was on the stream has failed
                return failed, None, None
            values = function(*arguments)
            return (ok, *values) if isinstance(values, tuple) else (ok, values)

        setattr(module, name, called)

    def not_while_capturing() -> None:
        assert getattr(machine.capturing, "stream", None) is None, "not allowed while this thread captures"

    def allocate(size: int, flags: int = 0) -> int:
        not_while_capturing()
        return machine.reserve(size)

    def copy(target: int, source: int, size: int, kind: str, stream: Stream) -> None:
        stream.put(lambda: ctypes.memmove(machine.view(target, size), machine.view(source, size), size))

    def clear(address: int, value: int, size: int, stream: Stream) -> None:
        stream.put(lambda: ctypes.memset(machine.view(address, size), value, size))

    for name, function in {
        "cudaSetDevice": lambda device: None,
        "cudaDeviceGetAttribute": lambda attribute, device: attribute,
        "cudaMalloc": allocate,
        "cudaHostAlloc": allocate,
        "cudaFreeHost": lambda address: machine.blocks.pop(address),
        "cudaStreamDestroy": lambda stream: machine.streams.pop(stream.number),
        "cudaMemcpyAsync": copy,
        "cudaMemsetAsync": clear,
        "cudaGraphGetNodes": lambda graph: (None, len(graph.work)),
    }.items():
        call(function, name)

    @call
    def cudaFree(address: int) -> None:
        assert not any(stream.queue for stream in machine.streams.values() if stream.thread == threading.get_ident())
        del machine.blocks[address]

    @call
    def cudaStreamCreateWithFlags(flags: int) -> Stream:
        assert flags == 1, "only a non-blocking stream can be captured beside others"
        stream = Stream(0x5000 + len(machine.calls))
        machine.streams[stream.number] = stream
        return stream

    @call
    def cudaStreamSynchronize(stream: Stream) -> None:
        not_while_capturing()
        stream.run()

    @call
    def cudaStreamBeginCapture(stream: Stream, mode: str) -> None:
        assert mode == "thread"
        stream.capture = Graph()
        machine.capturing.stream = stream

    @call
    def cudaStreamEndCapture(stream: Stream) -> Graph:
        graph, stream.capture, machine.capturing.stream = stream.capture, None, None
        if machine.fail != len(machine.calls) - 1:
            machine.graphs.add(graph)
        return graph

    @call
    def cudaGraphInstantiate(graph: Graph, flags: int) -> Graph:
        executable = Graph()
        executable.work, executable.contexts = list(graph.work), set(graph.contexts)
        machine.executables.add(executable)
        return executable

    @call
    def cudaGraphUpload(executable: Graph, stream: Stream) -> None:
        assert executable in machine.executables

    @call
    def cudaGraphLaunch(executable: Graph, stream: Stream) -> None:
        assert executable in machine.executables
        assert all(context.captured is executable or not context.captured for context in executable.contexts)
        for context in executable.contexts:
            context.captured = executable
        for work in executable.work:
            stream.put(work)

    @call
    def cudaGraphDestroy(graph: Graph) -> None:
        machine.graphs.remove(graph)
        graph.contexts.clear()
        graph.work.clear()

    @call
    def cudaGraphExecDestroy(executable: Graph) -> None:
        machine.executables.remove(executable)
        for context in executable.contexts:
            context.captured = None
        executable.contexts.clear()
        executable.work.clear()

    return module


class Context:
    """An execution context of the stand-in. captured: the graph that holds it, which it must serve alone."""

    def __init__(self, machine: Machine, engine: Any) -> None:
        self.machine, self.engine = machine, engine
        self.captured: Graph | None = None
        self.memory: tuple[int, int] | None = None
        self.addresses: dict[str, int] = {}
        machine.contexts += 1

    def __del__(self) -> None:
        self.machine.contexts -= 1

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= self.engine.device_memory_size_v2
        self.memory = (address, size)

    def set_tensor_address(self, name: str, address: int) -> bool:
        if self.machine.fails("set_tensor_address", name, address):
            return False
        assert address % 256 == 0
        self.addresses[name] = address
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return True

    def execute_async_v3(self, number: int) -> bool:
        stream = self.machine.streams[number]
        if self.machine.fails("execute_async_v3", number, dict(self.addresses)):
            return False
        assert self.memory is not None
        assert self.captured is None, "a context that a graph holds is not to be used without it"
        addresses = dict(self.addresses)
        memory = self.memory

        def work() -> None:
            self.machine.view(*memory)
            ctypes.memset(memory[0], GARBAGE, memory[1])  # what shares the block finds nothing of the last engine there
            arrays = {name: self.machine.array(addresses[name], spec) for name, spec in self.engine.specs.items()}
            for name, value in self.engine.compute(arrays).items():
                arrays[name][...] = value

        stream.put(work, self)
        return True


class StandInEngine:
    def __init__(self, machine: Machine, kernel: Any) -> None:
        self.machine = machine
        self.specs = {spec.name: spec for spec in (*kernel.inputs, *kernel.outputs)}
        self.compute = kernel.compute
        self.device_memory_size_v2 = kernel.activations
        self.num_io_tensors = len(self.specs)

    def get_tensor_name(self, index: int) -> str:
        return list(self.specs)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.specs[name].shape

    def create_execution_context(self, strategy: str) -> Context | None:
        assert strategy == "user managed"
        return None if self.machine.fails("create_execution_context") else Context(self.machine, self)


def _tensorrt(machine: Machine) -> Any:
    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = range(3)

        def __init__(self) -> None:
            pass

    class Runtime:
        def __init__(self, log: ILogger) -> None:
            self.log = log

        def deserialize_cuda_engine(self, content: bytes) -> StandInEngine | None:
            """``content`` names one of ``machine.kernels``."""
            if machine.fails("deserialize_cuda_engine") or content.decode() not in machine.kernels:
                self.log.log(ILogger.ERROR, "the stand-in cannot\nread this")
                return None
            return StandInEngine(machine, machine.kernels[content.decode()])

    strategies = SimpleNamespace(USER_MANAGED="user managed")
    # Not a SimpleNamespace: the module is a key where loggers are kept.
    return type(
        "TensorRT", (), {"ILogger": ILogger, "Runtime": Runtime, "ExecutionContextAllocationStrategy": strategies}
    )
