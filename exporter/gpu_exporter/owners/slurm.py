"""Which Slurm job was given which GPU, from files that the site's prolog writes; docs/OWNERS.md has the scripts.

One file a GPU, named by its index or UUID (a MIG instance's UUID as well), one line a job: ``job user [account]``; the
user is a name or a uid. jobstats' ``/run/gpustat`` (``job uid``) and a job alone are read, too.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from gpu_exporter.config import OwnersConfig
from gpu_exporter.model import Identity
from gpu_exporter.owners import Allocations
from gpu_exporter.owners.aside import Aside

log = logging.getLogger(__name__)

_LOOK_AGAIN: Final = 1.0  # seconds
_KEPT: Final = 60.0  # seconds that the files stand while their file system does not answer
_MOST_FILES: Final = 1024  # 16 GPUs of 7 instances, by index and by UUID, are a quarter of that
_LARGEST: Final = 16 * 1024  # bytes of one file
_DEVICE: Final = re.compile(r"[0-9]{1,4}|(?:GPU|MIG)-[0-9A-Za-z-]{1,64}")
# 17 · 17_3 (array task) · 17+1 (part of a heterogeneous job)
_JOB: Final = re.compile(r"[0-9]{1,20}(?:[_+][0-9]{1,10})?")
_LONGEST: Final = 256  # characters of a word


@dataclass(frozen=True, slots=True)
class Job:
    """One line: ``user`` is a name or a uid, as the prolog wrote it; empty strings are what it left out."""

    job: str
    user: str = ""


class MalformedError(ValueError):
    """A file's text is not what the prolog should write; the message is one line."""


def parse(text: str) -> tuple[Job, ...]:
    """The jobs of one file, each once. A file without a line is one that is being written. Raises MalformedError."""
    jobs: dict[str, Job] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not (words := line.split()):
            continue
        strange = any(len(word) > _LONGEST or not word.isprintable() for word in words)
        if strange or len(words) > 3 or not _JOB.fullmatch(words[0]):
            raise MalformedError(f"line {number} is not 'job user [account]', such as '4711 alice physics'")
        jobs.setdefault(words[0], Job(*words[:2]))
    return tuple(jobs.values())


def open_allocations(config: OwnersConfig, user_name: Callable[[int], str]) -> Allocations:
    """What the settings ask for."""
    return SlurmFiles(directory=config.slurm_directory, user_name=user_name)


class SlurmFiles:
    """Reads the files in ``directory`` at most once a second, as it is asked. Belongs to one thread.

    ``user_name`` tells a uid's name without waiting (UserNames.name). A directory that is not there means no jobs.
    """

    def __init__(
        self,
        *,
        directory: Path,
        user_name: Callable[[int], str] = str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._user_name = user_name
        self._monotonic = monotonic
        self._look_at = float("-inf")
        self._current: Mapping[str, Sequence[Identity]] = MappingProxyType({})
        self._files: Aside[Mapping[str, tuple[Job, ...]]] = Aside(self._scan, {}, what=str(directory), keeps=_KEPT)
        self._warned: dict[str, tuple[str, int]] = {}  # file -> what was warned of, of which text

    def current(self) -> Mapping[str, Sequence[Identity]]:
        """Identities by index or UUID, as the files are named; a GPU with a file of both kinds is there twice."""
        now = self._monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_AGAIN
            self._current = MappingProxyType(
                {device: tuple(map(self._identity, jobs)) for device, jobs in self._files.latest().items()}
            )
        return self._current

    def close(self) -> None:
        """Nothing is held open."""

    def _identity(self, job: Job) -> Identity:
        is_uid = job.user.isascii() and job.user.isdigit() and len(job.user) <= 10
        uid = int(job.user) if is_uid else None
        user = job.user if uid is None else self._user_name(uid)
        return Identity(user=user, labels={"slurm_job": job.job}, uid=uid)

    def _scan(self) -> dict[str, tuple[Job, ...]]:
        jobs: dict[str, tuple[Job, ...]] = {}
        troubles: dict[str, tuple[str, str]] = {}  # file -> its text, what is wrong
        try:
            with os.scandir(self._directory) as entries:
                names = [entry.name for entry in entries if not entry.name.startswith(".")]
        except FileNotFoundError:
            names = []
        except OSError as error:
            names = []
            troubles[""] = ("", f"{error.strerror or error}")
        if len(names) > _MOST_FILES:
            troubles[""] = ("", f"{len(names)} files; the first {_MOST_FILES} are read")
        for name in sorted(names)[:_MOST_FILES]:
            text = ""
            try:
                if not _DEVICE.fullmatch(name):
                    raise MalformedError("the name is neither a GPU's index nor a UUID")  # noqa: TRY301 - told below
                text = self._read(name)
                if found := parse(text):
                    device = str(int(name)) if name.isdigit() else name
                    jobs[device] = tuple(dict.fromkeys((*jobs.get(device, ()), *found)))
            except FileNotFoundError:
                continue  # the epilog was here
            except (OSError, MalformedError) as error:
                troubles[name] = (text, str(getattr(error, "strerror", None) or error))
        self._warn_once(troubles)
        return jobs

    def _read(self, name: str) -> str:
        # A pipe must not keep us waiting, a link must not lead elsewhere.
        descriptor = os.open(self._directory / name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            content = os.read(descriptor, _LARGEST + 1)
        finally:
            os.close(descriptor)
        if len(content) > _LARGEST:
            raise OSError(errno.EFBIG, f"more than {_LARGEST} bytes")
        return content.decode("utf-8", "replace")

    def _warn_once(self, troubles: Mapping[str, tuple[str, str]]) -> None:
        """Warn once of each trouble, again when the text is another."""
        told = {name: (why, hash(text)) for name, (text, why) in troubles.items()}
        for name, trouble in told.items():
            if self._warned.get(name) != trouble:
                log.warning("a Slurm file is ignored", extra={"file": str(self._directory / name), "why": trouble[0]})
        self._warned = told
