"""``nvidia-smi --query-gpu`` with the fields that this nvidia-smi knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gpu_exporter.sources.program import ProgramError, Run, Said, SlowProgramError
from gpu_exporter.sources.smi import fields as smi_fields
from gpu_exporter.sources.smi.failures import finds_none, raise_for_all, source_error
from gpu_exporter.sources.smi.table import Table, parse

# Without persistence mode the driver initialises each GPU first, 1 to 2 s each.
OPENING: Final = 30.0  # seconds
_CSV: Final = "--format=csv"
_MOST_REFUSALS: Final = 200  # fields that an nvidia-smi without help refuses one by one


class Query:
    """Asks for GPUs. The constructor raises SourceError where nvidia-smi cannot be run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.fields = smi_fields.wanted(smi_fields.known(help_of(run, "--help-query-gpu")))

    def __call__(self, *which: str, timeout: float) -> Said:
        """What it says of all GPUs, or of those that the arguments pick; ``timeout`` in seconds.

        Raises SourceError where nothing can be asked, and SlowProgramError.
        """
        for _ in range(_MOST_REFUSALS):
            try:
                said = self._run([*which, *arguments("--query-gpu", self.fields)], timeout=timeout)
            except SlowProgramError:
                raise
            except ProgramError as error:
                raise source_error(error) from None
            name = smi_fields.refused(said.lines) if said.code else None
            if name is None or name not in self.fields:
                break
            self.fields = smi_fields.without(self.fields, name)
        raise_for_all(said)
        return said

    def table(self, said: Said) -> Table:
        """The table that was printed. Raises TableError where it is none of these fields."""
        return Table() if finds_none(said) else parse(said.out, self.fields)


def help_of(run: Run, option: str) -> str:
    """What it prints of its fields; empty where it does not know the option. Raises SourceError."""
    try:
        said = run([option], timeout=OPENING)
    except ProgramError as error:
        raise source_error(error) from None
    return said.out if said.code == 0 else ""


def arguments(option: str, fields: Sequence[str]) -> list[str]:
    """``--query-…`` with these fields."""
    return [f"{option}={','.join(fields)}", _CSV]
