"""The parts of the Helm chart that are made, most of them from the comments and defaults of its values.yaml.

The grammar of values.yaml: every key has a comment right above it, ``# (type) text``. ``## text`` begins a section of
the table. A mapping without a type is descended into and takes no other keys; a mapping with one is a value of its own.
Without a type, a key has the type of its default.

README.md          its table of values
values.schema.json  types; unknown keys are refused
defaults.json      what templates fall back on for values that a release of an older chart lacks (``--reuse-values``)
reloaded.json      the exporter's settings that SIGHUP puts into force

``tools/chart.py`` writes the files, ``--check`` tells which of them are not current.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from gpu_exporter.config import Setting, settings

CHART: Final = Path(__file__).resolve().parent.parent / "helm/gpu-exporter"
BEGIN: Final = "<!-- values: made from values.yaml by `make docs` -->"
END: Final = "<!-- end of values -->"

_TEXT: Final = {"type": "string"}
_TEXTS: Final = {"type": "object", "additionalProperties": {"type": "string"}}
_OBJECTS: Final = {"type": "array", "items": {"type": "object"}}
_STRINGS: Final = {"type": "array", "items": {"type": "string"}}
_QUANTITIES: Final = {"type": "object", "additionalProperties": {"type": ["string", "number", "null"]}}
_NAME: Final = r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
_OVERRIDE: Final = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "enabled": {"type": "boolean"},
        "expr": {"type": "string", "minLength": 1},
        "for": {"type": "string", "pattern": r"^([0-9]+(ms|[smhdwy]))+$|^0$"},
        "keep_firing_for": {"type": "string", "pattern": r"^([0-9]+(ms|[smhdwy]))+$|^0$"},
        "severity": {"enum": ["critical", "warning", "info", "none"]},
        "labels": _TEXTS,
        "annotations": _TEXTS,
    },
}
TYPES: Final[dict[str, dict[str, Any]]] = {
    "address": {"type": "string", "pattern": r"^$|^[^\s:/]+:[0-9]+$|^\[[0-9a-fA-F:]+\]:[0-9]+$"},
    "alerts": {"type": "object", "additionalProperties": _OVERRIDE},
    "annotations": _TEXTS,
    "boolean": {"type": "boolean"},
    "boolean?": {"type": ["boolean", "null"]},
    "digest": {"type": "string", "pattern": "^$|^sha256:[0-9a-f]{64}$"},
    "duration": {"type": "string", "pattern": r"^$|^([0-9]+(ms|[smhdwy]))+$"},
    "environment": {"anyOf": [{"type": "object", "additionalProperties": {"type": "string"}}, _OBJECTS]},
    "integer": {"type": "integer", "minimum": 0},
    "labels": _TEXTS,
    "list": {"type": "array", "items": {"type": ["object", "string"]}},
    "name": {"type": "string", "pattern": f"^$|^{_NAME}$", "maxLength": 63},
    "object": {"type": "object"},
    "objects": _OBJECTS,
    "path": {"type": "string", "pattern": "^/"},
    "port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "pull secrets": {
        "type": "array",
        "items": {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "object", "required": ["name"], "additionalProperties": False, "properties": {"name": _TEXT}},
            ]
        },
    },
    "resources": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"requests": _QUANTITIES, "limits": _QUANTITIES, "claims": _OBJECTS},
    },
    "strings": _STRINGS,
    "url": {"type": "string", "pattern": "^$|^https?://"},
}


@dataclass(frozen=True)
class Value:
    """One value of the chart: its path, default, type as it is written (may be empty), and what is said about it."""

    path: tuple[str, ...]
    default: Any
    kind: str
    text: str
    section: str

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the value, with its description. Raises SystemExit where the type is not known."""
        if self.kind == "settings":
            made = _settings_schema()
        elif self.kind.startswith("one of "):
            words = [{"true": True, "false": False}.get(word, word) for word in self.kind[7:].split("|")]
            made = {"enum": words}
        elif self.kind in TYPES:
            made = dict(TYPES[self.kind])
        elif not self.kind and isinstance(self.default, str | bool):
            made = {"type": "boolean" if isinstance(self.default, bool) else "string"}
        else:
            raise SystemExit(f"values.yaml: {'.'.join(self.path)}: unknown type '{self.kind}' of {self.default!r}")
        return {"description": self.text, **made}


def values(text: str) -> list[Value]:
    """Every value of values.yaml. Raises SystemExit where one has no comment."""
    root = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise SystemExit("values.yaml: is not a mapping")
    return list(_values(root, text.splitlines(), ()))


