"""The memory errors of one simulated GPU."""

from __future__ import annotations

from typing import Final

from gpu_exporter.sources.fake.models import GpuModel

_SRAM_THRESHOLD: Final = 4  # NVIDIA does not publish its own
SPARES: Final = ("max", "high", "partial", "low", "none")
_BANKS_A_GIB: Final = 32  # an H100 of 80 GiB has 2560


class MemoryErrors:
    """Counters of ECC errors by place, and of the rows (pages, before Ampere) that were taken out of use."""

    def __init__(self, model: GpuModel) -> None:
        self._model = model
        self._replaced = {"corrected": 0, "uncorrected": 0}
        self._worn: dict[str, int] = dict.fromkeys(SPARES[1:], 0)  # banks by the spare rows that they have left
        self._banks = round(model.memory / 1024) * _BANKS_A_GIB
        self._counts = {
            (severity, lifetime, location): 0
            for severity in ("corrected", "uncorrected")
            for lifetime in ("volatile", "aggregate")
            for location in model.ecc
        }

    def count(self, *, severity: str, location: str, count: int, rows: int) -> None:
        """So many errors happened, and so many rows were taken out of use for them."""
        self._counts[severity, "volatile", location] += count
        self._counts[severity, "aggregate", location] += count
        self._replaced[severity] += rows

    def wear(self, *, spare: str, count: int) -> None:
        """So many banks have so many spare rows left."""
        if spare != "max":
            self._worn[spare] = min(count, self._banks)

    def reset(self) -> None:
        """What an administrator's GPU reset does to the counters: volatile ones start again."""
        for place in self._counts:
            if place[1] == "volatile":
                self._counts[place] = 0

    def quantities(self, *, remap_pending: bool, remap_failure: bool) -> dict[str, float]:
        """What the catalogue's ``fake`` columns name of it."""
        quantities = {
            f"ecc_{severity}_{lifetime}_{location}": float(count)
            for (severity, lifetime, location), count in self._counts.items()
        }
        if "sram" in self._model.ecc:
            bad = self._counts["uncorrected", "aggregate", "sram"] >= _SRAM_THRESHOLD
            quantities["sram_threshold_exceeded"] = float(bad)
            units = dict.fromkeys(("l2", "sm", "mcu", "pcie", "other"), 0.0)
            units["l2"] = float(self._counts["uncorrected", "aggregate", "sram"])
            quantities |= {f"sram_{unit}": count for unit, count in units.items()}
        if self._model.spares == "rows":
            quantities["remapped_corrected"] = float(self._replaced["corrected"])
            quantities["remapped_uncorrected"] = float(self._replaced["uncorrected"])
            quantities["remap_pending"] = float(remap_pending)
            quantities["remap_failure"] = float(remap_failure)
            quantities["remap_banks_max"] = float(max(0, self._banks - sum(self._worn.values())))
            quantities |= {f"remap_banks_{spare}": float(count) for spare, count in self._worn.items()}
            quantities["repair_channel"] = quantities["repair_tpc"] = 0.0
        elif self._model.spares == "pages":
            quantities["retired_single_bit_ecc"] = float(self._replaced["corrected"])
            quantities["retired_double_bit_ecc"] = float(self._replaced["uncorrected"])
            quantities["retired_pending"] = float(remap_pending)
        return quantities
