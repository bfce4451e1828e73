"""CUDA: memory, streams, captured graphs, lanes.

Every call is checked. A failure is raised as ``DeviceError``, and everything its lane held is given back; other lanes and the
rest of the process go on, unless the driver itself says that it cannot.
"""

from __future__ import annotations

import ctypes
import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from vta_rt.backends.base import Array, Lane
from vta_rt.errors import DeviceError

try:
    from cuda.bindings import runtime as cudart
except ImportError:  # the extra tensorrt brings it
    cudart = None

MEMORY_ALIGNMENT = 256  # bytes; TensorRT asks it of all memory
MAX_LANES = 4  # calls a device serves at once; each has an activation block of its own
MAX_PINNED_BYTES = 256 * 2**20  # of pinned memory a lane has in use at once
MAX_KEPT = 16  # captured graphs and the like that a lane keeps
_NOT_INSTALLED = 'GPU: cuda-bindings is not installed; it comes with: pip install "vta-rt[tensorrt]"'
# After these, every further call of the process fails too: the driver has given the process up.
_FATAL = (
    "cudaErrorIllegalAddress",
    "cudaErrorLaunchFailure",
    "cudaErrorLaunchTimeout",
    "cudaErrorIllegalInstruction",
    "cudaErrorMisalignedAddress",
    "cudaErrorInvalidAddressSpace",
    "cudaErrorInvalidPc",
    "cudaErrorHardwareStackError",
    "cudaErrorAssert",
    "cudaErrorECCUncorrectable",
)


class CaptureError(DeviceError):
    """Work that cannot be captured as a graph; it may well run without."""


def check(result: tuple[Any, ...], doing: str) -> Any:
    """The value of a CUDA call, or a tuple of its values.

    Raises:
        DeviceError: the call failed; ``doing`` says what it was for.
    """
    error, *values = result
    if error != cudart.cudaError_t.cudaSuccess:
        cudart.cudaGetLastError()  # or whoever asks next, perhaps another library, gets it again
        _, text = cudart.cudaGetErrorString(error)
        rest = "; start the program again to use the GPU" if error.name in _FATAL else ""
        raise DeviceError(f"GPU: cannot {doing}: {text.decode()} ({error.name}){rest}")
    return values[0] if len(values) == 1 else tuple(values)


def need_gpu() -> None:
    """See that there is a GPU, by asking the driver itself, which needs no package.

    Raises:
        DeviceError: there is no NVIDIA driver or no GPU.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        raise DeviceError("there is no NVIDIA GPU with a driver here") from None
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
        raise DeviceError("the NVIDIA driver finds no GPU here")


def use(device: int) -> None:
    """Select the calling thread's device. Without it engines load onto another one, and captures record nothing."""
    if cudart is None:
        raise DeviceError(_NOT_INSTALLED)
    check(cudart.cudaSetDevice(device), f"use device {device}")


def compute_capability(device: int = 0) -> str:
    """Of a GPU, such as ``8.6``.

    Raises:
        DeviceError: there is no GPU, no driver, or no cuda-bindings to ask.
    """
    if cudart is None:
        raise DeviceError(_NOT_INSTALLED)
    numbers = (
        check(cudart.cudaDeviceGetAttribute(attribute, device), f"use device {device}")
        for attribute in (
            cudart.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor,
            cudart.cudaDeviceAttr.cudaDevAttrComputeCapabilityMinor,
        )
    )
    return ".".join(map(str, numbers))


def reserve(resources: ExitStack, size: int) -> int:
    """Device memory of ``size`` bytes for as long as ``resources`` is open; its address."""
    address = int(check(cudart.cudaMalloc(max(size, MEMORY_ALIGNMENT)), f"reserve {size:,} bytes"))
    resources.callback(lambda: cudart.cudaFree(address))
    return address


def reserve_pinned(resources: ExitStack, size: int) -> int:
    """Pinned host memory of ``size`` bytes, which the device can copy from and to by itself; its address."""
    flags = cudart.cudaHostAllocDefault
    address = int(check(cudart.cudaHostAlloc(size, flags), f"pin {size:,} bytes of host memory"))
    resources.callback(lambda: cudart.cudaFreeHost(address))
    return address


