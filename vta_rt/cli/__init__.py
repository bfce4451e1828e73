"""The command ``vta``."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence

import vta_rt
from vta_rt.cli.command import BAD_INPUT, run_command

__all__ = ["BAD_INPUT", "main", "run", "run_command"]


def run() -> int:
    """Entry point of the program ``vta``; ``main`` is the command as a function."""
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: Ctrl-C while the interpreter ends changes nothing
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``vta``; returns the exit code: 0 done, 1 partly, 2 bad input, 128 and its number for a signal."""
    return run_command(_dispatch, arguments)


def _dispatch(arguments: Sequence[str] | None) -> int:
    # Imported here, where Ctrl-C during the seconds that the packages may take is one line.
    from vta_rt.cli.bundles import add_bundles
    from vta_rt.cli.generate import add_generate

    parser = argparse.ArgumentParser(prog="vta", description="Sound for silent video.")
    parser.add_argument("--version", action="version", version=f"vta_rt {vta_rt.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_generate(commands)
    add_bundles(commands)
    options = parser.parse_args(arguments)
    return options.run(options)
