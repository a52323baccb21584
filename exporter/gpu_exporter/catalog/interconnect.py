"""PCIe, NVLink and the NVLink fabric."""

from __future__ import annotations

from functools import partial
from typing import Final

from gpu_exporter.catalog.plausible import FLAG
from gpu_exporter.catalog.row import KIB, MIB, Board, Call, Constant, Dcgm, Field, Gpm, Links, Metric, Smi, row, split

_GROUP: Final = "PCIe, NVLink"
gauge: Final = partial(row, "gauge", _GROUP)
counter: Final = partial(row, "counter", _GROUP)
gauge_by: Final = partial(split, "gauge", _GROUP)
counter_by: Final = partial(split, "counter", _GROUP)

_NVLINK: Final = "NVML_FI_DEV_NVLINK_LINK_COUNT"
_NVLINK_STATE: Final = "NVML_FI_DEV_NVLINK_GET_STATE"
_ALL_LINKS: Final = 0xFFFFFFFF
_NVLINK_ERRORS: Final[dict[str, tuple[Field, ...]]] = {
    "crc_flit": (
        Field("NVML_FI_DEV_NVLINK_ERROR_DL_CRC", scope="links"),
        Field("NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL"),
    ),
    "crc_data": (Field("NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL"),),
    "replay": (
        Field("NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY", scope="links"),
        Field("NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL"),
    ),
    "recovery": (
        Field("NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY", scope="links"),
        Field("NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL"),
        Field("NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_EVENTS", scope="links"),
    ),
    "symbol": (Field("NVML_FI_DEV_NVLINK_COUNT_SYMBOL_ERRORS", scope="links"),),
    # NVLink 5, Blackwell and newer.
    "effective": (Field("NVML_FI_DEV_NVLINK_COUNT_EFFECTIVE_ERRORS", scope="links"),),
    "recovery_successful": (Field("NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_SUCCESSFUL_EVENTS", scope="links"),),
    "recovery_failed": (Field("NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS", scope="links"),),
}
# nvml.h, nvmlGpuFabricInfo: two bits a condition, 1 a fault, 2 none, 0 not supported; the configuration has four
# bits, 1 none, 2 to 8 what is wrong with it.
_TWO_BITS: Final = ((1, 1.0), (2, 0.0))
_CONDITIONS: Final[dict[str, tuple[int, int, tuple[tuple[int, float], ...]]]] = {
    "degraded_bandwidth": (0, 0x3, _TWO_BITS),
    "route_recovery": (2, 0x3, _TWO_BITS),
    "route_unhealthy": (4, 0x3, _TWO_BITS),
    "access_timeout_recovery": (6, 0x3, _TWO_BITS),
    "incorrect_configuration": (8, 0xF, ((1, 0.0), *((code, 1.0) for code in range(2, 16)))),
}
_FABRIC: Final = "c_nvmlGpuFabricInfoV_t"
_AER: Final = {
    "correctable": "PCIE_COUNT_CORRECTABLE_ERRORS",
    "non_fatal": "PCIE_COUNT_NON_FATAL_ERROR",
    "fatal": "PCIE_COUNT_FATAL_ERROR",
    "unsupported_request": "PCIE_COUNT_UNSUPPORTED_REQ",
    "bad_tlp": "PCIE_COUNT_BAD_TLP",
    "bad_dllp": "PCIE_COUNT_BAD_DLLP",
    "receiver": "PCIE_COUNT_RECEIVER_ERROR",
    "lcrc": "PCIE_COUNT_LCRC_ERROR",
    "lane": "PCIE_COUNT_LANE_ERROR",
    "nak_received": "PCIE_COUNT_NAKS_RECEIVED",
    "nak_sent": "PCIE_COUNT_NAKS_SENT",
    "recovery": "PCIE_L0_TO_RECOVERY_COUNTER",
}
_DCGM_NVLINK_ERRORS: Final = {
    "crc_flit": Dcgm(409, "DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL"),
    "crc_data": Dcgm(419, "DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL"),
    "replay": Dcgm(429, "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL"),
    "recovery": Dcgm(439, "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL"),
    "symbol": Dcgm(1214, "DCGM_FI_DEV_NVLINK_COUNT_RX_SYMBOL_ERRORS"),
}
# A copy of 55.1 GB/s on an H200 was 56 280 MiB/s to GPM.
_PCIE_BYTES: Final = (
    ": from the driver's counter where that has 64 bits, else from GPM (Hopper and newer, packet headers included). A "
    "counter of 32 bits wraps within 80 ms at full speed and is not used: other GPUs lack this."
)
_MOST_PCIE: Final = 1e6  # MiB/s; 16 lanes of PCIe 7 carry a quarter of it one way

