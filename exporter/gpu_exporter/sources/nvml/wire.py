"""What goes to NVML and comes back, as JSON and back: the arguments of its C functions, by their types."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pynvml

# ctypes has no public names for these.
_REFERENCE: Final = type(ctypes.byref(ctypes.c_int()))
_SIMPLE: Final = ctypes.c_int.__mro__[1]
_POINTER: Final = ctypes.POINTER(ctypes.c_int).__mro__[1]
DEVICE: Final = pynvml.c_nvmlDevice_t


def address(pointer: Any) -> int:
    """Where a pointer points to."""
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def point(pointer: Any, to: int) -> None:
    """Let a pointer point there."""
    ctypes.memmove(ctypes.byref(pointer), ctypes.byref(ctypes.c_void_p(to)), ctypes.sizeof(ctypes.c_void_p))


def is_pointer(thing: Any) -> bool:
    """Whether it is a handle of some kind."""
    return isinstance(thing, _POINTER)


def devices(arguments: Sequence[Any]) -> Iterator[Any]:
    """The handles of devices among the arguments."""
    return (argument for argument in arguments if isinstance(argument, DEVICE))


def inputs(arguments: Sequence[Any]) -> str:
    """What distinguishes one question of a function from another: numbers, and those set in a structure.

    How much room there is for text does not.
    """
    kept = [each for before, each in zip((None, *arguments), arguments, strict=False) if not _is_text(before)]
    return " ".join(part for argument in kept if (part := _input(argument)))


def outputs(arguments: Sequence[Any]) -> list[Any]:
    """What the function may write: the targets of references, and arrays."""
    found = []
    for argument in arguments:
        if isinstance(argument, _REFERENCE):
            found.append(target_of(argument))
        elif isinstance(argument, ctypes.Array):
            found.append(argument)
    return found


def target_of(reference: Any) -> Any:
    """What ``byref`` refers to."""
    return reference._obj  # noqa: SLF001 - ctypes has no public way


def raw(target: Any) -> bytes:
    """Its bytes."""
    return bytes(memoryview(target).cast("B"))


def encode(target: Any, before: bytes) -> Any:
    """What was written, as JSON; ``before`` is what stood there, as far as nothing was written. No handles."""
    if is_pointer(target):
        return None
    if _is_text(target):
        now = raw(target)
        written = next((at + 1 for at in range(len(now) - 1, -1, -1) if now[at] != before[at]), 0)
        return {"hex": now[:written].hex()} if any(before) else _text(now[:written])
    return _plain(target)


def decode(told: Any, target: Any) -> None:
    """Write what was told. Raises ValueError or TypeError where it does not fit."""
    if is_pointer(target):
        return
    if _is_text(target):
        data = _bytes(told)
        if len(data.rstrip(b"\0")) > len(target):
            raise ValueError("longer than there is room")
        ctypes.memmove(target, data, min(len(data), len(target)))
    elif isinstance(target, _SIMPLE):
        target.value = _number(told, target)  # type: ignore[attr-defined]
    else:
        _put(told, target)


def _is_text(thing: Any) -> bool:
    return isinstance(thing, ctypes.Array) and thing._type_ is ctypes.c_char


def _input(argument: Any) -> str:
    if argument is None:
        return "null"
    if isinstance(argument, _SIMPLE):
        return str(argument.value)  # type: ignore[attr-defined]
    if isinstance(argument, (int, float)):
        return str(argument)
    if isinstance(argument, bytes):
        return argument.decode("latin-1")
    if isinstance(argument, _REFERENCE):
        target = target_of(argument)
        if isinstance(target, ctypes.Structure):
            fields = ((name, _member(target, name)) for name, *_ in target._fields_)
            return ",".join(f"{name}={value}" for name, value in fields if isinstance(value, int) and value)
    return ""


def _plain(value: Any) -> Any:
    """Numbers as they are, bytes as text, structures as objects, arrays as lists without zeros at their end."""
    if isinstance(value, _SIMPLE):
        value = value.value  # type: ignore[attr-defined]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return value
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, ctypes.Union):
        return {"hex": raw(value).hex()}
    if isinstance(value, ctypes.Structure):
        return {name: _plain(_member(value, name)) for name, kind, *_ in value._fields_ if _kept(kind)}
    if isinstance(value, ctypes.Array):
        size = ctypes.sizeof(value._type_)
        filled = -(-len(raw(value).rstrip(b"\0")) // size)
        return [_plain(value[at]) for at in range(filled)]
    raise TypeError(f"{type(value).__name__} cannot be recorded")


def _member(structure: Any, name: str) -> Any:
    """As it stands there: pynvml's structures decode bytes, which need not be text."""
    return ctypes.Structure.__getattribute__(structure, name)


def _kept(kind: Any) -> bool:
    """Whether a member says something: pointers do not."""
    return not issubclass(kind, (_POINTER, ctypes.c_char_p, ctypes.c_void_p))


def _put(told: Any, target: Any) -> None:
    if isinstance(target, ctypes.Union):
        data = _bytes(told)
        ctypes.memmove(ctypes.byref(target), data, min(len(data), ctypes.sizeof(target)))
    elif isinstance(target, ctypes.Structure):
        for name, kind, *_ in target._fields_:
            if _kept(kind) and name in told:
                _put_member(told[name], target, name, kind)
    elif isinstance(target, ctypes.Array):
        if len(told) > len(target):
            raise ValueError("longer than there is room")
        for at, each in enumerate(told):
            inner = target[at]
            if isinstance(inner, (ctypes.Structure, ctypes.Union, ctypes.Array)):
                _put(each, inner)
            else:
                target[at] = _number(each, inner)
    else:
        raise TypeError(f"{type(target).__name__} cannot be replayed")


def _put_member(told: Any, target: Any, name: str, kind: Any) -> None:
    if issubclass(kind, ctypes.Array) and kind._type_ is ctypes.c_char:
        ctypes.Structure.__setattr__(target, name, _bytes(told)[: ctypes.sizeof(kind)])
    elif issubclass(kind, (ctypes.Structure, ctypes.Union, ctypes.Array)):
        _put(told, getattr(target, name))
    else:
        setattr(target, name, _number(told, getattr(target, name)))


def _number(told: Any, like: Any) -> Any:
    value = getattr(like, "value", like)
    if isinstance(value, float):
        return float(told)
    if isinstance(value, bytes):
        return _bytes(told)[:1] or b"\0"
    if isinstance(told, float) and not told.is_integer():
        raise ValueError("not a whole number")
    return int(told)


def _text(data: bytes) -> Any:
    """Text where it is nothing else, up to the zero that ends it; else its bytes."""
    text, _, rest = data.partition(b"\0")
    if not rest.strip(b"\0") and text.isascii() and (not text or text.decode().isprintable()):
        return text.decode()
    return {"hex": data.hex()}


def _bytes(told: Any) -> bytes:
    return bytes.fromhex(told["hex"]) if isinstance(told, dict) else told.encode("latin-1") + b"\0"
