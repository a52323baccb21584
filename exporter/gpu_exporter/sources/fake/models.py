"""The boards that can be simulated, as data.

Memory, power, clock and PCIe numbers of h100 and l40s, and how GeForce boards idle, are what nvidia-smi prints on
such machines (drivers 590 and 595). For the others memory size, power limit, boost clocks and NVLink bandwidth are
those of NVIDIA's data sheets and architecture white papers; idle power, reserved memory and BAR1 are typical values.
The highest operating temperature of h100 and l40s is nvidia-smi's temperature plus its T.Limit margin; the slowdown
and shutdown offsets, and the limits of the other boards, are typical of ``nvidia-smi -q``. Thermal resistance and
time constants are fitted so that full load ends near the temperatures that such machines show.

v100 and b200 are here for the rows that only boards before Ampere (retired pages, ECC by cache) and after Hopper
(NVLink symbol errors) have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

from gpu_exporter.catalog.row import MIB

_PCIE_LANE_BYTES: Final = {3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}
_HGX_HOPPER: Final = ("19", "3B", "4C", "5D", "9B", "BB", "CB", "DB")
_HGX_AMPERE: Final = ("07", "0F", "47", "4E", "87", "90", "B7", "BD")
_PCIE_SERVER: Final = ("01", "25", "41", "61", "81", "A1", "C1", "E1")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuModel:
    """One board. Memory in MiB, power in W, clocks in MHz, temperatures in °C, bandwidth in bytes/s one way.

    ``thermal_resistance`` is K/W from the core to the inlet air at full air flow; ``time_constant`` is in seconds.
    ``idle_state`` and ``busy_state`` are performance states; GeForce runs CUDA in P2, data-centre boards idle in P0.
    ``fan_rpm`` is the highest speed of its fans, in revolutions a minute.
    ``gpm`` tells profiling counters, with PCIe bytes among them (from Hopper on).
    ``mig_sizes`` are the GB in the names of MIG devices of one, two, three and seven slices.
    Empty tuples, zeros and None are what the board does not have. A board that is not ``offered`` is there for tests.
    """

    name: str
    product: str
    architecture: str
    brand: str
    vbios: str
    buses: tuple[str, ...]
    offered: bool = True
    serial: bool = True
    memory: int
    reserved: int
    bar1: int
    power: float
    power_min: float
    power_max: float
    power_idle: float
    sm: int
    sm_idle: int
    memory_clock: int
    memory_clock_idle: int
    video: int
    video_idle: int
    max_operating: float
    slowdown: float
    shutdown: float
    memory_max: float | None = None
    thermal_resistance: float
    time_constant: float = 35.0
    fans: int = 0
    fan_rpm: float = 0.0
    idle_state: int = 0
    busy_state: int = 0
    pcie: int
    pcie_idle: int
    gpm: bool = True
    nvlinks: int = 0
    nvlink_bandwidth: float = 0.0
    nvlink_errors: tuple[str, ...] = ()
    fabric: bool = False
    ecc: tuple[str, ...] = ()
    spares: Literal["rows", "pages"] | None = None
    mig_sizes: tuple[int, ...] = ()
    engines: tuple[str, ...] = ("encoder", "decoder", "jpeg", "ofa")

    @property
    def mig(self) -> bool:
        """Whether it can be partitioned."""
        return bool(self.mig_sizes)

    @property
    def total_bytes(self) -> int:
        """Fitted memory."""
        return round(self.memory * MIB)

    @property
    def usable_bytes(self) -> int:
        """Memory that processes can have."""
        return round((self.memory - self.reserved) * MIB)

    @property
    def pcie_bandwidth(self) -> float:
        """Bytes/s one way over the full link; 85 % of the raw rate, which is what copies reach."""
        return _PCIE_LANE_BYTES[self.pcie] * 16 * 0.85

    @property
    def ecc_enabled(self) -> float | None:
        """ECC cannot be switched off here; a board without it has no such mode."""
        return 1.0 if self.ecc else None


_H100: Final = GpuModel(
    name="h100",
    product="NVIDIA H100 80GB HBM3",
    architecture="Hopper",
    brand="NVIDIA",
    vbios="96.00.A5.00.01",
    buses=_HGX_HOPPER,
    memory=81559,
    reserved=479,
    bar1=131072,
    power=700.0,
    power_min=200.0,
    power_max=700.0,
    power_idle=70.0,
    sm=1980,
    sm_idle=345,
    memory_clock=2619,
    memory_clock_idle=2619,
    video=1545,
    video_idle=765,
    max_operating=87.0,
    slowdown=89.0,
    shutdown=95.0,
    memory_max=95.0,
    thermal_resistance=0.048,
    pcie=5,
    pcie_idle=5,
    nvlinks=18,
    nvlink_bandwidth=450e9,
    nvlink_errors=("crc_flit", "replay", "recovery"),
    fabric=True,
    ecc=("dram", "sram"),
    spares="rows",
    mig_sizes=(10, 20, 40, 80),
)
_ALL: Final = (
    _H100,
    replace(
        _H100,
        name="h200",
        product="NVIDIA H200",
        vbios="96.00.AE.00.01",
        memory=143771,
        reserved=610,
        bar1=262144,
        power_idle=76.0,
        memory_clock=3201,
        memory_clock_idle=3201,
        thermal_resistance=0.049,
        mig_sizes=(18, 35, 71, 141),
    ),
    GpuModel(
        name="a100",
        product="NVIDIA A100-SXM4-80GB",
        architecture="Ampere",
        brand="NVIDIA",
        vbios="92.00.45.00.03",
        buses=_HGX_AMPERE,
        memory=81920,
        reserved=845,
        bar1=131072,
        power=400.0,
        power_min=100.0,
        power_max=400.0,
        power_idle=58.0,
        sm=1410,
        sm_idle=210,
        memory_clock=1593,
        memory_clock_idle=1593,
        video=1290,
        video_idle=585,
        max_operating=85.0,
        slowdown=89.0,
        shutdown=92.0,
        memory_max=95.0,
        thermal_resistance=0.082,
        pcie=4,
        pcie_idle=4,
        gpm=False,
        nvlinks=12,
        nvlink_bandwidth=300e9,
        nvlink_errors=("crc_flit", "crc_data", "replay", "recovery"),
        ecc=("dram", "sram"),
        spares="rows",
        mig_sizes=(10, 20, 40, 80),
    ),
    GpuModel(
        name="l40s",
        product="NVIDIA L40S",
        architecture="Ada Lovelace",
        brand="NVIDIA",
        vbios="95.02.66.00.02",
        buses=_PCIE_SERVER,
        memory=46068,
        reserved=609,
        bar1=65536,
        power=350.0,
        power_min=100.0,
        power_max=350.0,
        power_idle=34.0,
        sm=2520,
        sm_idle=210,
        memory_clock=9001,
        memory_clock_idle=405,
        video=1965,
        video_idle=1185,
        max_operating=88.0,
        slowdown=90.0,
        shutdown=93.0,
        thermal_resistance=0.115,
        time_constant=45.0,
        idle_state=8,
        pcie=4,
        pcie_idle=1,
        gpm=False,
        ecc=("dram", "sram"),
        spares="rows",
    ),
    GpuModel(
        name="rtx4090",
        product="NVIDIA GeForce RTX 4090",
        architecture="Ada Lovelace",
        brand="GeForce",
        vbios="95.02.3C.00.8C",
        buses=_PCIE_SERVER,
        serial=False,
        memory=24564,
        reserved=382,
        bar1=32768,
        power=450.0,
        power_min=150.0,
        power_max=600.0,
        power_idle=18.0,
        sm=3105,
        sm_idle=210,
        memory_clock=10501,
        memory_clock_idle=405,
        video=2415,
        video_idle=1185,
        max_operating=90.0,
        slowdown=92.0,
        shutdown=97.0,
        thermal_resistance=0.066,
        time_constant=30.0,
        fans=2,
        fan_rpm=3000.0,  # as reviews of the Founders Edition measured it, in round numbers
        idle_state=8,
        busy_state=2,
        pcie=4,
        pcie_idle=1,
        gpm=False,
    ),
    GpuModel(
        name="v100",
        offered=False,
        product="Tesla V100-SXM2-32GB",
        architecture="Volta",
        brand="Tesla",
        vbios="88.00.43.00.03",
        buses=_HGX_AMPERE,
        memory=32768,
        reserved=271,
        bar1=32768,
        power=300.0,
        power_min=150.0,
        power_max=300.0,
        power_idle=42.0,
        sm=1530,
        sm_idle=135,
        memory_clock=877,
        memory_clock_idle=877,
        video=1372,
        video_idle=555,
        max_operating=83.0,
        slowdown=87.0,
        shutdown=90.0,
        memory_max=85.0,
        thermal_resistance=0.105,
        pcie=3,
        pcie_idle=3,
        gpm=False,
        nvlinks=6,
        nvlink_bandwidth=150e9,
        nvlink_errors=("crc_flit", "crc_data", "replay", "recovery"),
        ecc=("dram", "l1_cache", "l2_cache", "register_file", "texture_memory"),
        spares="pages",
        engines=("encoder", "decoder"),
    ),
    GpuModel(
        name="b200",
        offered=False,
        product="NVIDIA B200",
        architecture="Blackwell",
        brand="NVIDIA",
        vbios="97.00.82.00.1D",
        buses=_HGX_HOPPER,
        memory=183359,
        reserved=724,
        bar1=262144,
        power=1000.0,
        power_min=200.0,
        power_max=1000.0,
        power_idle=140.0,
        sm=1965,
        sm_idle=120,
        memory_clock=3996,
        memory_clock_idle=3996,
        video=1545,
        video_idle=765,
        max_operating=87.0,
        slowdown=89.0,
        shutdown=95.0,
        memory_max=95.0,
        thermal_resistance=0.036,
        pcie=5,
        pcie_idle=5,
        nvlinks=18,
        nvlink_bandwidth=900e9,
        nvlink_errors=(
            *("malformed", "buffer_overrun", "receive", "integrity", "discard"),
            *("effective", "recovery_successful", "recovery_failed", "recovery", "symbol"),
        ),
        fabric=True,
        ecc=("dram", "sram"),
        spares="rows",
        mig_sizes=(23, 45, 90, 180),
    ),
)
MODELS: Final[Mapping[str, GpuModel]] = MappingProxyType({model.name: model for model in _ALL})
