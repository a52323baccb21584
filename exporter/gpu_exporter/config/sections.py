"""Files that people write, in YAML: mappings and lists whose mistakes are one line.

Nothing here knows a schema; the configuration, the web configuration and scenarios all read through it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, overload

from gpu_exporter.config.files import TooLargeError, read_file
from gpu_exporter.config.parsers import RefusedError, quoted

_LARGEST: Final = 256 * 1024  # bytes; a file that people write has a few hundred
_LONGEST: Final = 2000  # characters of a message: two paths, of those that people write
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
    from gpu_exporter.config.yaml import NoYamlError, document  # noqa: PLC0415 - PyYAML is a MiB; most have no file

    try:
        return document(read_file(path, largest=largest).decode())
    except TooLargeError as error:
        raise ConfigError(f"{path}: {error.why}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not text; write YAML in UTF-8") from None
    except NoYamlError as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from None


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
