"""Every name of TensorRT and CUDA that the package uses is in the real bindings, with the arguments it is used with.

The names are read off the source (tests/bindings.py), the bindings are imported: a machine needs no GPU for it. The bindings
for data centres want libraries that are gigabytes; three empty ones with the few entry points they name will do.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for package in ("vta_rt", "export") for path in (ROOT / package).rglob("*.py") if "trt" in path.read_text()
) + sorted(path for path in (ROOT / "vta_rt").rglob("*.py") if "cuda.bindings" in path.read_text())
READER = Path(__file__).with_name("bindings.py")
MODULES = {"tensorrt": "tensorrt_bindings", "tensorrt-rtx": "tensorrt_rtx_bindings"}
CARRIER = "onnxruntime_ep_nv_tensorrt_rtx"
LIBRARIES = {
    "libnvinfer.so.11": [
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ],
    "libnvinfer_plugin.so.11": ["initLibNvInferPlugins"],
    "libnvonnxparser.so.11": [
        "createNvOnnxParserRefitter_INTERNAL",
        "createNvOnnxParser_INTERNAL",
        "getNvOnnxParserVersion",
    ],
}


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with libraries for both bindings: empty ones, and links to the real ones of TensorRT-RTX."""
    for module in (*MODULES.values(), CARRIER, "cuda"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f'{module} is not installed; it comes with: pip install -e ".[dev]"')
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("there is no C compiler to make empty libraries with")
    folder = tmp_path_factory.mktemp("libraries")
    for name, entries in LIBRARIES.items():
        source = folder / f"{name}.c"
        source.write_text("".join(f"void *{entry}(void) {{ return 0; }}\n" for entry in entries))
        subprocess.run([compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, source], check=True)
    spec = importlib.util.find_spec(CARRIER)
    assert spec is not None
    assert spec.origin is not None
    for stem in ("libtensorrt_rtx", "libtensorrt_onnxparser_rtx"):
        (folder / f"{stem}.so.1").symlink_to(next(Path(spec.origin).parent.glob(f"{stem}.so.1.*")))
    return folder


