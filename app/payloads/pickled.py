"""Show what a pickle holds without executing any of it: plain values, and names for the rest.

A pickle is a program; this runs only its harmless half. Numbers, texts, lists, tuples, dicts and sets
come out as such. Whatever would import, call or build something becomes a text that says so
(``<datetime.datetime(…)>``). Opcodes are read by the standard library's ``pickletools``.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from app.errors import BadPayload

#: opcodes looked at, and values shown, before it is given up
MAX_OPCODES: Final = 200_000
MAX_SHOWN: Final = 20_000
MAX_DEPTH: Final = 60
_MARK: Final = object()

_CONSTANTS: Final[Mapping[str, Any]] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: Final[Mapping[str, Callable[[], Any]]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
#: opcodes whose argument is the value
_VALUES: Final = frozenset(
    {
        "INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
        "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
        "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    }
)  # fmt: skip


@dataclass(slots=True)
class _Thing:
    """Something the pickle would import or make: its name, and what it would be made of."""

    name: str
    parts: list[Any] = field(default_factory=list)


def shown(raw: bytes) -> Any:
    """Return the value of a pickle, inert. BadPayload when it is not a pickle or beyond all bounds."""
    try:
        return _plain(_Reader().read(raw), [0], 0)
    except BadPayload:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadPayload(f"not a readable pickle: {type(error).__name__}") from error


class _Reader:
    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self, raw: bytes) -> Any:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(raw)):
            if number > MAX_OPCODES:
                raise BadPayload("the pickle is too long to show")
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise BadPayload("the pickle has no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("PROTO", "FRAME"):
            return
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._since_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in ("MEMOIZE",):
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[int(argument)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[int(argument)])
        else:
            self._collect(name, argument)

    def _collect(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            few = tuple(stack[-count:])
            del stack[-count:]
            stack.append(few)
        elif name == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif name == "LIST":
            stack.append(self._since_mark())
        elif name == "DICT":
            stack.append(_pairs(self._since_mark()))
        elif name == "FROZENSET":
            stack.append(_Thing("frozenset", self._since_mark()))
        elif name == "APPEND":
            item = stack.pop()
            self._extend([item])
        elif name == "APPENDS":
            self._extend(self._since_mark())
        elif name == "ADDITEMS":
            items = self._since_mark()
            if isinstance(stack[-1], set):
                stack[-1].update(_key(item) for item in items)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            self._set([key, value])
        elif name == "SETITEMS":
            self._set(self._since_mark())
        else:
            self._refer(name, argument)

    def _refer(self, name: str, argument: Any) -> None:
        """Note what would be imported, called or built."""
        stack = self._stack
        if name in ("GLOBAL", "INST"):
            thing = _Thing(str(argument).replace(" ", "."))
            if name == "INST":
                thing.parts = self._since_mark()
            stack.append(thing)
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_Thing(f"{module}.{attribute}"))
        elif name in ("REDUCE", "NEWOBJ"):
            parts, made = stack.pop(), stack.pop()
            stack.append(
                _Thing(_name_of(made), list(parts) if isinstance(parts, tuple) else [parts])
            )
        elif name == "NEWOBJ_EX":
            keywords, parts, made = stack.pop(), stack.pop(), stack.pop()
            stack.append(_Thing(_name_of(made), [parts, keywords]))
        elif name == "OBJ":
            made, *parts = self._since_mark()
            stack.append(_Thing(_name_of(made), parts))
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], _Thing):
                stack[-1].parts.append(state)
        elif name in ("EXT1", "EXT2", "EXT4", "PERSID"):
            stack.append(_Thing(f"{name.lower()} {argument}"))
        elif name == "BINPERSID":
            stack.append(_Thing("persid", [stack.pop()]))
        elif name == "NEXT_BUFFER":
            stack.append(_Thing("buffer"))
        elif name != "READONLY_BUFFER":
            raise BadPayload(f"the pickle has an unknown opcode {name}")

    def _since_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise BadPayload("the pickle closes what it did not open")
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, _Thing):
            target.parts.extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, dict):
            target.update(_pairs(items))
        elif isinstance(target, _Thing):
            target.parts.append(_pairs(items))


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return {_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _key(value: Any) -> Any:
    """A dict's key or set's item as something that hashes."""
    try:
        hash(value)
    except TypeError:
        return f"<{type(value).__name__}>"
    return f"<{value.name}>" if isinstance(value, _Thing) else value


def _name_of(made: Any) -> str:
    return made.name if isinstance(made, _Thing) else f"<{type(made).__name__}>"


def _plain(value: Any, count: list[int], depth: int) -> Any:
    """A tree of plain values: what is shared or goes round is written out, up to the bounds."""
    count[0] += 1
    if count[0] > MAX_SHOWN or depth > MAX_DEPTH:
        return "…"
    if isinstance(value, _Thing):
        parts = [_plain(part, count, depth + 1) for part in value.parts[:20]]
        inside = ", ".join(repr(part)[:200] for part in parts)
        return f"<{value.name}({inside})>"[:1000]
    if isinstance(value, dict):
        return {
            _plain(k, count, depth + 1) if isinstance(k, tuple) else k: _plain(v, count, depth + 1)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [_plain(item, count, depth + 1) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item, count, depth + 1) for item in value)
    if isinstance(value, set):
        return set(list(value)[:MAX_SHOWN])
    return value