NVLINK_LINK_ERRORS: Final = counter(
    "gpu_nvlink_link_errors_total",
    "NVLink errors of single links that have had any, by kind.",
    dynamic=("link", "kind"),
)
ROWS: Final[tuple[Metric, ...]] = (
    counter(
        "gpu_pcie_transmit_bytes_total",
        f"Bytes that the GPU sent over PCIe{_PCIE_BYTES}",
        nvml=(
            Field("NVML_FI_DEV_PCIE_COUNT_TX_BYTES", wraps=True),
            Gpm("NVML_GPM_METRIC_PCIE_TX_PER_SEC", scale=MIB, most=_MOST_PCIE),
        ),
        dcgm=Dcgm(1091, "DCGM_FI_PROF_PCIE_TX_BYTES_TOTAL"),
        fake="pcie_transmit_bytes",
    ),
    counter(
        "gpu_pcie_receive_bytes_total",
        f"Bytes that the GPU received over PCIe{_PCIE_BYTES}",
        nvml=(
            Field("NVML_FI_DEV_PCIE_COUNT_RX_BYTES", wraps=True),
            Gpm("NVML_GPM_METRIC_PCIE_RX_PER_SEC", scale=MIB, most=_MOST_PCIE),
        ),
        dcgm=Dcgm(1092, "DCGM_FI_PROF_PCIE_RX_BYTES_TOTAL"),
        fake="pcie_receive_bytes",
    ),
    counter(
        "gpu_pcie_replays_total",
        "PCIe packets that had to be sent again.",
        nvml=(Field("NVML_FI_DEV_PCIE_REPLAY_COUNTER"), Call("nvmlDeviceGetPcieReplayCounter")),
        dcgm=Dcgm(202, "DCGM_FI_DEV_PCIE_REPLAY_COUNTER"),
        fake="pcie_replays",
    ),
    gauge(
        "gpu_pcie_link_generation",
        "PCIe generation of the link now; idle GPUs step down to save power.",
        unitless=True,
        plausible=(1.0, 8.0),
        nvml=Call("nvmlDeviceGetCurrPcieLinkGeneration"),
        smi=Smi("pcie.link.gen.current"),
        dcgm=Dcgm(237, "DCGM_FI_DEV_PCIE_LINK_GEN"),
        fake="pcie_generation",
    ),
    gauge(
        "gpu_pcie_link_generation_max",
        "Highest PCIe generation that GPU and slot share.",
        unitless=True,
        plausible=(1.0, 8.0),
        nvml=Call("nvmlDeviceGetMaxPcieLinkGeneration"),
        smi=Smi("pcie.link.gen.max"),
        dcgm=Dcgm(235, "DCGM_FI_DEV_PCIE_MAX_LINK_GEN"),
        fake=Board("pcie"),
    ),
    gauge(
        "gpu_pcie_link_width",
        "PCIe lanes in use.",
        unitless=True,
        plausible=(1.0, 32.0),
        nvml=Call("nvmlDeviceGetCurrPcieLinkWidth"),
        smi=Smi("pcie.link.width.current"),
        dcgm=Dcgm(238, "DCGM_FI_DEV_PCIE_LINK_WIDTH"),
        fake="pcie_width",
    ),
    gauge(
        "gpu_pcie_link_width_max",
        "PCIe lanes that GPU and slot share.",
        unitless=True,
        plausible=(1.0, 32.0),
        nvml=Call("nvmlDeviceGetMaxPcieLinkWidth"),
        smi=Smi("pcie.link.width.max"),
        dcgm=Dcgm(236, "DCGM_FI_DEV_PCIE_MAX_LINK_WIDTH"),
        fake=Constant(16.0),
    ),
    *(
        gauge(
            "gpu_nvlink_links",
            "NVLinks of the GPU by state; a link that sleeps to save power counts as active.",
            unitless=True,
            plausible=(0.0, 1024.0),
            labels={"state": state},
            links=_NVLINK,
            nvml=(Links(_NVLINK_STATE, active=active), Links(_NVLINK_STATE, active=active, per_link=True)),
            fake=f"nvlinks_{state}",
        )
        for state, active in (("active", True), ("inactive", False))
    ),
    counter(
        "gpu_nvlink_transmit_bytes_total",
        "Payload bytes sent over all NVLinks of the GPU.",
        links=_NVLINK,
        nvml=(
            Field("NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX", scope=_ALL_LINKS, scale=KIB),
            Field("NVML_FI_DEV_NVLINK_COUNT_XMIT_BYTES", scope="links"),
        ),
        dcgm=Dcgm(1201, "DCGM_FI_DEV_NVLINK_COUNT_TX_BYTES"),
        fake="nvlink_transmit_bytes",
    ),
    counter(
        "gpu_nvlink_receive_bytes_total",
        "Payload bytes received over all NVLinks of the GPU.",
        links=_NVLINK,
        nvml=(
            Field("NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX", scope=_ALL_LINKS, scale=KIB),
            Field("NVML_FI_DEV_NVLINK_COUNT_RCV_BYTES", scope="links"),
        ),
        dcgm=Dcgm(1203, "DCGM_FI_DEV_NVLINK_COUNT_RX_BYTES"),
        fake="nvlink_receive_bytes",
    ),
    *(
        counter(
            "gpu_nvlink_errors_total",
            "NVLink errors over all links of the GPU, by kind.",
            labels={"kind": kind},
            links=_NVLINK,
            nvml=fields,
            dcgm=_DCGM_NVLINK_ERRORS.get(kind),
            fake=f"nvlink_errors_{kind}",
        )
        for kind, fields in _NVLINK_ERRORS.items()
    ),
    NVLINK_LINK_ERRORS,
    counter_by(
        "gpu_c2c_errors_total",
        "Errors of the C2C links, by kind: interrupts, replays, replays back to back.",
        label="kind",
        links="NVML_FI_DEV_C2C_LINK_COUNT",
        nvml={
            kind: Field(f"NVML_FI_DEV_C2C_LINK_ERROR_{name}", scope="links")
            for kind, name in (("interrupt", "INTR"), ("replay", "REPLAY"), ("replay_back_to_back", "REPLAY_B2B"))
        },
        fake_absent="no simulated board has a CPU beside it",
    ),
    counter_by(
        "gpu_pcie_aer_errors_total",
        "Errors and recoveries of the PCIe link as the GPU counts them (Advanced Error Reporting), by kind.",
        label="kind",
        nvml={kind: Field(f"NVML_FI_DEV_{name}") for kind, name in _AER.items()},
        fake="pcie_aer",
    ),
    *(
        gauge(
            "gpu_c2c_links",
            "C2C links between the GPU and the CPU of its module (Grace Hopper, Grace Blackwell), by state.",
            unitless=True,
            plausible=(0.0, 1024.0),
            labels={"state": state},
            links="NVML_FI_DEV_C2C_LINK_COUNT",
            nvml=Links("NVML_FI_DEV_C2C_LINK_GET_STATUS", active=active),
            fake_absent="no simulated board has a CPU beside it",
        )
        for state, active in (("active", True), ("inactive", False))
    ),
    gauge(
        "gpu_fabric_state",
        "Registration with the NVLink fabric manager: 1 not started, 2 in progress, 3 completed.",
        unitless=True,
        plausible=(1.0, 3.0),
        nvml=Call("nvmlDeviceGetGpuFabricInfoV", struct="c_nvmlGpuFabricInfoV_t", part=("state",), absent=(0.0,)),
        smi=Smi("fabric.state", words=(("Not Started", 1.0), ("In Progress", 2.0), ("Completed", 3.0))),
        fake="fabric_state",
    ),
    gauge(
        "gpu_fabric_status",
        "What the registration with the NVLink fabric manager came to, where it is completed: 0 success, else NVML's "
        "error code.",
        unitless=True,
        plausible=(0.0, 999.0),
        nvml=Call("nvmlDeviceGetGpuFabricInfoV", struct=_FABRIC, part=("status",), only=("state", 3)),
        fake="fabric_status",
    ),
    gauge_by(
        "gpu_fabric_health",
        "Health of the GPU's part of the NVLink fabric by condition: 1 a fault, 0 well; absent where not told.",
        label="condition",
        unitless=True,
        plausible=FLAG,
        nvml={
            condition: Call(
                "nvmlDeviceGetGpuFabricInfoV", struct=_FABRIC, part=("healthMask",), shift=shift, mask=mask, codes=codes
            )
            for condition, (shift, mask, codes) in _CONDITIONS.items()
        },
        fake="fabric",
    ),
)
