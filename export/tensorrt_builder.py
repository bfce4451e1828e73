"""One ONNX graph to one engine, by either TensorRT. Knows the builder; knows no bundle, no folder and no torch.

Networks are strongly typed: an engine computes in the types of its graph, and nothing here could say otherwise. TensorRT
answers False or None where it fails, so every answer is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from export.report import Phases
from vta_rt.backends.tensorrt.flavours import Flavour, rtx_configure
from vta_rt.backends.tensorrt.index import BuilderOptions
from vta_rt.errors import EngineError
from vta_rt.manifest import TensorSpec

DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "BOOL": "bool", "UINT8": "uint8", "INT64": "int64"}


class EngineBuilder:
    """A TensorRT builder, made once for many graphs.

    Args:
        trt: the Python module of the flavour. compute_capabilities: to build for, where the flavour can build for others
            than the GPU that is here; ``current`` for that one; none for the flavour's own choice.
        timing_cache: what an earlier builder measured; empty for nothing.

    Raises:
        EngineError: there is no builder on this machine.
    """

    def __init__(
        self,
        trt: Any,
        flavour: Flavour,
        options: BuilderOptions,
        compute_capabilities: tuple[str, ...] = (),
        timing_cache: bytes = b"",
    ) -> None:
        self._trt = trt
        self._flavour = flavour
        self._options = options
        self._compute_capabilities = compute_capabilities
        self.timing_cache = timing_cache
        self._log = _log(trt)
        try:
            self._builder = trt.Builder(self._log)
        except TypeError:  # what the bindings make of a null pointer
            raise EngineError(f"{flavour.name} has no builder on this machine{self._reason()}") from None

    def build(self, graph: Path, inputs: tuple[TensorSpec, ...], phases: Phases) -> tuple[Any, tuple[TensorSpec, ...]]:
        """Build the engine of an ONNX file for inputs of these shapes.

        Returns:
            the engine, as a buffer of bytes, and its outputs.

        Raises:
            EngineError: TensorRT cannot; says which node or why, as far as TensorRT does.
            KeyboardInterrupt: the user stopped it.
        """
        trt = self._trt
        self._log.errors.clear()
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = self._checked(self._builder.create_network(flags), graph, "no network")
        self._parse(network, graph)
        self._fix_shapes(network, inputs, graph)
        _let_attention_decompose(trt, network)
        outputs = tuple(_spec(network.get_output(index)) for index in range(network.num_outputs))

        monitor = _monitor(trt, phases)
        config = self._config(monitor, graph)
        engine = _uninterrupted(lambda: self._builder.build_serialized_network(network, config), monitor.stop)
        if monitor.stopped:
            raise KeyboardInterrupt
        self._checked(engine, graph, "no engine")
        if self._flavour.timing_cache and (cache := config.get_timing_cache()) is not None:
            self.timing_cache = bytes(cache.serialize())
        return engine, outputs

    def _parse(self, network: Any, graph: Path) -> None:
        parser = self._trt.OnnxParser(network, self._log)
        if not parser.parse_from_file(str(graph)):  # from the file: it finds the weights beside it
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
            for error in errors[:1]:
                self._log.errors = [f"{error.node_operator()} {error.node_name()}: {error.desc()}"]
            raise EngineError(f"{graph}: {self._flavour.name} cannot read it{self._reason()}")

    def _fix_shapes(self, network: Any, inputs: tuple[TensorSpec, ...], graph: Path) -> None:
        """Replace the open axes by numbers: kernels chosen for one shape are the faster ones."""
        shapes = {spec.name: spec.shape for spec in inputs}
        tensors = [network.get_input(index) for index in range(network.num_inputs)]
        if {tensor.name for tensor in tensors} != shapes.keys():
            raise EngineError(f"{graph}: takes {', '.join(tensor.name for tensor in tensors)}, not {', '.join(shapes)}")
        for tensor in tensors:
            tensor.shape = shapes[tensor.name]

    def _config(self, monitor: Any, graph: Path) -> Any:
        trt, options = self._trt, self._options
        config = self._checked(self._builder.create_builder_config(), graph, "no configuration")
        config.builder_optimization_level = options.optimization_level
        config.progress_monitor = monitor
        if options.workspace_mb is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
        if options.max_aux_streams is not None:
            config.max_aux_streams = options.max_aux_streams
        if options.tf32:
            config.set_flag(trt.BuilderFlag.TF32)
        else:  # it is TensorRT's default, and would make fp32 something less
            config.clear_flag(trt.BuilderFlag.TF32)
        if self._flavour.name == "tensorrt-rtx":
            rtx_configure(trt, config, self._compute_capabilities)
        if self._flavour.timing_cache:
            cache = config.create_timing_cache(self.timing_cache)
            if cache is None or not config.set_timing_cache(cache, False):  # another GPU's or version's: measured anew
                cache = self._checked(config.create_timing_cache(b""), graph, "no timing cache")
                self._checked(config.set_timing_cache(cache, False) or None, graph, "no leave to keep what it measures")
        return config

    def _checked(self, value: Any, graph: Path, what: str) -> Any:
        if value is None:
            raise EngineError(f"{graph}: {self._flavour.name} gives {what}{self._reason()}")
        return value

    def _reason(self) -> str:
        """What TensorRT said last of what went wrong, in brackets."""
        said = " ".join(self._log.errors[-1].split())[:300] if self._log.errors else ""
        return f" ({said})" if said else ""


def _let_attention_decompose(trt: Any, network: Any) -> None:
    """Attention has fused kernels for half precision and common head widths; elsewhere it may be made of several.

    Without leave to do so TensorRT gives no engine. Where there is a fused kernel it is taken all the same.
    """
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer  # the bindings give every layer as ILayer
            layer.attention.decomposable = True


def _spec(tensor: Any) -> TensorSpec:
    return TensorSpec(tensor.name, tuple(int(size) for size in tensor.shape), DTYPES[tensor.dtype.name])


def _uninterrupted(work: Callable[[], Any], stop: Callable[[], None]) -> Any:
    """The result of ``work``, done in another thread, so that Ctrl-C need not tear through a library: it calls ``stop``."""
    with ThreadPoolExecutor(1) as pool:
        future: Future[Any] = pool.submit(work)
        while True:
            try:
                return future.result()
            except KeyboardInterrupt:
                stop()


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):
        """Keeps what went wrong, for the error that is raised; the rest of what TensorRT says concerns its makers."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


def _monitor(trt: Any, phases: Phases) -> Any:
    class Monitor(trt.IProgressMonitor):
        """TensorRT's account of its progress, passed on. Called from several threads; an exception here ends the process."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped = False

        def stop(self) -> None:
            self.stopped = True

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.advance(phase_name, step + 1)
            return not self.stopped

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
