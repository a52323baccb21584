"""Tables: one row a host, GPU, owner or process, one column a label or a query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from build.looks import GREY, PLAIN, Names, Steps
from build.panels import NOT_THERE, Json, Panel, Query, mappings, override, thresholds


@dataclass(frozen=True, kw_only=True)
class Column:
    """How a table shows one field; ``name`` is its heading. ``show`` is text, colour (of the text), tile or gauge."""

    name: str
    unit: str = "none"
    steps: Steps = PLAIN
    values: Names | None = None
    show: str = "text"
    width: int | None = None
    decimals: int | None = None
    highest: float | None = None
    link: tuple[str, str] | None = None


def table(
    title: str,
    description: str,
    queries: Mapping[str, str],
    columns: Mapping[str, Column],
    *,
    sort: str,
    descending: bool = True,
    width: int = 24,
    empty: str = NOT_THERE,
) -> Panel:
    """Rows of labels and values, merged over the queries.

    ``queries`` are value name -> expression; ``columns`` are label or value name -> how it is shown, in that order.
    Labels and values that are no column are hidden.
    """
    letters = {f"Value #{chr(ord('A') + position)}": name for position, name in enumerate(queries)}
    # A single answer is named plainly "Value".
    fields = {**letters, "Value": next(iter(queries))}
    fields = {shown: name for shown, name in fields.items() if name in columns}
    order = list(columns)
    names = {shown: columns[name].name for shown, name in fields.items()}
    names |= {label: column.name for label, column in columns.items() if label not in queries}
    places = {shown: order.index(name) for shown, name in fields.items()}
    places |= {label: order.index(label) for label in columns if label not in queries}
    return Panel(
        type="table",
        title=title,
        description=description,
        unit="none",
        width=width,
        queries=tuple(Query(expr=expr, instant=True, table=True) for expr in queries.values()),
        empty=empty,
        defaults={"color": {"mode": "thresholds"}},
        custom={"align": "auto", "cellOptions": {"type": "auto"}, "filterable": False, "inspect": False},
        overrides=tuple(_cell(column) for column in columns.values()),
        transformations=(
            {"id": "merge", "options": {}},
            {"id": "filterFieldsByName", "options": {"include": {"names": [*names]}}},
            {"id": "organize", "options": {"excludeByName": {}, "indexByName": places, "renameByName": names}},
        ),
        options={
            "showHeader": True,
            "cellHeight": "sm",
            "enablePagination": True,
            "frameIndex": 0,
            "sortBy": [{"displayName": columns[sort].name, "desc": descending}],
        },
    )


def _cell(column: Column) -> Json:
    kinds: dict[str, Json] = {
        "text": {"type": "auto"},
        "color": {"type": "color-text"},
        "tile": {"type": "color-background", "mode": "basic"},
        "gauge": {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"},
    }
    # What a row does not have is grey, whatever the thresholds say; labels that are absent are told by noValue.
    absent = {"type": "special", "options": {"match": "null+nan", "result": {"text": NOT_THERE, "color": GREY}}}
    properties: Json = {
        "custom__cellOptions": kinds[column.show],
        "noValue": NOT_THERE,
        "mappings": [*mappings(column.values), absent],
    }
    if column.unit != "none":
        properties["unit"] = column.unit
    if column.decimals is not None:
        properties["decimals"] = column.decimals
    if column.steps != PLAIN:
        properties["thresholds"] = thresholds(column.steps)
    if column.highest is not None:
        properties |= {"min": 0, "max": column.highest}
    if column.width is not None:
        properties["custom__width"] = column.width
    if column.link:
        properties["links"] = [{"title": column.link[0], "url": column.link[1]}]
    return override("byName", column.name, **properties)
