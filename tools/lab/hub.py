"""The hub as a user runs it."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.lab import LOOPBACK
from tools.lab.exporter import command, environment
from tools.lab.programs import Program
from tools.lab.web import Answer, ask


def write_nodes(path: Path, machines: Mapping[str, int], **labels: str) -> Path:
    """A nodes.yml of machines on this one: alias -> port, all with these labels."""
    groups = [
        {"targets": [f"{LOOPBACK}:{port}"], "labels": {"alias": alias, **labels}} for alias, port in machines.items()
    ]
    path.write_text(json.dumps(groups))
    return path


class Hub(Program):
    """``gpu-exporter hub`` on a free port of 127.0.0.1; a context manager that stops it."""

    def __init__(
        self, folder: Path, nodes: Path, *arguments: str, extra: Mapping[str, str] | None = None, interval: str = "1s"
    ) -> None:
        config = folder / "hub.yml"
        if not config.exists():
            config.write_text(f"interval: {interval}\n")
        super().__init__(
            [
                *command(),
                "hub",
                f"--nodes.file={nodes}",
                f"--hub.config.file={config}",
                f"--web.listen-address={LOOPBACK}:0",
                *arguments,
            ],
            folder / "hub.log",
            env=environment(extra),
        )
        self.config, self.nodes_file = config, nodes
        self.port = int(self.wait(self._listening))

    def _listening(self) -> str | None:
        listening = re.search(r"msg=listening address=127\.0\.0\.1:(\d+)", self.log())
        return listening[1] if listening else None

    def __enter__(self) -> Hub:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Status, headers and text of a page."""
        return ask(self.port, path, headers=headers)

    def json(self, path: str) -> Any:
        """A document of the API."""
        status, _, text = self.get(path)
        assert status == 200, (path, status, text)
        return json.loads(text)

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Every machine by name."""
        return {node["name"]: node for node in self.json("/api/v1/nodes")["nodes"]}

    def states(self) -> dict[str, str]:
        """The state of every machine by name."""
        return {name: node["state"] for name, node in self.nodes().items()}

    def wait_states(self, **expected: str) -> dict[str, dict[str, Any]]:
        """The machines, as soon as these have these states."""

        def there() -> dict[str, dict[str, Any]] | None:
            found = self.nodes()
            wanted: Sequence[bool] = [found.get(name, {}).get("state") == state for name, state in expected.items()]
            return found if all(wanted) else None

        return self.wait(there)
