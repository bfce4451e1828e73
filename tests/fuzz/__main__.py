"""``python -m tests.fuzz TARGET``: look for files that break us.

    python -m tests.fuzz manifest --seconds 300
    python -m tests.fuzz reader --seconds 300
    python -m tests.fuzz mux --seconds 300
    python -m tests.fuzz mutants --count 3000

The first three are atheris targets, which need the package atheris; the last damages files of twelve containers at random. All
need the ffmpeg command for what they start from. What they find is kept in a folder, whose name is printed; exit code 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tests.fuzz.corpus import make_temporary, write_corpus
from tests.fuzz.mutants import run_mutants
from tests.fuzz.targets import TARGETS

MAX_MEGABYTES = 1500
MAX_SECONDS = 20  # for one input
MAX_BYTES = 1 << 16


def fuzz(target: str, seconds: float, found: Path) -> int:
    """Run one atheris target for a time; returns its exit code, and leaves what it found in a folder."""
    corpus = make_temporary(f"corpus-{target}-")
    write_corpus(target, corpus)
    limits = [f"-max_total_time={max(1, round(seconds))}", f"-timeout={MAX_SECONDS}", f"-rss_limit_mb={MAX_MEGABYTES}"]
    command = [sys.executable, "-m", "tests.fuzz.driver", target, str(corpus), *limits]
    command += [f"-artifact_prefix={found}/", f"-max_len={MAX_BYTES}", "-print_final_stats=1", "-verbosity=0"]
    # By way of a small process: what a child counts as its memory begins with that of the process that starts it.
    command = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    return subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=[*TARGETS, "mutants"])
    parser.add_argument("--seconds", type=float, default=60, help="of an atheris target (default: 60)")
    parser.add_argument("--count", type=int, default=3000, help="of mutants (default: 3000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant (default: 0)")
    options = parser.parse_args()
    found = make_temporary(f"found-{options.target}-")
    if options.target == "mutants":
        problems = run_mutants(options.first, options.count, found)
        print("\n".join(problems) or f"{options.count} mutants: nothing found")
    else:
        problems = ["a fault"] * bool(fuzz(options.target, options.seconds, found))
    if problems:
        print(f"found: {found}")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
