"""The command ``vta``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import vta_rt
from vta_rt.cli.bundles import add_bundles
from vta_rt.cli.command import BAD_INPUT, run_command
from vta_rt.cli.generate import add_generate

__all__ = ["BAD_INPUT", "main", "run_command"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``vta``; returns the exit code: 0 done, 2 bad input, 128 and its number for a signal."""
    return run_command(_dispatch, arguments)


def _dispatch(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="vta", description="Sound for silent video.")
    parser.add_argument("--version", action="version", version=f"vta_rt {vta_rt.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_generate(commands)
    add_bundles(commands)
    options = parser.parse_args(arguments)
    return options.run(options)
