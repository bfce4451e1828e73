"""One ONNX graph to one engine, by either variant of TensorRT.

Networks are strongly typed: an engine computes in the types of its graph. Where TensorRT fails it returns False or None, so
every returned value is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from export.report import Phases
from vta_rt.backends.tensorrt.index import BuilderOptions
from vta_rt.backends.tensorrt.variants import Variant, make_logger, rtx_configure
from vta_rt.errors import EngineError, one_line
from vta_rt.manifest import TensorSpec

DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "BOOL": "bool", "UINT8": "uint8", "INT64": "int64"}


class EngineBuilder:
    """A TensorRT builder, made once for many graphs.

    Args:
        trt: the Python module of the variant.
        compute_capabilities: to build for, where the variant can build for other GPUs than the one that is here;
            ``current`` for that one; none for the variant's own choice.

    Raises:
        EngineError: there is no builder on this machine.
    """

    def __init__(
        self,
        trt: Any,
        variant: Variant,
        options: BuilderOptions,
        compute_capabilities: tuple[str, ...] = (),
    ) -> None:
        self._trt = trt
        self._variant = variant
        self._options = options
        self._compute_capabilities = compute_capabilities
        self.timing_cache = b""  # what this builder or an earlier one measured
        self._log = make_logger(trt)
        try:
            self._builder = trt.Builder(self._log)
        except TypeError:  # what the bindings make of a null pointer
            raise EngineError(f"{variant.name} has no builder on this machine ({self._log.last})") from None

    def build(self, graph: Path, inputs: tuple[TensorSpec, ...], phases: Phases) -> tuple[Any, tuple[TensorSpec, ...]]:
        """Build the engine of an ONNX file for inputs of these shapes.

        Returns:
            the engine, as a buffer of bytes, and its outputs.

        Raises:
            EngineError: TensorRT cannot build it; the message names the node or the reason as far as TensorRT does.
            KeyboardInterrupt: the user stopped it.
        """
        trt = self._trt
        self._log.last = "no reason given"
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = self._check(self._builder.create_network(flags), graph, "no network")
        self._parse(network, graph)
        self._fix_shapes(network, inputs, graph)
        _let_attention_decompose(trt, network)
        outputs = tuple(_spec(network.get_output(index)) for index in range(network.num_outputs))

        monitor = _monitor(trt, phases)
        config = self._config(monitor, graph)
        engine = _uninterrupted(lambda: self._builder.build_serialized_network(network, config), monitor.stop)
        if monitor.stopped:
            raise KeyboardInterrupt
        self._check(engine, graph, "no engine")
        if self._variant.timing_cache and (cache := config.get_timing_cache()) is not None:
            self.timing_cache = bytes(cache.serialize())
        return engine, outputs

    def _parse(self, network: Any, graph: Path) -> None:
        parser = self._trt.OnnxParser(network, self._log)
        if not parser.parse_from_file(str(graph)):  # from the file: it finds the weights beside it
            if parser.num_errors:
                error = parser.get_error(0)
                self._log.last = one_line(f"{error.node_operator()} {error.node_name()}: {error.desc()}")
            raise EngineError(f"{graph}: {self._variant.name} cannot read it ({self._log.last})")

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
        config = self._check(self._builder.create_builder_config(), graph, "no configuration")
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
        if self._variant.name == "tensorrt-rtx":
            rtx_configure(trt, config, self._compute_capabilities)
        if self._variant.timing_cache:
            cache = config.create_timing_cache(self.timing_cache)
            if cache is None or not config.set_timing_cache(cache, False):  # another GPU's or version's: measured anew
                cache = self._check(config.create_timing_cache(b""), graph, "no timing cache")
                self._check(config.set_timing_cache(cache, False) or None, graph, "no leave to keep what it measures")
        return config

    def _check(self, value: Any, graph: Path, what: str) -> Any:
        if value is None:
            raise EngineError(f"{graph}: {self._variant.name} gives {what} ({self._log.last})")
        return value


def _let_attention_decompose(trt: Any, network: Any) -> None:
    """Let TensorRT compute attention by several kernels where it has no fused one: else it builds no engine there.

    It has fused kernels for half precision and common head widths, and goes on using them.
    """
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer  # the bindings return every layer as ILayer
            layer.attention.decomposable = True


def _spec(tensor: Any) -> TensorSpec:
    return TensorSpec(tensor.name, tuple(int(size) for size in tensor.shape), DTYPES[tensor.dtype.name])


def _uninterrupted(work: Callable[[], Any], stop: Callable[[], None]) -> Any:
    """The result of ``work``, done in another thread, so that Ctrl-C calls ``stop`` instead of interrupting a library."""
    with ThreadPoolExecutor(1) as pool:
        future: Future[Any] = pool.submit(work)
        while True:
            try:
                return future.result()
            except KeyboardInterrupt:
                stop()


def _monitor(trt: Any, phases: Phases) -> Any:
    class Monitor(trt.IProgressMonitor):
        """Passes on TensorRT's progress. Called from several threads; an exception here ends the process."""

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