def read(variant: str, libraries: Path, *files: Path) -> dict[str, Any]:
    """In a process of its own: the two bindings need not get along in one."""
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(libraries),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    done = subprocess.run(
        [sys.executable, READER, MODULES[variant], *files], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found(libraries: Path) -> dict[str, dict[str, Any]]:
    return {variant: read(variant, libraries, *SOURCES) for variant in MODULES}


@pytest.mark.parametrize("variant", MODULES)
def test_everything_used_is_in_the_bindings(found: dict[str, dict[str, Any]], variant: str) -> None:
    assert found[variant]["problems"] == []


def test_what_is_asked_for_with_hasattr_is_in_one_of_them(found: dict[str, dict[str, Any]]) -> None:
    assert not set(found["tensorrt"]["absent"]) & set(found["tensorrt-rtx"]["absent"])


@pytest.mark.parametrize("variant", MODULES)
def test_the_reader_finds_what_is_used(found: dict[str, dict[str, Any]], variant: str) -> None:
    """A reader that lost track would find no problems either."""
    assert {
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "Builder.build_serialized_network",
        "IBuilderConfig.set_timing_cache",
        "ITimingCache.serialize",
        "OnnxParser.parse_from_file",
        "ParserError.node_name",
        "IAttention.decomposable",
        "IProgressMonitor.step_complete",
        "ITensor.shape",
        "cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor",
        "runtime.cudaDeviceGetAttribute",
    } <= set(found[variant]["checked"])


def test_what_only_one_has_is_asked_of_that_one(found: dict[str, dict[str, Any]]) -> None:
    assert "IBuilderConfig.set_compute_capability" in found["tensorrt-rtx"]["checked"]
    assert "IBuilderConfig.set_compute_capability" not in found["tensorrt"]["checked"]


BUILDER = """def build(trt):
    log = trt.Logger()
    builder = trt.Builder(log)
    config = builder.create_builder_config()
    """
CUDA = "from cuda.bindings import runtime\n"
PLANTED = [  # what is unknown, was removed or is called otherwise, and the ways that objects take to get there
    (f"{BUILDER}config.set_flag(trt.BuilderFlag.FP16)", "BuilderFlag has no FP16"),
    (f"{BUILDER}config.set_flag(trt.BuilderFlag.INT8)", "BuilderFlag has no INT8"),
    (f"{BUILDER}builder.platform_has_fast_fp16", "Builder has no platform_has_fast_fp16"),
    (f"{BUILDER}config.int8_calibrator = None", "IBuilderConfig has no int8_calibrator"),
    (f"{BUILDER}config.max_workspace_size = 1", "IBuilderConfig has no max_workspace_size"),
    (f"{BUILDER}builder.build_engine(None, config)", "Builder has no build_engine"),
    (f"{BUILDER}builder.build_serialized_network(config)", "Builder.build_serialized_network(…) is called"),
    (f"{BUILDER}builder.create_network(0, 1)", "Builder.create_network(…, …) is called, it takes (flags)"),
    (f"{BUILDER}builder.create_network(typed=True)", "Builder.create_network(typed=…) is called"),
    (f"{BUILDER}trt.OnnxParser(builder.create_network(0))", "OnnxParser(…) is called"),
    (f"{BUILDER}[builder.create_network(0).get_input(i).dims for i in range(2)]", "ITensor has no dims"),
    (f"{BUILDER}trt.IInt8Calibrator", "has no IInt8Calibrator"),
    (f"{CUDA}runtime.cudaMallocc(1)", "runtime has no cudaMallocc"),
    (f"{CUDA}rt = runtime\nrt.cudaMalloc(1, 2)", "cudaMalloc(…, …) is called, it takes (size)"),
    ("from cuda.bindings import runtime as rt\nrt.cudaMalloc(1, 2)", "cudaMalloc(…, …) is called, it takes (size)"),
    (f"{CUDA}check(runtime.cudaMalloc(), 'it')", "cudaMalloc() is called"),
    (f"{CUDA}call(runtime.cudaMalloc, 1, 2)", "cudaMalloc(…, …) is called"),
    (f"{CUDA}runtime.cudaError_t.cudaOkay", "cudaError_t has no cudaOkay"),
    (
        "class Monitor(trt.IProgressMonitor):\n    def step_complete(self, phase): ...",
        "IProgressMonitor.step_complete is overridden with 1 arguments",
    ),
    (
        "class A:\n    def go(self):\n        self.it.no()\n    def __init__(self, trt):\n        self.it = trt.Builder(1)",
        "Builder has no no",
    ),
    ("def make(trt):\n    return trt.Builder(1)\ndef use():\n    made = make()\n    made.no()", "Builder has no no"),
    ("def run(context: Any, trt):\n    context.execute_async_v2(1)", "IExecutionContext has no execute_async_v2"),
]


@pytest.mark.parametrize("variant", MODULES)
def test_what_is_planted_is_found(libraries: Path, tmp_path: Path, variant: str) -> None:
    for index, (source, _) in enumerate(PLANTED):
        (tmp_path / f"{index}.py").write_text(source)
    problems = read(variant, libraries, *(tmp_path / f"{index}.py" for index in range(len(PLANTED))))["problems"]
    assert len(problems) == len(PLANTED)
    for index, (problem, (source, message)) in enumerate(zip(problems, PLANTED, strict=True)):
        assert problem.startswith(f"{tmp_path / str(index)}.py:")
        assert message in problem, source
    assert problems[0].startswith(f"{tmp_path}/0.py:5: ")


def test_a_name_behind_hasattr_may_be_missing_in_one(libraries: Path, tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text("def ask(context, trt):\n    return hasattr(context, 'is_new') and context.is_new(1)\n")
    for variant in MODULES:
        answer = read(variant, libraries, planted)
        assert answer["problems"] == []
        assert answer["absent"] == ["is_new"]
