"""ECC errors, and memory that was taken out of use because of them."""

from __future__ import annotations

from functools import partial
from typing import Final

from gpu_exporter.catalog.plausible import FLAG
from gpu_exporter.catalog.row import ON_OFF, YES_NO, Call, Dcgm, Field, Metric, Nvml, Smi, row, split

_GROUP: Final = "memory errors"
gauge: Final = partial(row, "gauge", _GROUP)
counter: Final = partial(row, "counter", _GROUP)
gauge_by: Final = partial(split, "gauge", _GROUP)
counter_by: Final = partial(split, "counter", _GROUP)

_SRAM_STATUS: Final = "c_nvmlEccSramErrorStatus_v1_t"
_SRAM_PARTS: Final = {
    ("corrected", "volatile"): ("volatileCor",),
    ("corrected", "aggregate"): ("aggregateCor",),
    ("uncorrected", "volatile"): ("volatileUncParity", "volatileUncSecDed"),
    ("uncorrected", "aggregate"): ("aggregateUncParity", "aggregateUncSecDed"),
}
_LOCATIONS: Final = {  # label: (suffix of the field, suffix of the memory location)
    "dram": ("DEV", "DEVICE_MEMORY"),
    "sram": (None, "SRAM"),
    "l1_cache": ("L1", None),
    "l2_cache": ("L2", None),
    "register_file": ("REG", None),
    "texture_memory": ("TEX", None),
}


_DCGM_ECC: Final = {  # label: DCGM's number of corrected volatile errors, aggregate ones after that, its suffix
    "dram": (318, 10, "DEV"),
    "sram": (342, 2, "SRM"),
    "l1_cache": (314, 10, "L1"),
    "l2_cache": (316, 10, "L2"),
    "register_file": (320, 10, "REG"),
    "texture_memory": (322, 10, "TEX"),
}


def _ecc(severity: str, lifetime: str, location: str) -> tuple[Nvml, ...]:
    suffix, place = _LOCATIONS[location]
    error = "SBE" if severity == "corrected" else "DBE"
    best: Nvml = Call("nvmlDeviceGetSramEccErrorStatus", struct=_SRAM_STATUS, part=_SRAM_PARTS[severity, lifetime])
    if suffix is not None:
        best = Field(f"NVML_FI_DEV_ECC_{error}_{lifetime[:3].upper()}_{suffix}")
    if place is None:
        return (best,)
    which = (
        f"NVML_MEMORY_ERROR_TYPE_{severity.upper()}",
        f"NVML_{lifetime.upper()}_ECC",
        f"NVML_MEMORY_LOCATION_{place}",
    )
    return (best, Call("nvmlDeviceGetMemoryErrorCounter", which))


def _dcgm_ecc(severity: str, lifetime: str, location: str) -> Dcgm:
    """Numbers go on by one from corrected to uncorrected errors, and by ``more`` from volatile to aggregate ones."""
    first, more, suffix = _DCGM_ECC[location]
    error, kept = "SBE" if severity == "corrected" else "DBE", lifetime[:3].upper()
    number = first + (severity != "corrected") + more * (lifetime == "aggregate")
    return Dcgm(number, f"DCGM_FI_DEV_ECC_{error}_{kept}_{suffix}")


