"""A program, recorded: one run that notes what was said on its way, and one that says it again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from gpu_exporter.config.parsers import shown
from gpu_exporter.sources.program import MissingProgramError, ProgramError, Run, Said, SlowProgramError
from gpu_exporter.sources.tape import Playback, Tape

# nvidia-smi's names of serial numbers; it is told to know none of them.
_PRIVATE: Final = ("serial", "gpu_serial")
_QUERY: Final = re.compile(r"(--query-[a-z-]+)=(.+)")
_HELP: Final = "--help-query-"
_FIELD: Final = re.compile(r'^"([A-Za-z0-9_.]+)"')


class RecordingRun:
    """Runs the program, and notes what it says."""

    def __init__(self, run: Run, tape: Tape) -> None:
        self._run = run
        self._tape = tape

    def __call__(self, arguments: Sequence[str], /, *, timeout: float) -> Said:
        """See Run."""
        question = " ".join(arguments)
        if not self._tape.names and (private := _private(arguments)) is not None:
            return Said(2, f'Field "{private}" is not a valid field to query.\n')
        try:
            said = self._run(arguments, timeout=timeout)
        except SlowProgramError:
            self._tape.put(question, None)
            raise
        self._tape.put(question, [said.code, said.out, said.err])
        return said


class RecordedRun:
    """Says what the recording has at this moment.

    A gpu-exporter that asks for other fields than the one that recorded gets those that were recorded.
    """

    def __init__(self, playback: Playback) -> None:
        self._playback = playback
        asked = (_QUERY.search(key) for key in playback.recording.answers)
        self._fields = {match[1]: match[2].split(" ")[0].split(",") for match in asked if match}

    def __call__(self, arguments: Sequence[str], /, *, timeout: float) -> Said:
        """See Run."""
        question = " ".join(arguments)
        answers = self._playback.recording.answers
        if question in answers:
            said = self._said(self._playback.answer(question))
            return self._known_only(said, question) if question.startswith(_HELP) else said
        match = _QUERY.search(question)
        recorded = self._fields.get(match[1], []) if match else []
        fields = match[2].split(" ")[0].split(",") if match else []
        other = question.replace(",".join(fields), ",".join(recorded)) if fields and recorded else ""
        if other not in answers:
            raise MissingProgramError(f"the recording has no answer to '{shown(question, 80)}'")
        lacking = next((field for field in fields if field not in recorded), None)
        if lacking is not None:
            return Said(2, f'Field "{lacking}" is not a valid field to query.\n')
        said = self._said(self._playback.answer(other))
        places = [recorded.index(field) for field in fields]
        return Said(said.code, _columns(said.out, places, len(recorded)), said.err)

    @staticmethod
    def _said(answer: Any) -> Said:
        if answer is None:
            raise SlowProgramError("it did not answer in time when it was recorded")
        match answer:
            case [int(code), str(out), str(err)]:
                return Said(code, out, err)
        raise ProgramError("a recorded answer is no answer of a program")

    def _known_only(self, said: Said, question: str) -> Said:
        """The help without the fields that were not asked for."""
        recorded = self._fields.get(f"--query-{question.removeprefix(_HELP)}")
        if recorded is None:
            return said
        lines = [line for line in said.out.split("\n") if not (m := _FIELD.match(line)) or m[1] in recorded]
        return Said(said.code, "\n".join(lines), said.err)


def _private(arguments: Sequence[str]) -> str | None:
    queries = (match[2].split(",") for argument in arguments if (match := _QUERY.fullmatch(argument)))
    return next((name for fields in queries for name in fields if name in _PRIVATE), None)


def _columns(text: str, places: Sequence[int], width: int) -> str:
    """The table with these columns only; lines that are no row of it stay as they are."""
    lines = []
    for line in text.split("\n"):
        cells = line.split(",")
        lines.append(",".join(cells[place] for place in places) if len(cells) == width else line)
    return "\n".join(lines)
