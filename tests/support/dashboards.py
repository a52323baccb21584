"""The dashboards as their readers see them: panels, queries with the variables filled in, and Prometheus's answers."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError

from tools.lab import ROOT
from tools.lab.wait import patience

GRAFANA = ROOT / "deploy/grafana"
Json = dict[str, Any]


def load() -> dict[str, Json]:
    """Every committed dashboard by its file's name."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}


def panels(dashboard: Json) -> Iterator[Json]:
    """Its panels without the rows' headings, those in collapsed rows as well."""
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            yield panel
        yield from panel.get("panels", [])


@dataclass(frozen=True)
class View:
    """What is looked at: Unix times and steps in seconds."""

    start: float
    end: float
    step: float
    rate_interval: float

    def fill(self, expression: str, variables: Mapping[str, str]) -> str:
        """The expression with its variables replaced, as Grafana replaces them."""
        given = {**variables, "__range": f"{self.end - self.start:.0f}s", "__rate_interval": f"{self.rate_interval:g}s"}
        return re.sub(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*))", lambda found: given[found[1] or found[2]], expression)


class PrometheusApi:
    """The HTTP interface that Grafana uses. Raises ValueError with Prometheus's words where it refuses."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}/api/v1/"

    def _ask(self, path: str, **parameters: Any) -> Any:
        try:
            body = urllib.parse.urlencode(parameters).encode()
            with urllib.request.urlopen(self._base + path, body, timeout=patience()) as response:  # noqa: S310 - http on loopback
                return json.load(response)["data"]
        except HTTPError as error:
            raise ValueError(f"{parameters.get('query')}: {error.read().decode()}") from error

    def instant(self, query: str, when: float) -> list[Json]:
        """The vector at that time."""
        found = self._ask("query", query=query, time=when)
        result: list[Json] = found["result"]
        return result

    def range(self, query: str, view: View) -> list[Json]:
        """The matrix of that time."""
        result: list[Json] = self._ask("query_range", query=query, start=view.start, end=view.end, step=view.step)[
            "result"
        ]
        return result

    def target(self, target: Json, view: View, variables: Mapping[str, str]) -> list[Json]:
        """What a panel's query brings."""
        query = view.fill(target["expr"], variables)
        return self.instant(query, view.end) if target["instant"] else self.range(query, view)

    def variable(self, variable: Json, view: View, variables: Mapping[str, str]) -> dict[str, str]:
        """Value -> text of a query variable, as Grafana's data source and its regular expression make them."""
        query = view.fill(variable["query"]["query"], variables)
        if found := re.fullmatch(r"label_values\((.+), (\w+)\)", query):
            answer = self._ask("series", **{"match[]": found[1], "start": view.start, "end": view.end})
            texts = {series[found[2]] for series in answer if found[2] in series}
        else:
            inner = re.fullmatch(r"query_result\((.+)\)", query)
            if inner is None:
                raise ValueError(f"{variable['name']}: neither label_values nor query_result: {query}")
            texts = {_listed(sample) for sample in self.instant(inner[1], view.end)}
        if not variable["regex"]:
            return {text: text for text in texts}
        pattern = re.compile(variable["regex"].strip("/").replace("(?<", "(?P<"))
        hits = [hit for text in texts if (hit := pattern.search(text))]
        return {hit["value"]: hit["text"] or hit["value"] for hit in hits}

    def choose(self, dashboard: Json, view: View, texts: Mapping[str, str] | None = None) -> dict[str, str]:
        """Every variable's value: of those in ``texts`` the value with that text, of others everything."""
        chosen: dict[str, str] = {}
        for variable in dashboard["templating"]["list"]:
            name = variable["name"]
            if variable["type"] == "query":
                values = self.variable(variable, view, chosen)
                if texts and name in texts:
                    chosen[name] = _escape(next(value for value, text in values.items() if text == texts[name]))
                    continue
                chosen[variable["name"]] = variable.get("allValue") or f"({'|'.join(map(_escape, sorted(values)))})"
            elif variable["type"] == "textbox":
                chosen[variable["name"]] = variable["query"]
        return chosen


def _escape(value: str) -> str:
    """A value inside a regular expression inside a PromQL string."""
    return re.sub(r"([\\^$*+?.()|\[\]{}])", r"\\\\\1", value)


def _listed(sample: Json) -> str:
    """How the data source writes a sample of query_result."""
    labels = {name: value for name, value in sample["metric"].items() if name != "__name__"}
    when, value = sample["value"]
    inside = ",".join(f'{name}="{text}"' for name, text in labels.items())
    return f"{sample['metric'].get('__name__', '')}{{{inside}}} {value} {when * 1000:.0f}"
