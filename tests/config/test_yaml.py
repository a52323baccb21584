"""Mappings and lists of any file: places, keys, and what is left empty."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpu_exporter.config import ConfigError, Section, read_yaml
from gpu_exporter.config.parsers import boolean, integer_between, text


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], tuple[Path, Any]]:
    def read(content: str) -> tuple[Path, Any]:
        path = tmp_path / "any.yml"
        path.write_text(content)
        return path, read_yaml(path)

    return read


@pytest.fixture
def section(read: Callable[[str], tuple[Path, Any]]) -> Callable[..., Section]:
    return lambda content, **rest: Section(*read(content), **rest)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    return str(caught.value).partition("any.yml: ")[2]


def test_values_and_defaults(section: Callable[..., Section]) -> None:
    made = section("{flag: true, empty: , text: ''}")
    assert made.value("flag", boolean) is True
    assert made.value("empty", boolean) is None
    assert made.value("absent", boolean, default=False) is False
    assert refusal(lambda: made.value("text", text)) == "text: '' is not text; put it in quotes"


def test_a_mistake_names_its_place_however_deep(section: Callable[..., Section]) -> None:
    made = section("a: {b: [{c: {d: 9}}, {c: {d: x}}]}")
    inner = made.section("a").sections("b", known=("c",))[1].section("c")
    assert inner.place == "a.b[1].c"
    small = integer_between(1, 3)
    assert refusal(lambda: inner.value("d", small)) == "a.b[1].c.d: 'x' is not a whole number from 1 to 3"
    assert refusal(lambda: inner.require("e", "write 1")) == "a.b[1].c.e: is missing; write 1"
    assert refusal(lambda: inner.refuse("", "is too deep")) == "a.b[1].c: is too deep"


def test_an_unknown_key_names_those_that_are_known(section: Callable[..., Section]) -> None:
    message = "b: unknown key; write one of a, c"
    assert refusal(lambda: section("{a: 1, b: 2}", known=("a", "c"))) == message
    assert refusal(lambda: section("{a: 1, b: 2}").known(("a", "c"))) == message


@pytest.mark.parametrize(("content", "kind"), [("[1]", "a list"), ("word", "text"), ("7", "a single value")])
def test_what_is_no_mapping(section: Callable[..., Section], content: str, kind: str) -> None:
    assert refusal(lambda: section(content, known=("a", "b"))) == f"the file is {kind}; write keys such as a, b"
    assert refusal(lambda: section(content)) == "is no mapping; write its keys below it, indented"
    inner = section(f"a: {content}")
    assert refusal(lambda: inner.section("a", known=("b",))) == f"a is {kind}; write keys such as b"


def test_lists(section: Callable[..., Section]) -> None:
    made = section("{good: [1, 2], empty: , word: x, bad: [1, x]}")
    small = integer_between(1, 3)
    assert made.items("good", small) == (1, 2)
    assert made.items("empty", small) == made.items("absent", small) == ()
    wrong = "word: 'x' is not a list; write one item a line, each behind a dash"
    assert refusal(lambda: made.items("word", small)) == refusal(lambda: made.sections("word")) == wrong
    assert refusal(lambda: made.items("bad", small)) == "bad: 'x' is not a whole number from 1 to 3"


def test_a_file_may_be_a_list_of_mappings(read: Callable[[str], tuple[Path, Any]]) -> None:
    first, second = Section.each(*read("- targets: [a:1]\n- targets: 7\n"), known=("targets", "labels"))
    assert first.items("targets", text) == ("a:1",)
    assert refusal(lambda: second.items("targets", text)).startswith("[1].targets: '7' is not a list")
    assert refusal(lambda: Section.each(*read("targets: []"))).startswith("'{'targets': []}' is not a list; write one")
    assert refusal(lambda: Section.each(*read("- x"), known=("targets",))) == "[0] is text; write keys such as targets"
    assert Section.each(*read("")) == ()


@pytest.mark.parametrize("content", ["a: 1\n b: 2\n", "a:\n  b: 1\n c: 2\n", "- a: 1\n b: 2\n"])
def test_what_is_indented_wrongly_is_told(read: Callable[[str], tuple[Path, Any]], content: str) -> None:
    told = refusal(lambda: read(content))
    assert told.startswith("is not YAML: line ")
    assert told.endswith("; is this line indented as its neighbours?")
