"""Courses of what wears out and breaks: memory, links, fabric, heat, and GPUs that did not answer."""

from __future__ import annotations

from typing import Final

from build.looks import BAD_ABOVE_ZERO, GREEN, ORANGE, RED, UP, YELLOW
from build.panels import series, timeline
from build.parts import SERIES_TO_DEVICE, error_lines
from build.promql import GPU, GPU_LEGEND, HOST_LEGEND, NODE, most

MARGIN: Final = (
    f'gpu_temperature_limit_celsius{{{GPU}, limit="slowdown"}} - ignoring (limit) gpu_temperature_celsius{{{GPU}}}'
)
MARGIN_STEPS: Final = ((None, RED), (5, ORANGE), (10, YELLOW), (15, GREEN))  # 5: GPUTemperatureNearSlowdown
VOLATILE: Final = f'gpu_ecc_errors_total{{{GPU}, severity="%s", lifetime="volatile"}}'

MEMORY = [
    error_lines(
        "ECC errors, uncorrected",
        "New uncorrected memory errors, of the GPUs that had some.",
        f"sum without (location) (increase({VOLATILE % 'uncorrected'}[$__rate_interval])) > 0",
        "",
        "none",
        bars=True,
    ),
    error_lines(
        "ECC errors, corrected",
        "Corrected memory errors in a second, of the GPUs that had some. They cost nothing; a flood of them announces "
        "worse.",
        f"sum without (location) (rate({VOLATILE % 'corrected'}[$__rate_interval])) > 0",
        "",
        "cps",
        bars=True,
    ),
    error_lines(
        "Rows remapped and pages retired",
        "Memory taken out of use over the life of the board, of the GPUs that have some. 512 rows: replace it.",
        f"gpu_remapped_rows{{{GPU}}} > 0 or gpu_retired_pages{{{GPU}}} > 0",
        "{{severity}}{{cause}}",
        "none",
    ),
]

WEAR = [
    error_lines(
        "Few spare rows, and repairs that wait for a reset",
        "Banks of memory with few or no spare rows left (told in MIG mode too), and memory channels or processor "
        "clusters that the next reset puts out of use, of the GPUs that have some.",
        f'sum without (spare) (gpu_row_remap_banks{{{GPU}, spare=~"low|none"}}) > 0 or gpu_repair_pending{{{GPU}}} > 0',
        "{{kind}}",
        "none",
    ),
    error_lines(
        "Uncorrected SRAM errors by unit",
        "Over the life of the board, by the unit of the chip that they were in, of the GPUs that had some.",
        f"gpu_sram_uncorrected_errors_total{{{GPU}}} > 0",
        "{{unit}}",
        "none",
    ),
    series(
        "Life left of power smoothing",
        "GB200 and GB300: what is left of the life of the circuit that smooths power, of the eight that have least. "
        "XID 164 comes when it is nearly used up.",
        (f"bottomk(8, gpu_power_smoothing_lifetime_ratio{{{GPU}}})", GPU_LEGEND),
        unit="percentunit",
        steps=((None, RED), (0.1, GREEN)),
        lines=True,
        width=8,
        links=[SERIES_TO_DEVICE],
    ),
]

LINKS = [
    error_lines(
        "NVLink errors",
        "NVLink errors in a second by kind, of the GPUs that had some.",
        f"rate(gpu_nvlink_errors_total{{{GPU}}}[$__rate_interval]) > 0",
        "{{kind}}",
        "cps",
        bars=True,
    ),
    error_lines(
        "PCIe replays",
        "PCIe packets that had to be sent again, in a minute, of the GPUs that had some. Above 16 a minute (Gen 4, 16 "
        "lanes) the link is bad.",
        f"60 * rate(gpu_pcie_replays_total{{{GPU}}}[$__rate_interval]) > 0",
        "",
        "cpm",
        bars=True,
    ),
    error_lines(
        "PCIe lanes in use",
        "Lanes of the GPUs that use fewer than GPU and slot could: dust, a bad riser or slot.",
        f"gpu_pcie_link_width{{{GPU}}} < gpu_pcie_link_width_max{{{GPU}}}",
        "",
        "none",
    ),
]

