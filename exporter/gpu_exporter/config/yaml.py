"""Files in YAML: a hardened loader, and mappings and lists whose mistakes are one line.

Nothing here knows a schema; the configuration, the web configuration and scenarios all read through it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, overload

import yaml

from gpu_exporter.config.files import TooLargeError, read_file
from gpu_exporter.config.parsers import RefusedError, quoted

_LARGEST: Final = 256 * 1024  # bytes; a file that people write has a few hundred
_DEEPEST: Final = 16
_LONGEST: Final = 2000  # characters of a message: two paths, of those that people write
_INDENTED: Final = ("<block end>", "mapping values are not allowed here")
T = TypeVar("T")


class ConfigError(Exception):
    """A file or a setting cannot be used; the message is one line, of bounded length, for the person who wrote it."""

    def __init__(self, message: str) -> None:
        line = " ".join(message.splitlines())
        if len(line) > _LONGEST:  # a name or a path of the file's may have any length
            line = f"{line[: _LONGEST // 2]}…{line[-_LONGEST // 2 :]}"
        super().__init__(line)


def read_yaml(path: Path, *, largest: int = _LARGEST) -> Any:
    """The file's one document, of ``largest`` bytes at most. Raises ConfigError, with the line where it is no YAML."""
    try:
        return yaml.load(read_file(path, largest=largest).decode(), _Loader)  # noqa: S506 - a SafeLoader
    except TooLargeError as error:
        raise ConfigError(f"{path}: {error.why}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not text; write YAML in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
        # These words are about tokens; what people did wrong is nearly always this.
        advice = "; is this line indented as its neighbours?" if any(words in problem for words in _INDENTED) else ""
        raise ConfigError(f"{path}: is not YAML: {where}{problem.removeprefix('but ')}{advice}") from None
    except (ValueError, OverflowError, RecursionError):  # what PyYAML raises for '\UFFFFFFFF' and the like
        raise ConfigError(f"{path}: is not YAML: an escape or a number in it is out of range") from None


class _Loader(yaml.SafeLoader):
    """YAML without what such files have no use for: duplicate keys, aliases, deep nesting, huge numbers."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not taken; write the value out", problem_mark=mark)
        if self._depth == _DEEPEST:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep=deep)
            usable = not isinstance(value, int) or value.bit_length() <= 64
        except (ArithmeticError, AttributeError, LookupError, ValueError):  # PyYAML on '!!int x' and the like
            usable = False
        if not usable:
            problem = f"{quoted(node.value)} is not a value; put text in quotes"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        seen = set()
        for key in (key for key, _ in pairs if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"{quoted(key.value)} is written twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


# --- what a document holds --------------------------------------------------------------------------------------------


class Section:
    """One mapping of a file, at ``place`` in it; the methods raise ConfigError that names file, key and value.

    With ``known`` other keys are refused. A key that is left empty counts as left out; with ``blank``, so does one
    whose value is the empty text.
    """

    blank = False

    def __init__(self, path: Path, document: Any, *, place: str = "", known: Collection[str] = ()) -> None:
        self.path = path
        self.place = place
        if document is not None and not isinstance(document, dict):
            if not known:
                self.refuse("", "is no mapping; write its keys below it, indented")
            kind = "a list" if isinstance(document, list) else "text" if isinstance(document, str) else "a single value"
            raise ConfigError(f"{path}: {place or 'the file'} is {kind}; write keys such as {', '.join(known)}")
        self.entries: dict[Any, Any] = document or {}
        if known:
            self.known(known)

    def where(self, key: str) -> str:
        """File and key, as messages begin."""
        return f"{self.path}: {_below(self.place, key)}"

    def refuse(self, key: str, why: str) -> NoReturn:
        """Refuse the value of a key; an empty key is the mapping itself."""
        _refuse(self.path, _below(self.place, key), why)

    def known(self, names: Collection[str]) -> None:
        """Refuse every other key."""
        for name in self.entries:
            if name not in names:
                self.refuse(quoted(name)[1:-1], f"unknown key; write one of {', '.join(names)}")

    def require(self, key: str, accepted: str) -> None:
        """Refuse a mapping without the key; the message ends in what would be accepted."""
        if self.entries.get(key) is None:
            self.refuse(key, f"is missing; {accepted}")

    @overload
    def value(self, key: str, parse: Callable[[Any], T]) -> T | None: ...
    @overload
    def value(self, key: str, parse: Callable[[Any], T], default: T) -> T: ...
    def value(self, key: str, parse: Callable[[Any], T], default: T | None = None) -> T | None:
        """The parsed value, or the default."""
        value = self.entries.get(key)
        if value is None or (self.blank and value == ""):
            return default
        return self._parsed(key, parse, value)

    def items(self, key: str, parse: Callable[[Any], T]) -> tuple[T, ...]:
        """The parsed items of a list."""
        values = _list(self.path, _below(self.place, key), self.entries.get(key))
        return tuple(self._parsed(key, parse, value) for value in values)

    def section(self, key: str, *, known: Collection[str] = ()) -> Section:
        """The mapping below a key."""
        return type(self)(self.path, self.entries.get(key), place=_below(self.place, key), known=known)

    def sections(self, key: str, *, known: Collection[str] = ()) -> tuple[Section, ...]:
        """The mappings of a list, at ``key[0]`` and so on."""
        return self.each(self.path, self.entries.get(key), place=_below(self.place, key), known=known)

    @classmethod
    def each(cls, path: Path, document: Any, *, place: str = "", known: Collection[str] = ()) -> tuple[Section, ...]:
        """The mappings of a list, which may be the whole file."""
        items = _list(path, place, document)
        return tuple(cls(path, item, place=f"{place}[{number}]", known=known) for number, item in enumerate(items))

    def _parsed(self, key: str, parse: Callable[[Any], T], value: Any) -> T:
        try:
            return parse(value)
        except RefusedError as error:
            self.refuse(key, str(error))
        except (ArithmeticError, LookupError, TypeError, ValueError):  # of a type that nobody thought of
            self.refuse(key, f"{quoted(value)} is of no use here; docs have what may be written")


def _below(place: str, key: str) -> str:
    return f"{place}.{key}" if place and key else place or key


def _list(path: Path, place: str, value: Any) -> list[Any]:
    if value is not None and not isinstance(value, list):
        _refuse(path, place, f"{quoted(value)} is not a list; write one item a line, each behind a dash")
    return value or []


def _refuse(path: Path, place: str, why: str) -> NoReturn:
    raise ConfigError(f"{path}: {place + ': ' if place else ''}{why}")
