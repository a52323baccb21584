"""YAML as people write it in files: a hardened loader, whose refusals are one line."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final

import yaml

from gpu_exporter.config.parsers import quoted

_DEEPEST: Final = 16
_INDENTED: Final = ("<block end>", "mapping values are not allowed here")


class NoYamlError(ValueError):
    """A text is no YAML that is taken; the message is one line, with its line and column where they are known."""


def document(text: str) -> Any:
    """The text's one document. Raises NoYamlError."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
        # These words are about tokens; what people did wrong is nearly always this.
        advice = "; is this line indented as its neighbours?" if any(words in problem for words in _INDENTED) else ""
        raise NoYamlError(f"{where}{problem.removeprefix('but ')}{advice}") from None
    except (ValueError, OverflowError, RecursionError):  # what PyYAML raises for '\UFFFFFFFF' and the like
        raise NoYamlError("an escape or a number in it is out of range") from None


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
