"""Long lists go sheet by sheet: everything is on one of them, once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tools.lab.hub import Hub, write_nodes

from gpu_exporter.config.parsers import RefusedError
from gpu_exporter.hub.sheets import sheet


@pytest.mark.parametrize("total", [0, 1, 99, 100, 150, 151, 200, 201, 1000])
def test_every_entry_is_on_one_sheet(total: int) -> None:
    entries = list(range(total))
    sheets = [sheet(entries, str(number + 1)) for number in range(sheet(entries, "").count)]
    assert [entry for one in sheets for entry in one.entries] == entries
    for one in sheets:
        assert entries[one.first - 1 : one.last] == list(one.entries)
        assert (len(one.entries) <= 150, one.total, one.count) == (True, total, len(sheets))


def test_a_sheet_that_is_no_more_is_the_last() -> None:
    assert sheet(range(300), "7").number == 3
    assert sheet(range(10), "7").number == 1


@pytest.mark.parametrize("asked", ["0", "-1", "two", "1.5", "99999999999999999999"])
def test_what_is_no_sheet(asked: str) -> None:
    with pytest.raises(RefusedError):
        sheet(range(300), asked)


def test_a_thousand_machines_are_found_page_by_page(tmp_path: Path) -> None:
    machines = {f"gpu-{number:04}": 1 + number for number in range(1000)}
    nodes = write_nodes(tmp_path / "nodes.json", machines)
    listed = json.loads(nodes.read_text())
    for number, group in enumerate(listed):
        group["labels"]["row"] = f"R{number % 4}"
    nodes.write_text(json.dumps(listed))
    with Hub(tmp_path, nodes, interval="600s") as hub:
        link, seen = "/", []
        for _ in range(10):
            text = hub.get(link).text
            rows = re.findall(r'<th scope="row" class="name"><a href="/machines/(gpu-\d+)"', text)
            assert len(rows) == 100
            seen += rows
            onward = re.search(r'href="(/\?page=\d+)" rel="next"', text)
            link = onward[1] if onward else ""
        assert (link, seen) == ("", list(machines))
        assert "Machines 901 to 1000 of 1000" in text
        assert 'href="/?page=9" rel="prev"' in text
        some = hub.get("/?label=row%3DR1&sort=name&page=2").text
        assert "Machines 101 to 200 of 250" in some
        assert 'href="/?label=row%3DR1&amp;sort=name&amp;page=3" rel="next"' in some
        assert 'href="/?label=row%3DR1&amp;sort=free"' in some, "in another order from the beginning"
        assert "Machines 1 to" not in hub.get("/?q=gpu-012").text
        refused = hub.get("/?page=x")
        assert (refused.status, refused.text) == (400, "400 page: 'x' is not a whole number from 1 to 1000000\n")


def test_a_lab_is_on_one_page(tmp_path: Path) -> None:
    nodes = write_nodes(tmp_path / "nodes.json", {f"gpu-{number}": 1 + number for number in range(60)})
    with Hub(tmp_path, nodes, interval="600s") as hub:
        text = hub.get("/").text
        assert text.count('<th scope="row"') == 60
        assert 'rel="next"' not in text
