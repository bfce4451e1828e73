"""A reader of source code that follows TensorRT and CUDA objects through it and looks every attribute up in the real bindings.

    python tests/bindings.py MODULE FILE…        prints {"problems": […], "absent": […], "checked": […]} as JSON

absent: names this variant lacks, which the file asks for with ``hasattr`` first; the other variant must have them.

The bindings tell what their methods take and return in the first line of their docstrings. A name ``trt`` is the module;
what its classes and methods give is followed through assignments. Parameters of our own functions that are annotated as
Any, or not at all, are known by their names (``NAMES``). ``cuda.bindings`` modules are known by their import;
``f(runtime.cudaMalloc, size)`` counts as a call.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = {
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "tensor": "ITensor",
    "context": "IExecutionContext",
}
_RETURNED = "return"  # no name of anything
RTX_ONLY = "rtx_"  # functions that only TensorRT-RTX is asked to have the names of
RTX = "tensorrt_rtx_bindings"


@dataclass(frozen=True)
class Instance:
    """An object of a class of the bindings."""

    cls: type


@dataclass(frozen=True)
class Method:
    """A method of an object, bound."""

    cls: type
    name: str


@dataclass(frozen=True)
class ListOf:
    item: Any


@dataclass
class Signature:
    """What a call may look like. names: of the arguments after self, None if any number goes."""

    names: list[str] | None
    required: int
    returns: str

    def accepts(self, positional: int, keywords: list[str]) -> bool:
        if self.names is None:
            return True
        return (
            positional + len(keywords) <= len(self.names)
            and positional + len(keywords) >= self.required
            and all(name in self.names[positional:] for name in keywords)
        )


@dataclass
class Reader:
    """Reads one file after the other against one module of TensorRT."""

    trt: Any
    problems: list[str] = field(default_factory=list)
    checked: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)

    def read(self, file: str, source: str) -> None:
        tree = ast.parse(source)
        # A ``config`` may be many things; where TensorRT is at hand, a parameter of that name is its.
        here = any("trt" in (getattr(node, "id", ""), getattr(node, "arg", "")) for node in ast.walk(tree))
        self._names = NAMES if here else {}
        shared: dict[str, Any] = {}
        self._classes: dict[str, _Class] = {}
        self._returns: dict[str, Instance] = {}  # by our own functions' names
        self._guarded = {
            node.args[1].value
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr"
            if isinstance(node.args[1], ast.Constant)
        }
        for last in (False, True):  # twice: attributes of self may be set below where they are used
            self._file, self._last = file, last
            self._block(tree.body, shared)

    def _block(self, body: list[ast.stmt], env: dict[str, Any]) -> None:
        for statement in body:
            self._statement(statement, env)

    def _statement(self, node: ast.stmt, env: dict[str, Any]) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if node.name.startswith(RTX_ONLY) and self.trt.__name__ != RTX:
                return
            inner = _Inner(env)
            for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                note = argument.annotation
                plain = note is None or (isinstance(note, ast.Name) and note.id == "Any")
                inner[argument.arg] = self._by_name(argument.arg) if plain else None
            self._block(node.body, inner)
            if _RETURNED in inner:
                self._returns[node.name] = inner[_RETURNED]
        elif isinstance(node, ast.Return):
            value = None if node.value is None else self._value(node.value, env)
            if isinstance(value, Instance):
                env[_RETURNED] = value
        elif isinstance(node, ast.ClassDef):
            bases = [self._value(base, env) for base in node.bases]
            for base in bases:
                if isinstance(base, type) and self._is_ours(base):
                    self._overrides(node, base)
            if node.name not in self._classes:
                self._classes[node.name] = _Class(env)
            self._block(node.body, self._classes[node.name])
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (node.module or "").startswith("cuda."):
                    with contextlib.suppress(ImportError):
                        env[alias.asname or alias.name] = importlib.import_module(f"{node.module}.{alias.name}")
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            value = None if node.value is None else self._value(node.value, env)
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                self._assign(target, value, env)
        elif isinstance(node, ast.For):
            items = self._value(node.iter, env)
            self._assign(node.target, items.item if isinstance(items, ListOf) else None, env)
            self._block([*node.body, *node.orelse], env)
        else:
            for child in _children(node):
                if isinstance(child, ast.stmt):
                    self._statement(child, env)
                elif isinstance(child, ast.expr):
                    self._value(child, env)

    def _assign(self, target: ast.expr, value: Any, env: dict[str, Any]) -> None:
        if isinstance(target, ast.Name):
            if value is not None or not inspect.ismodule(env.get(target.id)):  # a module that may be missing stays one
                env[target.id] = value
        elif isinstance(target, ast.Attribute):
            if target.attr == "__class__" and isinstance(target.value, ast.Name):
                env[target.value.id] = Instance(value)
            elif isinstance(target.value, ast.Name) and target.value.id == "self":
                env[f"self.{target.attr}"] = value
            else:
                self._value(target, env)
        elif isinstance(target, (ast.Tuple, ast.List)):
            for element in target.elts:
                self._assign(element, None, env)

    def _value(self, node: ast.expr, env: dict[str, Any]) -> Any:
        """What an expression is, as far as it is of the bindings; everything inside it is looked up on the way."""
        if isinstance(node, ast.Name):
            return self.trt if node.id == "trt" else env.get(node.id)
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                return self.trt if node.attr.lstrip("_") == "trt" else env.get(f"self.{node.attr}")
            return self._attribute(self._value(node.value, env), node)
        if isinstance(node, ast.Call):
            return self._call(node, env)
        if isinstance(node, ast.NamedExpr):
            value = self._value(node.value, env)
            self._assign(node.target, value, env)
            return value
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp)):
            inner = _Inner(env)
            for generator in node.generators:
                items = self._value(generator.iter, inner)
                self._assign(generator.target, items.item if isinstance(items, ListOf) else None, inner)
                for condition in generator.ifs:
                    self._value(condition, inner)
            return ListOf(self._value(node.elt, inner))
        if isinstance(node, (ast.Subscript,)):
            items = self._value(node.value, env)
            self._value(node.slice, env)
            if isinstance(items, ListOf):
                return items if isinstance(node.slice, ast.Slice) else items.item
            return None
        values = [self._value(child, env) for child in _children(node) if isinstance(child, ast.expr)]
        if isinstance(node, (ast.BoolOp, ast.IfExp)):
            return next((value for value in values if value is not None), None)
        return None

    def _by_name(self, parameter: str) -> Any:
        return Instance(getattr(self.trt, self._names[parameter])) if parameter in self._names else None

    def _attribute(self, owner: Any, node: ast.Attribute) -> Any:
        name = node.attr
        if owner is None or isinstance(owner, (ListOf, Method)):
            return None
        cls = owner.cls if isinstance(owner, Instance) else owner
        if not (inspect.ismodule(cls) or self._is_ours(cls)):
            return None
        self._note(cls, name)
        if not hasattr(cls, name):
            if name in self._guarded:
                self.absent.add(name)
            else:
                self._problem(node, f"{_called(cls)} has no {name}")
            return None
        member = getattr(cls, name)
        if not isinstance(owner, Instance):
            return member
        if isinstance(member, property):
            return self._returned(_signatures(member.fget))
        return Method(cls, name)

    def _call(self, node: ast.Call, env: dict[str, Any]) -> Any:
        called = self._value(node.func, env)
        arguments = [self._value(argument, env) for argument in node.args]
        for keyword in node.keywords:
            self._value(keyword.value, env)
        positional = len(node.args)
        keywords = [keyword.arg for keyword in node.keywords if keyword.arg]
        starred = any(isinstance(argument, ast.Starred) for argument in node.args) or len(keywords) < len(node.keywords)
        if called is None and arguments and _is_cuda(arguments[0]):
            called, positional, keywords = arguments[0], positional - 1, []  # f(runtime.cudaMalloc, size)
        if isinstance(called, Method):
            signatures, name = _signatures(getattr(called.cls, called.name)), f"{called.cls.__name__}.{called.name}"
        elif inspect.isclass(called) and self._is_ours(called):
            signatures, name = _signatures(called.__init__, own=True), called.__name__
        elif _is_cuda(called):
            signatures, name = _cuda_signature(called), called.__name__
        else:  # our own: what is checked is given back
            name = str(getattr(node.func, "attr", getattr(node.func, "id", "")))
            if "check" in name and arguments and isinstance(arguments[0], Instance):
                return arguments[0]
            return self._returns.get(name)
        if signatures and not starred and not any(known.accepts(positional, keywords) for known in signatures):
            takes = " or ".join(f"({', '.join(known.names or ['…'])})" for known in signatures)
            given = ", ".join([*["…"] * positional, *(f"{keyword}=…" for keyword in keywords)])
            self._problem(node, f"{name}({given}) is called, it takes {takes}")
        return Instance(called) if inspect.isclass(called) else self._returned(signatures)

    def _overrides(self, node: ast.ClassDef, base: type) -> None:
        """Methods that the library calls must take what it gives."""
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("__") and hasattr(base, method.name):
                self._note(base, method.name)
                known = _signatures(getattr(base, method.name))
                count = len(method.args.args) - 1
                if known and not any(signature.accepts(count, []) for signature in known):
                    self._problem(method, f"{base.__name__}.{method.name} is overridden with {count} arguments")

    def _returned(self, signatures: list[Signature]) -> Any:
        for signature in signatures:
            name = re.split(r"[.:]", signature.returns)[-1]
            cls = getattr(self.trt, name, None) or getattr(self.trt, name.removeprefix("I"), None)  # IParserError
            if inspect.isclass(cls) and self._is_ours(cls):
                return Instance(cls)
        return None

    def _is_ours(self, value: Any) -> bool:
        module = str(getattr(value, "__module__", ""))
        return module.startswith((self.trt.__name__, "cuda."))

    def _note(self, owner: Any, name: str) -> None:
        if not name.startswith("__"):
            self.checked.add(f"{_called(owner)}.{name}")

    def _problem(self, node: ast.AST, text: str) -> None:
        if self._last:
            self.problems.append(f"{self._file}:{getattr(node, 'lineno', 0)}: {text}")


class _Inner(dict[str, Any]):
    """Names of a function: its own, then those around it; attributes of self are the class's."""

    def __init__(self, outer: dict[str, Any]) -> None:
        super().__init__()
        self._outer = outer

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else self._outer.get(key, default)

    def __setitem__(self, key: str, value: Any) -> None:
        if key.startswith("self."):
            if value is not None:
                self._outer[key] = value
        else:
            super().__setitem__(key, value)