_NOT_JOINED: Final = (
    f"count(gpu_fabric_state{{{GPU}}} > 0 < 3 or gpu_fabric_status{{{GPU}}} > 0) or 0 * count(gpu_up{{{GPU}}})"
)
FABRIC = [
    series(
        "GPUs that are not joined to their fabric",
        "GPUs of NVSwitch boards whose registration with the fabric manager is not complete, or was without success: "
        "CUDA fails there, or has no NVLink.",
        (_NOT_JOINED, "GPUs"),
        unit="none",
        steps=BAD_ABOVE_ZERO,
        width=8,
    ),
    error_lines(
        "What is wrong with the fabric",
        "Conditions of the NVLink fabric that are faults, of the GPUs that have some: 1 while it is so.",
        f"gpu_fabric_health{{{GPU}}} == 1",
        "{{condition}}",
        "none",
    ),
    error_lines(
        "NVLink errors by link",
        "Errors of single links since the driver counts, of the links that had some. One link that stands out is a "
        "cable, a module or a port.",
        f"gpu_nvlink_link_errors_total{{{GPU}}} > 0",
        "link {{link}} {{kind}}",
        "none",
    ),
    error_lines(
        "PCIe errors by kind",
        "Errors of the PCIe link in a minute as the GPU counts them (AER), of the GPUs that had some. fatal and "
        "non_fatal were not corrected.",
        f"60 * rate(gpu_pcie_aer_errors_total{{{GPU}}}[$__rate_interval]) > 0",
        "{{kind}}",
        "cpm",
        bars=True,
    ),
    error_lines(
        "C2C errors",
        "Errors in a minute of the links to the CPU of the module (Grace), of the GPUs that had some.",
        f"60 * rate(gpu_c2c_errors_total{{{GPU}}}[$__rate_interval]) > 0",
        "{{kind}}",
        "cpm",
        bars=True,
    ),
    series(
        "Faults of NVSwitches",
        "SXids of each machine since its boot, from the kernel log (docs/EVENTS.md). XID.md of the runbooks has them.",
        (most(f"gpu_nvswitch_sxid_errors_total{{{NODE}}}"), f"{HOST_LEGEND} {{{{pci_bus_id}}}} SXid {{{{sxid}}}}"),
        unit="none",
        width=8,
        empty="none, or no kernel log",
    ),
]

HEAT = [
    series(
        "Degrees below slowdown",
        "What is left to the temperature at which each GPU slows itself down; the eight that came closest.",
        (f"bottomk(8, {MARGIN})", GPU_LEGEND),
        unit="celsius",
        steps=MARGIN_STEPS,
        lines=True,
        width=8,
        calcs=("lastNotNull", "min"),
        links=[SERIES_TO_DEVICE],
    ),
    error_lines(
        "Held back by heat or power supply",
        "Share of time, of the GPUs that were.",
        "clamp_max(max by (cluster, instance, alias, gpu, model) (rate(gpu_clock_event_seconds_total"
        f'{{{GPU}, reason=~"hw_.+|sw_thermal_slowdown"}}[$__rate_interval])), 1) > 0',
        "",
        "percentunit",
    ),
    error_lines(
        "Failed readings",
        "Readings of GPUs that failed, in a minute and by what the driver answered.",
        f"60 * rate(gpu_read_errors_total{{{GPU}}}[$__rate_interval]) > 0",
        "{{reason}}",
        "cpm",
        bars=True,
    ),
]

SILENT = timeline(
    "GPUs that did not answer",
    "GPUs that were down within the chosen time: lost, hung, or waiting for a reset. The thirty that were longest.",
    (
        f"gpu_up{{{GPU}}} and on (cluster, instance, gpu) bottomk(30, avg_over_time(gpu_up{{{GPU}}}[$__range]) < 1)",
        GPU_LEGEND,
    ),
    values=UP,
    show="never",
    links=[SERIES_TO_DEVICE],
    empty="every GPU answered",
)
