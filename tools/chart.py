"""The parts of the Helm chart that are made, most of them from the comments and defaults of its values.yaml.

The grammar of values.yaml: every key has a comment right above it, ``# (type) text``. ``## text`` begins a section of
the table. A mapping without a type is descended into and takes no other keys; a mapping with one is a value of its own.
Without a type, a key has the type of its default.

values.yaml        knownValues, a digest of its keys
README.md          its table of values
values.schema.json  types; unknown keys are refused
defaults.json      what templates fall back on for values that a release of an older chart lacks (``--reuse-values``)
reloaded.json      the exporter's settings that SIGHUP puts into force
thresholds.json    alerts whose number `rules.thresholds` changes
texts.json         values whose keys have text: labels, annotations, environment
moved.json         keys of other charts, and what they are called here
files/…            copies of deploy/: rules, dashboards, configurations

``tools/chart.py`` writes the files, ``--check`` tells which of them are not current.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file

from tools.chart_moved import DCGM, MOVED, NVIDIA_GPU_EXPORTER
from tools.chart_types import TYPES, Kubernetes, Schema, closed

from gpu_exporter.config import Setting, settings
from gpu_exporter.hub.settings import entries

ROOT: Final = Path(__file__).resolve().parent.parent
CHART: Final = ROOT / "helm/gpu-exporter"
BEGIN: Final = "<!-- values: made from values.yaml by `make docs` -->"
END: Final = "<!-- end of values -->"

# What the chart has of deploy/, as copies: a chart goes into other repositories, archives and systems without links.
COPIES: Final = {
    "files/alertmanager": "deploy/alertmanager",
    "files/dashboards": "deploy/grafana/dashboards",
    "files/prometheus.yml": "deploy/prometheus/prometheus.yml",
    "files/provisioning": "deploy/grafana/provisioning",
    "files/rules": "deploy/prometheus/rules",
}
# A comparison with a number of its own: not a flag (0, 1), not a part of a sum, not the age of an event in seconds.
_COMPARISON: Final = re.compile(r"(?:<=|>=|<|>) (-?\d+(?:\.\d+)?)\b(?! *[*/^])")
_NO_THRESHOLD: Final = frozenset({0.0, 1.0, 3600.0})
_KNOWN_VALUES: Final = re.compile(r"^(knownValues: ).*$", re.MULTILINE)
_KUBERNETES: Final = Kubernetes()
_TYPES: Final = {**TYPES, **_KUBERNETES.types()}


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
        elif self.kind == "hub settings":
            made = _hub_schema()
        elif self.kind == "thresholds":
            made = _thresholds_schema()
        elif self.kind in _TYPES:
            made = dict(_TYPES[self.kind])
        elif not self.kind and isinstance(self.default, str | bool):
            made = {"type": "boolean" if isinstance(self.default, bool) else "string"}
        else:
            raise SystemExit(f"values.yaml: {'.'.join(self.path)}: unknown type '{self.kind}' of {self.default!r}")
        # Beside a reference nothing counts.
        return {"description": self.text, **({"allOf": [made]} if "$ref" in made else made)}


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
            fresh = {"type": ["object", "null"], "additionalProperties": False, "properties": {}}
            place = place["properties"].setdefault(step, fresh)
        place["properties"][value.path[-1]] = _or_null(value.schema, value.default)
    root["properties"]["global"].pop("additionalProperties")  # other charts' business
    root["properties"]["enabled"] = {
        "type": "boolean",
        "description": "Not used here: for the condition of a chart that has this one as its dependency.",
    }
    for path in MOVED:
        _moved(root, path.split("."))
    title = "Values of the chart gpu-exporter (made from values.yaml by `make docs`)"
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": title,
        **root,
        "definitions": _KUBERNETES.used,
    }


def _or_null(made: Schema, default: Any) -> Schema:
    """The schema that takes null too, as do keys of a default: Helm drops it, but not with `--reuse-values`."""
    made = dict(made)
    if isinstance(default, dict) and "properties" in made:
        inner = {key: _or_null(made["properties"][key], value) for key, value in default.items()}
        made["properties"] = {**made["properties"], **inner}
    text = {"description": made.pop("description")} if "description" in made else {}
    # As one of the types, it would stand in every message about the type.
    return {**text, "if": {"type": "null"}, "else": made}


def _moved(place: Schema, path: list[str]) -> None:
    """Let a key of another chart pass the schema: the chart itself refuses it with the key's new name."""
    for number, step in enumerate(path):
        place = place.get("else", place)
        if "$ref" in str(place.get("allOf")):  # Kubernetes' own type: a copy of it with the key
            name = place.pop("allOf")[0]["$ref"].rpartition("/")[2]
            place |= json.loads(json.dumps(_KUBERNETES.used[name]))
        known = place["properties"]
        if number == len(path) - 1 and step in known:
            raise SystemExit(f"tools/chart_moved.py: {'.'.join(path)} is a value of this chart")
        place = known.setdefault(step, {} if number == len(path) - 1 else closed({}))


