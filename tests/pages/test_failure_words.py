"""The words for failures."""

from __future__ import annotations

from typing import get_args

from gpu_exporter.model import Reason
from gpu_exporter.pages.failures import WORDS


def test_every_reason_has_its_words() -> None:
    assert set(WORDS) == set(get_args(Reason))
    assert all(words.meaning and words.advice for words in WORDS.values())


def test_advice_names_the_gpu() -> None:
    assert WORDS["reset_required"].advice.format(gpu=3).endswith("nvidia-smi --gpu-reset -i 3")
