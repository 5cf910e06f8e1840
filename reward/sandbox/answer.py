"""The process of an answer: run its code, then do what the tests' process asks of it."""

from __future__ import annotations

import builtins
import operator
import os
from collections.abc import Callable, Iterator
from typing import Any

from reward.sandbox.channel import Broken, Channel
from reward.sandbox.codec import decode, encode

OPERATORS: dict[str, Callable[..., Any]] = {
    **{name: getattr(builtins, name) for name in (
        "len", "iter", "next", "repr", "str", "bool", "hash", "format", "int", "float", "complex", "abs", "divmod",
        "pow", "reversed", "dir", "round", "isinstance", "issubclass", "getattr", "setattr", "delattr", "bytes")},
    **{name: getattr(operator, name) for name in (
        "eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "lshift",
        "rshift", "and_", "or_", "xor", "neg", "pos", "invert", "contains", "getitem", "setitem", "delitem", "index",
        "iadd", "isub", "imul", "ior", "iand")},
    "call": lambda function, *args, **options: function(*args, **options),
    "enter": lambda manager: type(manager).__enter__(manager),
    "exit": lambda manager, *error: type(manager).__exit__(manager, *error),
}  # fmt: skip
"""What the tests' process may ask for."""


class AnswerServer:
    """Hold the objects of an answer and work on them for the tests."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._owner = os.getpid()

    def run(self, source: str) -> None:
        """Execute the code as a module called `solution`; say which names it has made, or why it failed."""
        namespace: dict[str, Any] = {"__name__": "solution"}
        try:
            code = compile(source, "solution.py", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            self._channel.send({"syntax": f"{type(error).__name__}: {error}"})
            return
        try:
            exec(code, namespace)
            names = {name: self._encode(value) for name, value in namespace.items() if not name.startswith("__")}
        except BaseException as error:  # whatever the answer raises, SystemExit too: it is what it did
            self._channel.send({"raise": self._raised(error)})
            return
        self._channel.send({"names": names})
        self._serve()

    def _serve(self) -> None:
        while os.getpid() == self._owner:  # a child that the answer forked has no business here
            try:
                request = self._channel.receive()
            except Broken:
                return
            self._channel.send(self._answer(request))

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            args = [self._decode(item) for item in request["args"]]
            options = {name: self._decode(item) for name, item in request["options"].items()}
            result = OPERATORS[request["do"]](*args, **options)
            reply = {"result": self._encode(result)}
            if request["do"] == "call":
                reply["args"] = [self._encode(item) for item in args[1:]]
                reply["options"] = {name: self._encode(item) for name, item in options.items()}
            return reply
        except BaseException as error:  # it goes to the tests, which may expect it
            return {"raise": self._raised(error)}

    def _encode(self, value: Any) -> Any:
        return encode(value, self._export)

    def _export(self, value: Any) -> dict[str, Any]:
        if isinstance(value, _Callback):
            return {"callback": value.number}
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        handle: dict[str, Any] = {"number": self._numbers[id(value)], "type": type(value).__name__}
        if isinstance(value, type) and issubclass(value, BaseException):
            handle["exception"] = self._lineage(value)
        return handle

    def _lineage(self, kind: type[BaseException]) -> list[Any]:
        """Name an exception's classes, own ones with a number, up to the first built-in one."""
        names: list[Any] = []
        for base in kind.__mro__:
            if getattr(builtins, base.__name__, None) is base:
                return [*names, base.__name__]
            if isinstance(base, type) and issubclass(base, BaseException):
                names.append([id(base), base.__name__])
        return [*names, "Exception"]

    def _raised(self, error: BaseException) -> dict[str, Any]:
        text = str(error)[:500]
        try:
            args: Any = self._encode(tuple(error.args))
            state: Any = self._encode(dict(vars(error)))
        except Exception:  # an exception that cannot be written still has its class and its text
            args, state = ["tuple", [text]], ["dict", []]
        return {
            "lineage": self._lineage(type(error)),
            "args": args,
            "state": state,
            "text": text,
            "errno": error.errno if isinstance(error, OSError) else None,
        }

    def _decode(self, data: Any) -> Any:
        return decode(data, self._import)

    def _import(self, handle: Any) -> Any:
        if "callback" in handle:
            return _Callback(handle["callback"], self)
        if "builtin" in handle:
            return getattr(builtins, handle["builtin"])
        return self._objects[handle["number"]]

    def ask_tests(self, number: int, do: str, args: tuple[Any, ...]) -> Any:
        """Call a function of the tests, or take the next item of an iterator of theirs."""
        self._channel.send({"callback": number, "do": do, "args": [self._encode(item) for item in args]})
        reply = self._channel.receive()
        if "stop" in reply:
            raise StopIteration
        if "raise" in reply:
            raise getattr(builtins, reply["raise"], RuntimeError)(reply["text"])
        return self._decode(reply["result"])


class _Callback:
    """Stand for a function or iterator of the tests: it can be called or iterated over, and nothing else."""

    def __init__(self, number: int, server: AnswerServer) -> None:
        self.number = number
        self._server = server

    def __call__(self, *args: Any) -> Any:
        return self._server.ask_tests(self.number, "call", args)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._server.ask_tests(self.number, "next", ())