def thresholds() -> dict[str, dict[str, Any]]:
    """Alerts that compare with one number of their own: the comparison as it is written, and the number."""
    found = {}
    for path in sorted((ROOT / COPIES["files/rules"]).glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                bare = re.sub(r'"[^"]*"', '""', rule["expr"])
                own = [match for match in _COMPARISON.finditer(bare) if float(match[1]) not in _NO_THRESHOLD]
                if "alert" in rule and len(own) == 1 and rule["expr"].count(own[0][0]) == 1:
                    found[rule["alert"]] = {"comparison": own[0][0], "default": float(own[0][1])}
    return found


def _thresholds_schema() -> Schema:
    made = {}
    for name, found in thresholds().items():
        share = {"maximum": 1} if found["default"] < 1 else {}
        made[name] = {"type": "number", "minimum": 0, **share, "description": f"Instead of {found['default']:g}."}
    return closed(made)


def _hub_schema() -> Schema:
    """What hub.config takes: hub.yml but for what the chart writes itself. The hub checks the values."""
    root = closed({})
    for key, _, text in entries():
        *sections, name = key.split(".")
        if (sections or [name])[0] in {"discovery", "http_config", "scheme"}:
            continue
        place = root
        for step in sections:
            place = place["properties"].setdefault(step, closed({}))
        place["properties"][name] = {"description": text, "type": ["string", "number", "boolean", "null"]}
    return root


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


def page(text: str) -> str:
    """docs/KUBERNETES.md with its table of thresholds."""
    head, begin, rest = text.partition("<!-- thresholds: made from the rules by `make docs` -->")
    _, end, tail = rest.partition("<!-- end of thresholds -->")
    if not end:
        raise SystemExit("docs/KUBERNETES.md has no place for the table of thresholds")
    rows = [f"| `{name}` | `{found['comparison']}` |" for name, found in sorted(thresholds().items())]
    return "\n".join([f"{head}{begin}", "", "| alert | compares |", "|---|---|", *rows, "", f"{end}{tail}"])


def migration() -> str:
    """docs/MIGRATING_CHARTS.md."""
    lines = ["# From another exporter's chart", ""]
    lines += ["<!-- made from tools/chart_moved.py by `make docs` -->", ""]
    lines += [
        "Keys that mean something are refused with their name here, all at once. Empty ones are passed over: a copy of"
    ]
    lines += ["the other chart's whole values.yaml is told only what counts. What is not named here has the same name."]
    for chart, keys in (("dcgm-exporter", DCGM), ("nvidia_gpu_exporter", NVIDIA_GPU_EXPORTER)):
        lines += ["", f"## {chart}", "", "| there | here |", "|---|---|"]
        lines += [f"| `{key}` | {now} |" for key, now in sorted(keys.items())]
    return "\n".join([*lines, ""])


def copies() -> dict[Path, str]:
    """The chart's copies of deploy/, byte for byte."""
    found: dict[Path, str] = {}
    for target, source in COPIES.items():
        origin = ROOT / source
        files = [origin] if origin.is_file() else sorted(path for path in origin.rglob("*") if path.is_file())
        found |= {CHART / target / path.relative_to(origin): path.read_text("utf-8") for path in files}
    return found


def left_over() -> list[Path]:
    """Copies of what deploy/ has no more."""
    known = copies()
    return [path for target in COPIES for path in (CHART / target).rglob("*") if path.is_file() and path not in known]


def _with_known_values(text: str) -> str:
    """values.yaml with a digest of all its keys: a release without it has values that another chart made."""
    keys = "\n".join(sorted(".".join(value.path) for value in values(text)))
    made, count = _KNOWN_VALUES.subn(rf'\g<1>{{"{hashlib.sha256(keys.encode()).hexdigest()[:12]}": true}}', text)
    if count != 1:
        raise SystemExit("values.yaml has no knownValues")
    return made


def made() -> dict[Path, str]:
    """Every generated file with its content."""
    text = _with_known_values((CHART / "values.yaml").read_text())
    found = values(text)
    readme = (CHART / "README.md").read_text()
    head, _, rest = readme.partition(BEGIN)
    _, _, tail = rest.partition(END)
    if not rest or not tail:
        raise SystemExit(f"README.md of the chart has lost its marks: {BEGIN} … {END}")
    defaults = {".".join(value.path): value.default for value in found if value.default is not None}
    return {
        CHART / "values.yaml": text,
        CHART / "README.md": f"{head}{BEGIN}\n\n{table(found)}\n\n{END}{tail}",
        CHART / "values.schema.json": json.dumps(schema(found), indent=1, ensure_ascii=False) + "\n",
        CHART / "files/defaults.json": json.dumps(defaults, indent=1, ensure_ascii=False) + "\n",
        CHART / "files/moved.json": json.dumps(MOVED, indent=1, ensure_ascii=False) + "\n",
        CHART / "files/texts.json": json.dumps(
            [".".join(value.path) for value in found if value.kind in {"annotations", "environment", "labels"}],
            indent=1,
        )
        + "\n",
        CHART / "files/thresholds.json": json.dumps(thresholds(), indent=1) + "\n",
        ROOT / "docs/KUBERNETES.md": page((ROOT / "docs/KUBERNETES.md").read_text("utf-8")),
        ROOT / "docs/MIGRATING_CHARTS.md": migration(),
        **copies(),
        CHART / "files/reloaded.json": json.dumps([item.key for item in settings() if item.reload], indent=1) + "\n",
    }


def main(arguments: list[str]) -> int:
    """Write the files, or tell which are not current."""
    stale = [path for path, text in made().items() if not path.is_file() or path.read_text("utf-8") != text]
    stale += left_over()
    if arguments == ["--check"]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not current: run make docs", file=sys.stderr)
        return 1 if stale else 0
    for path in left_over():
        path.unlink()
    for path, text in made().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