def _values(node: yaml.MappingNode, lines: list[str], path: tuple[str, ...]) -> Iterator[Value]:
    for key, value in node.value:
        line = key.start_mark.line
        here = (*path, key.value)
        comment = _comment(lines, line)
        kind, text = "", comment
        if match := re.match(r"\(([a-z?A-Z |]+[^)]*)\) ", comment):
            kind, text = match[1], comment[match.end() :]
        if isinstance(value, yaml.MappingNode) and value.value and not kind:
            yield from _values(value, lines, here)
        elif not text:
            raise SystemExit(f"values.yaml, line {line + 1}: {'.'.join(here)} has no comment")
        else:
            default = yaml.SafeLoader("").construct_object(value, deep=True)
            yield Value(here, default, kind, text, _section(lines, line))


def _comment(lines: list[str], line: int) -> str:
    """The comment lines right above the line, as one."""
    found: list[str] = []
    while line and re.match(r"\s*# ", lines[line - 1]):
        line -= 1
        found.insert(0, lines[line].strip()[2:].strip())
    return " ".join(found)


def _section(lines: list[str], line: int) -> str:
    return next((lines[i][3:] for i in range(line, -1, -1) if lines[i].startswith("## ")), "")


# --- the schema -------------------------------------------------------------------------------------------------------


def schema(found: list[Value]) -> dict[str, Any]:
    """values.schema.json: strict, but for what a parent chart passes on."""
    root: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": {}}
    for value in found:
        place = root
        for step in value.path[:-1]:
            fresh = {"type": "object", "additionalProperties": False, "properties": {}}
            place = place["properties"].setdefault(step, fresh)
        place["properties"][value.path[-1]] = value.schema
    root["properties"]["global"].pop("additionalProperties")  # other charts' business
    root["properties"]["enabled"] = {
        "type": "boolean",
        "description": "Not used here: for the condition of a chart that has this one as its dependency.",
    }
    title = "Values of the chart gpu-exporter (made from values.yaml by `make docs`)"
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": title, **root}


def _settings_schema() -> dict[str, Any]:
    """What `config` takes: the exporter's settings, each with the JSON types that its own parser accepts."""
    root: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": {}}
    for setting in settings():
        place, (*sections, name) = root, setting.key.split(".")
        for step in sections:
            fresh = {"type": ["object", "null"], "additionalProperties": False, "properties": {}}
            place = place["properties"].setdefault(step, fresh)
        place["properties"][name] = {"description": setting.help, "type": [*_accepted(setting), "null"]}
    return root


def _accepted(setting: Setting) -> list[str]:
    """The JSON types of which the setting's parser accepts one of some likely values."""
    likely: dict[str, list[Any]] = {
        "boolean": [True],
        "integer": [1, 7, 100],
        "number": [0.05, 0.5, 1.5],
        "array": [[], ["gpu"], [":9435"]],
        "object": [{}],
    }
    return ["string", *(kind for kind, tries in likely.items() if any(_parses(setting, value) for value in tries))]


def _parses(setting: Setting, value: object) -> bool:
    try:
        setting.parse(value)
    except ValueError:
        return False
    return True


# --- the files --------------------------------------------------------------------------------------------------------


def table(found: list[Value]) -> str:
    """The README's table of values."""
    rows: list[str] = []
    section = None
    for value in found:
        if value.section != section:
            section = value.section
            rows += ["", f"### {section}", "", "| key | default | meaning |", "|---|---|---|"]
        default = json.dumps(value.default, ensure_ascii=False).replace("|", "\\|")
        shown = "see values.yaml" if len(default) > 120 else f"`{default}`"
        meaning = value.text.replace("|", "\\|")
        if value.kind.startswith("one of "):
            words = ", ".join(f"`{word}`" if word else "empty" for word in value.kind[7:].split("|"))
            meaning += f" One of {words}."
        rows.append(f"| `{'.'.join(value.path)}` | {shown} | {meaning} |")
    return "\n".join(rows[1:])


def made() -> dict[Path, str]:
    """Every generated file with its content."""
    found = values((CHART / "values.yaml").read_text())
    readme = (CHART / "README.md").read_text()
    head, _, rest = readme.partition(BEGIN)
    _, _, tail = rest.partition(END)
    if not rest or not tail:
        raise SystemExit(f"README.md of the chart has lost its marks: {BEGIN} … {END}")
    defaults = {".".join(value.path): value.default for value in found if value.default is not None}
    return {
        CHART / "README.md": f"{head}{BEGIN}\n\n{table(found)}\n\n{END}{tail}",
        CHART / "values.schema.json": json.dumps(schema(found), indent=1, ensure_ascii=False) + "\n",
        CHART / "files/defaults.json": json.dumps(defaults, indent=1, ensure_ascii=False) + "\n",
        CHART / "files/reloaded.json": json.dumps([item.key for item in settings() if item.reload], indent=1) + "\n",
    }


def main(arguments: list[str]) -> int:
    """Write the files, or tell which are not current."""
    stale = [path for path, text in made().items() if not path.exists() or path.read_text() != text]
    if arguments == ["--check"]:
        for path in stale:
            print(f"{path.relative_to(CHART.parent.parent)} is not current: run make docs", file=sys.stderr)
        return 1 if stale else 0
    for path, text in made().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
