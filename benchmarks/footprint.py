"""Size and import time of the runtime's environment, beside the one the published script needs.

    python benchmarks/footprint.py

Makes two fresh virtual environments, measures their size and the time of the import in a new interpreter (median of 7),
prints a table and writes benchmarks/results/footprint.json.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import machine

PROJECT = Path(__file__).parents[1]
ENVIRONMENTS = {
    "vta_rt": ([str(PROJECT)], "import vta_rt"),
    "torch + diffusers + transformers": (
        ["torch==2.13.0", "diffusers", "transformers", "av"],
        "import torch; from diffusers import UNet2DConditionModel, AutoencoderKL; "
        "from transformers import CLIPVisionModelWithProjection, SpeechT5HifiGan",
    ),
}
REPEATS = 7


def main() -> None:
    result = {}
    print(f"{'environment':<36}{'MB':>8}{'packages':>10}{'import s':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for name, (packages, statement) in ENVIRONMENTS.items():
            python = _make(Path(folder) / name.replace(" ", ""), packages)
            site = Path(python).parents[1] / "lib"
            row = {
                "size_mb": round(sum(file.stat().st_size for file in site.rglob("*") if file.is_file()) / 1e6),
                "packages": len(packages_in(site)),
                "import_s": round(statistics.median(_time(python, statement) for _ in range(REPEATS)), 2),
                "empty_interpreter_s": round(statistics.median(_time(python, "pass") for _ in range(REPEATS)), 2),
            }
            result[name] = row | {"versions": packages_in(site)}
            print(f"{name:<36}{row['size_mb']:>8,}{row['packages']:>10}{row['import_s']:>10}")
    print(machine.write("footprint", {"environments": result}))


def packages_in(site: Path) -> list[str]:
    """List the names and versions of the packages in an environment."""
    return sorted(path.name.removesuffix(".dist-info") for path in site.rglob("*.dist-info"))


def _make(folder: Path, packages: list[str]) -> str:
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True)
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools", "pip"], check=True)
    return python


def _time(python: str, statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([python, "-c", statement], check=True, cwd="/")
    return time.perf_counter() - start


if __name__ == "__main__":
    if sys.platform != "linux":
        sys.exit("error: measured on Linux only")
    main()