def host_view(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Host memory at an address as an array."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype).reshape(shape)


def aligned(size: int) -> int:
    """``size`` rounded up to where the next array may begin."""
    return -(-size // MEMORY_ALIGNMENT) * MEMORY_ALIGNMENT


@dataclass(frozen=True)
class DeviceArray:
    """An array in a lane's memory. It does not own the memory: it is valid until the lane is given back."""

    address: int  # of its first byte, on the device
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> DeviceArray:
        """One entry of the first axis, or several consecutive ones."""
        places = range(len(self))[index]  # raises IndexError as lists do
        start, shape = (
            (places, self.shape[1:]) if isinstance(places, int) else (places.start, (len(places), *self.shape[1:]))
        )
        if isinstance(places, range) and places.step != 1:
            raise IndexError("only consecutive entries of a device array can be taken")
        return DeviceArray(self.address + start * math.prod(self.shape[1:]) * self.dtype.itemsize, shape, self.dtype)


class Graph:
    """The work that ``record`` puts on a stream, captured once, to be launched repeatedly with the same addresses.

    Raises:
        CaptureError: it cannot be captured, or there was none; the stream is usable as before.
    """

    def __init__(self, stream: Any, record: Callable[[], None]) -> None:
        with ExitStack() as unfinished:
            try:
                graph = _record(stream, record)
                try:
                    _, nodes = check(cudart.cudaGraphGetNodes(graph), "count the nodes of a graph")
                    if nodes == 0:
                        raise DeviceError("GPU: a capture recorded nothing; the engine may be on another device")
                    self._executable = check(cudart.cudaGraphInstantiate(graph, 0), "instantiate a graph")
                finally:
                    cudart.cudaGraphDestroy(graph)
                unfinished.callback(self.close)
                check(cudart.cudaGraphUpload(self._executable, stream), "upload a graph")
            except DeviceError as error:
                raise CaptureError(str(error)) from error
            unfinished.pop_all()

    def launch(self, stream: Any) -> None:
        check(cudart.cudaGraphLaunch(self._executable, stream), "launch a graph")

    def close(self) -> None:
        cudart.cudaGraphExecDestroy(self._executable)


def _record(stream: Any, record: Callable[[], None]) -> Any:
    mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal  # other lanes may allocate meanwhile
    check(cudart.cudaStreamBeginCapture(stream, mode), "begin a capture")
    try:
        record()
    except BaseException:
        _, graph = cudart.cudaStreamEndCapture(stream)  # whatever it returns, the stream must leave the capture
        if graph is not None and int(graph):
            cudart.cudaGraphDestroy(graph)
        cudart.cudaGetLastError()
        raise
    return check(cudart.cudaStreamEndCapture(stream), "end a capture")


class CudaLane(Lane):
    """What one call uses on a device: a stream, memory, and whatever sessions keep there (captured graphs, contexts).

    Memory is lent to a call and reused by the next one, so that a lane soon allocates nothing more.
    """

    def __init__(self, device: int) -> None:
        use(device)
        # Not the default stream: that one cannot be captured, and all lanes would wait for each other.
        self.stream = check(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking), "create a stream")
        self._resources = ExitStack()
        self._resources.callback(lambda: cudart.cudaStreamDestroy(self.stream))
        self._memory = _BlockPool(self._resources, reserve)
        self._pinned = _BlockPool(self._resources, reserve_pinned)
        self._activation_block = self._resources.enter_context(ExitStack())
        self._activation_address = self._activation_size = 0
        self._kept: dict[Any, Any] = {}  # least recently used first

    def empty(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        """Uninitialised device memory for an array, until the lane is given back."""
        dtype = np.dtype(dtype)
        return DeviceArray(self._memory.take(math.prod(shape) * dtype.itemsize), shape, dtype)

    def put(self, array: np.ndarray) -> DeviceArray:
        there = self.empty(array.shape, array.dtype)
        self.write(there.address, array)
        return there

    def get(self, array: Array) -> np.ndarray:
        if isinstance(array, np.ndarray):
            return array
        address = self._stage(array.nbytes)
        self._copy(address, array.address, array.nbytes, cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost)
        self.wait()
        return host_view(address, array.shape, array.dtype).copy()

    def batch(self, clips: Sequence[Array], shape: tuple[int, ...]) -> DeviceArray:
        batch = self.empty(shape, np.float32)
        if len(clips) < shape[0] or any(tuple(clip.shape) != shape[1:] for clip in clips):
            self.clear(batch.address, batch.nbytes)
        for index, clip in enumerate(clips):
            self.write(batch[index].address, clip)
        return batch

    def write(self, address: int, array: Array) -> None:
        """Copy a host or device array to an address, in the order of the stream."""
        if isinstance(array, np.ndarray):
            pinned = self._stage(array.nbytes)
            np.copyto(host_view(pinned, array.shape, array.dtype), array)
            self._copy(address, pinned, array.nbytes, cudart.cudaMemcpyKind.cudaMemcpyHostToDevice)
        elif address != array.address:
            self.move(address, array.address, array.nbytes)

    def write_rows(self, address: int, arrays: Sequence[np.ndarray], stride: int) -> None:
        """Copy arrays of one shape, each ``stride`` bytes after the last, by one copy."""
        pinned = self._stage(stride * len(arrays))
        for index, array in enumerate(arrays):
            np.copyto(host_view(pinned + index * stride, array.shape, array.dtype), array)
        self._copy(address, pinned, stride * len(arrays), cudart.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def move(self, target: int, source: int, size: int) -> None:
        """Copy on the device, in the order of the stream."""
        self._copy(target, source, size, cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice)

    def clear(self, address: int, size: int) -> None:
        """Set memory to zero, in the order of the stream."""
        check(cudart.cudaMemsetAsync(address, 0, size, self.stream), "clear memory")

    def keep(self, key: Any, make: Callable[[], Any]) -> Any:
        """What a session keeps in this lane under ``key``, made on first use; beyond ``MAX_KEPT`` the oldest is closed."""
        kept = self._kept.pop(key) if key in self._kept else make()
        self._kept[key] = kept
        if len(self._kept) > MAX_KEPT:
            self.wait()
            self._kept.pop(next(iter(self._kept))).close()
        return kept

    def activations(self, size: int) -> int:
        """The address of the block of at least ``size`` bytes that the lane's engines share, since they never run together.

        To grow, the block moves; what was captured on the old one is dropped, to be captured again on its next use.
        """
        if size > self._activation_size:
            self._drop_kept()
            self._activation_block.close()
            self._activation_size = 0
            self._activation_address = reserve(self._activation_block, size)
            self._activation_size = size
        return self._activation_address

    def wait(self) -> None:
        """Wait until all work on the stream is done."""
        check(cudart.cudaStreamSynchronize(self.stream), "finish its work")

    def take_back(self) -> None:
        """End a call: all memory may be lent again."""
        self._memory.take_back()
        self._pinned.take_back()

    def close(self) -> None:
        """Give everything back, whatever state the device is in."""
        self._drop_kept()
        self._resources.close()

    def drain(self) -> None:
        """Wait and ignore errors: what still runs must not lose its memory, even after a failure."""
        cudart.cudaStreamSynchronize(self.stream)

    def _drop_kept(self) -> None:
        self.drain()
        while self._kept:
            self._kept.popitem()[1].close()

    def _stage(self, size: int) -> int:
        """Pinned memory for one copy; once much of it is lent, waits for the copies so far."""
        if self._pinned.lent + size > MAX_PINNED_BYTES:
            self.wait()
            self._pinned.take_back()
        return self._pinned.take(size)

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        check(cudart.cudaMemcpyAsync(target, source, size, kind, self.stream), f"copy {size:,} bytes")


class Lanes:
    """The lanes of one device. A call takes one and gives it back; beyond ``limit`` at once, calls wait for each other."""

    def __init__(self, device: int = 0, limit: int = MAX_LANES) -> None:
        self.device = device
        self.activations = 0  # bytes of the largest activation block that any engine loaded so far needs
        self._room = threading.BoundedSemaphore(limit)
        self._free_lanes: list[CudaLane] = []

    @contextmanager
    def lane(self) -> Iterator[CudaLane]:
        """A lane for one call. After a failure of the device it is closed instead of being used again.

        Raises:
            DeviceError: there is no device, or its memory does not allow another lane.
        """
        with self._room:
            use(self.device)
            lane = self._take()
            try:
                try:
                    yield lane
                finally:
                    lane.wait()
            except DeviceError:
                lane.close()
                raise
            except BaseException:
                self._give_back(lane)
                raise
            self._give_back(lane)

    def close(self) -> None:
        """Close the lanes that no call is using."""
        while self._free_lanes:
            self._free_lanes.pop().close()

    def _take(self) -> CudaLane:
        try:
            return self._free_lanes.pop()
        except IndexError:
            return CudaLane(self.device)

    def _give_back(self, lane: CudaLane) -> None:
        lane.take_back()
        self._free_lanes.append(lane)


class _BlockPool:
    """Blocks of one kind of memory, lent out for a call. Sizes are powers of two, so that blocks can be reused."""

    def __init__(self, resources: ExitStack, reserve: Callable[[ExitStack, int], int]) -> None:
        self._resources = resources
        self._reserve = reserve
        self._free: dict[int, list[int]] = {}
        self._lent: list[tuple[int, int]] = []

    @property
    def lent(self) -> int:
        """Bytes."""
        return sum(size for size, _ in self._lent)

    def take(self, size: int) -> int:
        size = max(MEMORY_ALIGNMENT, 1 << (size - 1).bit_length())
        free = self._free.setdefault(size, [])
        address = free.pop() if free else self._reserve(self._resources, size)
        self._lent.append((size, address))
        return address

    def take_back(self) -> None:
        for size, address in self._lent:
            self._free[size].append(address)
        self._lent.clear()
