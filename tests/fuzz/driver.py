"""A process of atheris; ``python -m tests.fuzz`` starts one for each target."""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["vta_rt"]):
    from tests.fuzz.targets import TARGETS

HOSTILE: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    1e308,
    2**31,
    2**63,
    2**64,
    10**400,
    "",
    "a" * 5000,
    "../x",
    "\0",
    [],
    {},
    [[]],
]


def mutate_document(data: bytes, max_size: int, seed: int) -> bytes:
    """Changes one value of a JSON document, or its bytes."""
    choice = random.Random(seed)
    try:
        document = json.loads(data)
        if choice.random() < 0.2 or not isinstance(document, dict):
            raise ValueError
        parent, key = _choose(document, choice)
        if choice.random() < 0.1:
            del parent[key]
        else:
            parent[key] = choice.choice(HOSTILE)
        return json.dumps(document).encode()[:max_size]
    except (ValueError, RecursionError):
        return atheris.Mutate(data, max_size)


def _choose(document: Any, choice: random.Random) -> tuple[Any, Any]:
    """A container of the document and a key in it."""
    while True:
        keys = list(document) if isinstance(document, dict) else list(range(len(document)))
        if not keys:
            raise ValueError
        key = choice.choice(keys)
        if not isinstance(document[key], dict | list) or not document[key] or choice.random() < 0.2:
            return document, key
        document = document[key]


def main() -> None:
    name, *arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        target = TARGETS[name]

        def run(data: bytes) -> None:
            target(data, Path(folder))

        more = {"custom_mutator": mutate_document} if name == "manifest" else {}
        atheris.Setup([sys.argv[0], *arguments], run, **more)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
