"""In the process of the tests: stand-ins for the objects of an answer, which live in a process of their own."""

from __future__ import annotations

import builtins
import errno
from collections.abc import Callable
from typing import Any

from reward.sandbox.channel import Channel
from reward.sandbox.codec import decode, encode, restore

_UNARY = ("len", "iter", "next", "repr", "str", "bool", "hash", "int", "float", "complex", "abs", "reversed", "neg",
          "pos", "invert", "index", "enter", "bytes")  # fmt: skip
_BINARY = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow", "lshift", "rshift", "and",
           "or", "xor", "iadd", "isub", "imul", "ior", "iand")  # fmt: skip
_OTHERS = ("contains", "getitem", "setitem", "delitem", "round", "format")
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


class StandIn:
    """An object of the answer: what is done to it is done there, and the result comes back.

    Comparing it with a value of the tests' own gives what two unrelated objects give: an answer cannot pass by
    returning an object that says it equals everything.
    """

    def __init__(self, client: AnswerClient, number: int, kind: str) -> None:
        object.__setattr__(self, "_client", client)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_kind", kind)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._client.ask("call", self, *args, **options)

    def __getattr__(self, name: str) -> Any:
        return self._client.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._client.ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        self._client.ask("delattr", self, name)

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, StandIn) and self._client.ask("isinstance", value, self) is True

    def __subclasscheck__(self, kind: Any) -> bool:
        return isinstance(kind, StandIn) and self._client.ask("issubclass", kind, self) is True

    def __exit__(self, *error: Any) -> Any:
        return self._client.ask("exit", self, None, None, None) and None

    def __dir__(self) -> Any:
        return self._client.ask("dir", self)


def _forward(name: str) -> Callable[..., Any]:
    asked = f"{name}_" if name in ("and", "or") else name

    def method(self: StandIn, *args: Any) -> Any:
        return self._client.ask(asked, self, *args)

    return method


def _reflected(name: str) -> Callable[..., Any]:
    asked = f"{name}_" if name in ("and", "or") else name
    return lambda self, other: self._client.ask(asked, other, self)


def _compare(name: str) -> Callable[..., Any]:
    def method(self: StandIn, other: Any) -> Any:
        return self._client.ask(name, self, other) if isinstance(other, StandIn) else NotImplemented

    return method


for _name in (*_UNARY, *_BINARY, *_OTHERS):
    setattr(StandIn, f"__{_name}__", _forward(_name))
for _name in _BINARY[:14]:
    setattr(StandIn, f"__r{_name}__", _reflected(_name))
for _name in _COMPARISONS:
    setattr(StandIn, f"__{_name}__", _compare(_name))


class AnswerFault(Exception):
    """Report an answer that kept no order: it ended its process or wrote into the channel."""


class AnswerClient:
    """Ask the process of the answer, and serve what it asks back: calls of functions that it was given."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._callbacks: list[Any] = []
        self._exceptions: dict[Any, type[BaseException]] = {}

    def names(self) -> dict[str, Any]:
        """Wait for the answer's code to have run and return what it defines, or raise what it raised."""
        reply = self._channel.receive()
        if "syntax" in reply:
            raise SyntaxError(reply["syntax"])
        if "raise" in reply:
            raise self._raised(reply["raise"])
        return {name: self._decode(value) for name, value in reply["names"].items()}

    def ask(self, do: str, *args: Any, **options: Any) -> Any:
        """Have the answer's process do something to its objects."""
        encoded = {name: self._encode(value) for name, value in options.items()}
        self._channel.send({"do": do, "args": [self._encode(item) for item in args], "options": encoded})
        reply = self._channel.receive()
        while "callback" in reply:
            self._channel.send(self._call_back(reply))
            reply = self._channel.receive()
        if "raise" in reply:
            error = self._raised(reply["raise"])
            # From a function it would end a loop of the tests early, and all([]) is true.
            raise RuntimeError("the answer raised StopIteration") if _ends_loop(error) and do != "next" else error
        for given, changed in zip(args[1:], reply.get("args", ()), strict=False):
            restore(given, self._decode(changed))
        for name, changed in reply.get("options", {}).items():
            restore(options[name], self._decode(changed))
        return self._decode(reply["result"])

    def _call_back(self, request: dict[str, Any]) -> dict[str, Any]:
        function = self._callbacks[request["callback"]]
        try:
            args = [self._decode(item) for item in request["args"]]
            return {"result": self._encode(next(function) if request["do"] == "next" else function(*args))}
        except StopIteration:
            return {"stop": True}
        except Exception as error:  # a key function that fails: the answer sees the error
            return {"raise": type(error).__name__, "text": str(error)}

    def _encode(self, value: Any) -> Any:
        return encode(value, self._export)

    def _export(self, value: Any) -> dict[str, Any]:
        if isinstance(value, StandIn):
            return {"number": value._number}
        name = getattr(value, "__name__", "")
        if isinstance(value, type) and getattr(builtins, name, None) is value:
            return {"builtin": name}
        if not callable(value) and not hasattr(value, "__next__"):
            raise TypeError(f"a {type(value).__name__} of the tests cannot be passed to the answer's process")
        self._callbacks.append(value)
        return {"callback": len(self._callbacks) - 1}

    def _decode(self, data: Any) -> Any:
        return decode(data, self._import)

    def _import(self, handle: Any) -> Any:
        if "callback" in handle:
            return self._callbacks[handle["callback"]]
        if "exception" in handle:
            return self._exception(handle["exception"])
        return StandIn(self, int(handle["number"]), str(handle["type"]))

    def _exception(self, lineage: list[Any]) -> type[BaseException]:
        """Return the local class of an exception: the built-in one, or one made here for each that the answer made."""
        first, *rest = lineage
        if isinstance(first, str):
            kind = getattr(builtins, first, None)
            return kind if isinstance(kind, type) and issubclass(kind, BaseException) else Exception
        number, name = first
        if number not in self._exceptions:
            self._exceptions[number] = type(str(name), (self._exception(rest),), {})
        return self._exceptions[number]

    def _raised(self, told: dict[str, Any]) -> BaseException:
        kind = self._exception(told["lineage"])
        text = str(told["text"])
        try:
            error = kind(*self._decode(told["args"]))
            vars(error).update(self._decode(told["state"]))
        except Exception:  # UnicodeDecodeError and its like need arguments that did not travel
            error = AnswerFault(f"{kind.__name__}: {text}")
        # Set in every case: the state that came with it may hold a class of the answer's choice.
        vars(error)["held_back"] = _held_back(kind, told["errno"])
        return error


def _held_back(kind: type[BaseException], number: Any) -> str:
    if kind is MemoryError:
        return "memory"
    return "forbidden" if number in REFUSALS or kind is PermissionError else "test_failed"


def _ends_loop(error: BaseException) -> bool:
    return isinstance(error, StopIteration)


REFUSALS = (errno.EPERM, errno.EAGAIN, errno.EACCES, errno.EFBIG, errno.ENOSPC, errno.EROFS)
"""What the system says where the sandbox holds something back."""
