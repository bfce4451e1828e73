"""The command ``vta``. Everything is imported late, so that Ctrl-C during the seconds that it may take is one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def run() -> int:
    """Entry point of the program ``vta``; ``main`` is the command as a function."""
    try:
        import signal

        code = main()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: Ctrl-C while the interpreter ends changes nothing
    except KeyboardInterrupt:  # before the command could take care of it
        print("interrupted", file=sys.stderr)
        return 130
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``vta``; returns the exit code: 0 done, 1 done in part, 2 bad input, 128 and its number for a signal."""
    from vta_rt.cli.command import run_command

    return run_command(_dispatch, arguments)


def _dispatch(arguments: Sequence[str] | None) -> int:
    import argparse

    import vta_rt
    from vta_rt.cli.bundles import add_bundles
    from vta_rt.cli.generate import add_generate

    parser = argparse.ArgumentParser(prog="vta", description="Sound for silent video.")
    parser.add_argument("--version", action="version", version=f"vta_rt {vta_rt.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_generate(commands)
    add_bundles(commands)
    options = parser.parse_args(arguments)
    code: int = options.run(options)
    return code