ROWS: Final[tuple[Metric, ...]] = (
    gauge(
        "gpu_ecc_enabled",
        "1 where ECC is in force, 0 where it is switched off.",
        unitless=True,
        plausible=FLAG,
        nvml=Call("nvmlDeviceGetEccMode", part=(0,)),
        smi=Smi("ecc.mode.current", words=ON_OFF),
        dcgm=Dcgm(300, "DCGM_FI_DEV_ECC_CURRENT"),
        fake="ecc_enabled",
    ),
    *(
        counter(
            "gpu_ecc_errors_total",
            "ECC errors: volatile since the driver was loaded or the GPU reset, aggregate over the board's life.",
            labels={"lifetime": lifetime, "location": location, "severity": severity},
            nvml=_ecc(severity, lifetime, location),
            smi=Smi(f"ecc.errors.{severity}.{lifetime}.{location}"),
            dcgm=_dcgm_ecc(severity, lifetime, location),
            fake=f"ecc_{severity}_{lifetime}_{location}",
        )
        for severity, lifetime in _SRAM_PARTS
        for location in _LOCATIONS
    ),
    gauge(
        "gpu_ecc_sram_threshold_exceeded",
        "1 where uncorrected SRAM errors passed NVIDIA's threshold for replacing the board.",
        unitless=True,
        plausible=FLAG,
        nvml=Call("nvmlDeviceGetSramEccErrorStatus", struct=_SRAM_STATUS, part=("bThresholdExceeded",)),
        smi=Smi("ecc.errors.uncorrected.aggregate.sram.thresholdExceeded", words=YES_NO),
        dcgm=Dcgm(346, "DCGM_FI_DEV_THRESHOLD_SRM"),
        fake="sram_threshold_exceeded",
    ),
    *(
        gauge(
            "gpu_remapped_rows",
            "Rows of device memory that were remapped to spare ones, by the kind of error (Ampere and newer).",
            unitless=True,
            plausible=(0.0, 32767.0),
            labels={"severity": severity},
            nvml=Field(field),
            smi=Smi(smi),
            dcgm=dcgm,
            fake=f"remapped_{severity}",
        )
        for severity, field, smi, dcgm in (
            (
                "corrected",
                "NVML_FI_DEV_REMAPPED_COR",
                "remapped_rows.correctable",
                Dcgm(394, "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS"),
            ),
            (
                "uncorrected",
                "NVML_FI_DEV_REMAPPED_UNC",
                "remapped_rows.uncorrectable",
                Dcgm(393, "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS"),
            ),
        )
    ),
    gauge(
        "gpu_row_remap_pending",
        "1 where a row waits for a GPU reset to be remapped.",
        unitless=True,
        plausible=FLAG,
        nvml=Field("NVML_FI_DEV_REMAPPED_PENDING"),
        smi=Smi("remapped_rows.pending", words=YES_NO),
        dcgm=Dcgm(396, "DCGM_FI_DEV_ROW_REMAP_PENDING"),
        fake="remap_pending",
    ),
    gauge(
        "gpu_row_remap_failure",
        "1 where a row could not be remapped: NVIDIA's criterion for replacing the board.",
        unitless=True,
        plausible=FLAG,
        nvml=Field("NVML_FI_DEV_REMAPPED_FAILURE"),
        smi=Smi("remapped_rows.failure", words=YES_NO),
        dcgm=Dcgm(395, "DCGM_FI_DEV_ROW_REMAP_FAILURE"),
        fake="remap_failure",
    ),
    *(
        gauge(
            "gpu_retired_pages",
            "Pages of device memory taken out of use, by cause (before Ampere).",
            unitless=True,
            plausible=(0.0, 4095.0),
            labels={"cause": cause},
            nvml=Field(field),
            smi=Smi(smi),
            dcgm=dcgm,
            fake=f"retired_{cause}",
        )
        for cause, field, smi, dcgm in (
            (
                "single_bit_ecc",
                "NVML_FI_DEV_RETIRED_SBE",
                "retired_pages.single_bit_ecc.count",
                Dcgm(390, "DCGM_FI_DEV_RETIRED_SBE"),
            ),
            (
                "double_bit_ecc",
                "NVML_FI_DEV_RETIRED_DBE",
                "retired_pages.double_bit.count",
                Dcgm(391, "DCGM_FI_DEV_RETIRED_DBE"),
            ),
        )
    ),
    gauge(
        "gpu_retired_pages_pending",
        "1 where a page waits for a reboot to be retired.",
        unitless=True,
        plausible=FLAG,
        nvml=Field("NVML_FI_DEV_RETIRED_PENDING"),
        smi=Smi("retired_pages.pending", words=YES_NO),
        dcgm=Dcgm(392, "DCGM_FI_DEV_RETIRED_PENDING"),
        fake="retired_pending",
    ),
    gauge_by(
        "gpu_row_remap_banks",
        "Banks of device memory by how many spare rows they have left: all of them (max), many, some, few, none; told "
        "in MIG mode as well.",
        label="spare",
        unitless=True,
        nvml={
            spare: Call("nvmlDeviceGetRowRemapperHistogram", part=(spare,))
            for spare in ("max", "high", "partial", "low", "none")
        },
        fake="remap_banks",
    ),
    gauge_by(
        "gpu_repair_pending",
        "1 where a memory channel, or a cluster of multiprocessors (TPC), waits for a reset to be put out of use.",
        label="kind",
        unitless=True,
        plausible=FLAG,
        nvml={kind: Call("nvmlDeviceGetRepairStatus", part=(place,)) for place, kind in enumerate(("channel", "tpc"))},
        fake="repair",
    ),
    counter_by(
        "gpu_sram_uncorrected_errors_total",
        "Uncorrected errors in SRAM over the board's life, by the unit that they were in.",
        label="unit",
        nvml={
            unit: Call("nvmlDeviceGetSramEccErrorStatus", struct=_SRAM_STATUS, part=(f"aggregateUncBucket{name}",))
            for unit, name in (("l2", "L2"), ("sm", "Sm"), ("mcu", "Mcu"), ("pcie", "Pcie"), ("other", "Other"))
        },
        fake="sram",
    ),
)