class _Class(_Inner):
    """Names of a class: attributes of self are its own."""

    def __setitem__(self, key: str, value: Any) -> None:
        if value is not None or not key.startswith("self."):
            dict.__setitem__(self, key, value)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.expr, ast.stmt)):
            yield child
        else:  # keywords, handlers, with-items, cases
            yield from _children(child)


def _called(owner: Any) -> str:
    return str(owner.__name__).rpartition(".")[2]


def _is_cuda(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).startswith("cuda.") and callable(value) and not inspect.isclass(value)


def _cuda_signature(function: Any) -> list[Signature]:
    parameters = inspect.signature(function).parameters.values()
    required = sum(parameter.default is inspect.Parameter.empty for parameter in parameters)
    return [Signature([parameter.name for parameter in parameters], required, "")]


def _signatures(function: Any, *, own: bool = False) -> list[Signature]:
    """The signatures in the docstring of a pybind11 function, without ``self``."""
    found = []
    for line in (getattr(function, "__doc__", None) or "").splitlines():
        if match := re.match(r"\s*(?:\d+\. )?\w*\((.*)\)(?: -> (.*))?$", line):
            parts = _split(match[1])
            if any(part.startswith("*") for part in parts):
                continue  # the line above the overloads
            if parts and (own or re.match(r"(self|arg0)\b", parts[0])):
                parts = parts[1:]
            names = [re.split(r"[:=]", part)[0].strip() for part in parts]
            required = sum("=" not in part for part in parts)
            found.append(Signature(names, required, (match[2] or "").strip()))
    return found


def _split(arguments: str) -> list[str]:
    """At the commas that are in no bracket."""
    parts, depth = [""], 0
    for letter in arguments:
        depth += (letter in "([{<") - (letter in ")]}>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def main() -> None:
    module, *files = sys.argv[1:]
    reader = Reader(importlib.import_module(module))
    for file in files:
        reader.read(file, Path(file).read_text())
    print(json.dumps({"problems": reader.problems, "absent": sorted(reader.absent), "checked": sorted(reader.checked)}))


if __name__ == "__main__":
    main()
