"""What once broke is held by tests that exist (tests/findings.yml)."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
import yaml
from tools.lab import ROOT

TESTS = ROOT / "tests"
FINDINGS: dict[str, dict[str, list[str]]] = yaml.safe_load((TESTS / "findings.yml").read_text())


@cache
def functions_of(path: Path) -> frozenset[str]:
    """The test functions of a module."""
    module = ast.parse(path.read_text())
    return frozenset(node.name for node in module.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("kind", FINDINGS)
def test_each_finding_has_tests_that_exist(kind: str) -> None:
    for finding, tests in FINDINGS[kind].items():
        assert tests, finding
        assert len(tests) == len(set(tests)), finding
        for test in tests:
            path, _, name = test.partition("::")
            assert name in functions_of(TESTS / path), f"{finding}: there is no {test}"
