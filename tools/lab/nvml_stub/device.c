/* The calls that answer one value, or a few, of a GPU. */
#include <stdio.h>
#include <string.h>

#include "stub.h"

/* One number out. */
#define U32(name, value)                                                                                               \
    API nvmlReturn_t name(nvmlDevice_t device, unsigned *answer)                                                       \
    {                                                                                                                  \
        CALL(name, device, PHYSICAL);                                                                                  \
        return number_u32(&call, V_##value, answer);                                                                   \
    }

#define U64(name, value)                                                                                               \
    API nvmlReturn_t name(nvmlDevice_t device, unsigned long long *answer)                                             \
    {                                                                                                                  \
        CALL(name, device, PHYSICAL);                                                                                  \
        return number_u64(&call, V_##value, answer);                                                                   \
    }

/* Two numbers out, or none. */
#define PAIR(name, first, second)                                                                                      \
    API nvmlReturn_t name(nvmlDevice_t device, unsigned *one, unsigned *two)                                           \
    {                                                                                                                  \
        CALL(name, device, PHYSICAL);                                                                                  \
        nvmlReturn_t status = number_u32(&call, V_##first, one);                                                       \
        return status == NVML_SUCCESS ? number_u32(&call, V_##second, two) : status;                                   \
    }

#define TEXT_OF(name, string)                                                                                          \
    API nvmlReturn_t name(nvmlDevice_t device, char *buffer, unsigned size)                                            \
    {                                                                                                                  \
        CALL(name, device, PHYSICAL);                                                                                  \
        return text(call.gpu->strings[S_##string], buffer, size);                                                      \
    }

U32(nvmlDeviceGetBrand, brand)
U32(nvmlDeviceGetArchitecture, architecture)
U32(nvmlDeviceGetNumGpuCores, cores)
U32(nvmlDeviceGetMinorNumber, minor_number)
U32(nvmlDeviceGetPersistenceMode, persistence_mode)
U32(nvmlDeviceGetComputeMode, compute_mode)
U32(nvmlDeviceGetDisplayMode, display_mode)
U32(nvmlDeviceGetDisplayActive, display_active)
U32(nvmlDeviceGetMaxMigDeviceCount, max_mig_devices)
U32(nvmlDeviceGetPerformanceState, performance_state)
U32(nvmlDeviceGetPowerState, performance_state)
U32(nvmlDeviceGetPowerUsage, power_usage)
U32(nvmlDeviceGetPowerManagementLimit, power_limit)
U32(nvmlDeviceGetPowerManagementDefaultLimit, power_default_limit)
U32(nvmlDeviceGetEnforcedPowerLimit, power_enforced_limit)
U32(nvmlDeviceGetPcieReplayCounter, pcie_replays)
U32(nvmlDeviceGetCurrPcieLinkGeneration, pcie_generation)
U32(nvmlDeviceGetMaxPcieLinkGeneration, pcie_generation_max)
U32(nvmlDeviceGetCurrPcieLinkWidth, pcie_width)
U32(nvmlDeviceGetMaxPcieLinkWidth, pcie_width_max)
U32(nvmlDeviceGetRetiredPagesPendingStatus, retired_pending)
U64(nvmlDeviceGetTotalEnergyConsumption, energy)
U64(nvmlDeviceGetCurrentClocksEventReasons, event_reasons)
U64(nvmlDeviceGetCurrentClocksThrottleReasons, event_reasons)
U64(nvmlDeviceGetSupportedClocksEventReasons, supported_event_reasons)
U64(nvmlDeviceGetSupportedClocksThrottleReasons, supported_event_reasons)
U64(nvmlDeviceGetSupportedEventTypes, supported_events)
PAIR(nvmlDeviceGetCudaComputeCapability, compute_major, compute_minor)
PAIR(nvmlDeviceGetPowerManagementLimitConstraints, power_min_limit, power_max_limit)
PAIR(nvmlDeviceGetEccMode, ecc_enabled, ecc_pending)
PAIR(nvmlDeviceGetMigMode, mig_mode, mig_mode)
TEXT_OF(nvmlDeviceGetSerial, serial)
TEXT_OF(nvmlDeviceGetVbiosVersion, vbios_version)

API nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *buffer, unsigned size)
{
    CALL(nvmlDeviceGetName, device, ANY_DEVICE);
    return text(call.mig ? call.mig->name : call.gpu->strings[S_name], buffer, size);
}

API nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *buffer, unsigned size)
{
    CALL(nvmlDeviceGetUUID, device, ANY_DEVICE);
    return text(call.mig ? call.mig->uuid : call.gpu->strings[S_uuid], buffer, size);
}

API nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned *index)
{
    CALL(nvmlDeviceGetIndex, device, PHYSICAL);
    *index = call.index;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *info)
{
    CALL(nvmlDeviceGetPciInfo_v3, device, PHYSICAL);
    const int64_t *values = call.gpu->values;
    *info = (nvmlPciInfo_t){
        .domain = (unsigned)values[V_pci_domain],
        .bus = (unsigned)values[V_pci_bus],
        .device = (unsigned)values[V_pci_device],
        .pci_device_id = (unsigned)values[V_pci_device_id],
        .pci_subsystem_id = (unsigned)values[V_pci_subsystem_id],
    };
    snprintf(info->bus_id, sizeof info->bus_id, "%08X:%02X:%02X.0", info->domain, info->bus, info->device);
    snprintf(info->bus_id_legacy, sizeof info->bus_id_legacy, "%04X:%02X:%02X.0", info->domain & 0xFFFF,
             info->bus & 0xFF, info->device & 0xFF);
    if (*call.gpu->strings[S_pci_bus_id] != '\0')
        snprintf(info->bus_id, sizeof info->bus_id, "%.31s", call.gpu->strings[S_pci_bus_id]);
    return NVML_SUCCESS;
}

/* NVML has no answer for the engines of a partitioned GPU. */
static nvmlReturn_t engine(const struct call *call, enum value value, unsigned *answer)
{
    return call->gpu->values[V_mig_mode] ? NVML_ERROR_NOT_SUPPORTED : number_u32(call, value, answer);
}

#define ENGINE(name, value)                                                                                            \
    API nvmlReturn_t name(nvmlDevice_t device, unsigned *utilization, unsigned *period_us)                             \
    {                                                                                                                  \
        CALL(name, device, PHYSICAL);                                                                                  \
        *period_us = 167000;                                                                                           \
        return engine(&call, V_##value, utilization);                                                                  \
    }

ENGINE(nvmlDeviceGetEncoderUtilization, encoder_utilization)
ENGINE(nvmlDeviceGetDecoderUtilization, decoder_utilization)
ENGINE(nvmlDeviceGetJpgUtilization, jpeg_utilization)
ENGINE(nvmlDeviceGetOfaUtilization, ofa_utilization)

API nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization)
{
    CALL(nvmlDeviceGetUtilizationRates, device, PHYSICAL);
    nvmlReturn_t status = engine(&call, V_utilization, &utilization->gpu);
    return status == NVML_SUCCESS ? engine(&call, V_memory_utilization, &utilization->memory) : status;
}

static bool memory_of(const struct call *call, nvmlMemory_v2_t *memory)
{
    const int64_t *values = call->gpu->values;
    if (call->mig != NULL) {
        memory->total = call->mig->memory_total;
        memory->used = call->mig->memory_used;
        memory->reserved = 0;
    } else {
        memory->total = (unsigned long long)values[V_memory_total];
        memory->used = (unsigned long long)values[V_memory_used];
        memory->reserved = (unsigned long long)values[V_memory_reserved];
    }
    memory->free = memory->total - memory->reserved - memory->used;
    return call->mig != NULL || call->gpu->has[V_memory_total];
}

API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    CALL(nvmlDeviceGetMemoryInfo_v2, device, ANY_DEVICE);
    if (memory->version != 0x02000028)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    return memory_of(&call, memory) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

/* Version 1 has no place for what the driver reserves and counts it as used. */
API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    CALL(nvmlDeviceGetMemoryInfo, device, ANY_DEVICE);
    nvmlMemory_v2_t all = {0};
    if (!memory_of(&call, &all))
        return NVML_ERROR_NOT_SUPPORTED;
    *memory = (nvmlMemory_t){all.total, all.free, all.used + all.reserved};
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *memory)
{
    CALL(nvmlDeviceGetBAR1MemoryInfo, device, PHYSICAL);
    nvmlReturn_t status = number_u64(&call, V_bar1_total, &memory->total);
    if (status == NVML_SUCCESS)
        status = number_u64(&call, V_bar1_used, &memory->used);
    memory->free = memory->total - memory->used;
    return status;
}

API nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned sensor, unsigned *temperature)
{
    CALL(nvmlDeviceGetTemperature, device, PHYSICAL);
    return sensor == 0 ? number_u32(&call, V_temperature, temperature) : NVML_ERROR_INVALID_ARGUMENT;
}

API nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_v1_t *temperature)
{
    CALL(nvmlDeviceGetTemperatureV, device, PHYSICAL);
    if (temperature->version != 0x100000C)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (temperature->sensor != 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    return number_u32(&call, V_temperature, (unsigned *)&temperature->temperature);
}

API nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, unsigned threshold, unsigned *temperature)
{
    static const enum value LIMITS[] = {V_limit_shutdown, V_limit_slowdown, V_limit_memory_max, V_limit_max_operating};
    CALL(nvmlDeviceGetTemperatureThreshold, device, PHYSICAL);
    if (threshold >= sizeof LIMITS / sizeof *LIMITS)
        return NVML_ERROR_NOT_SUPPORTED;
    return number_u32(&call, LIMITS[threshold], temperature);
}

API nvmlReturn_t nvmlDeviceGetMarginTemperature(nvmlDevice_t device, nvmlMarginTemperature_v1_t *margin)
{
    CALL(nvmlDeviceGetMarginTemperature, device, PHYSICAL);
    if (margin->version != 0x1000008)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    return number_u32(&call, V_temperature_margin, (unsigned *)&margin->margin);
}

#define CLOCKS(name, prefix)                                                                                           \
    API nvmlReturn_t name(nvmlDevice_t device, unsigned clock, unsigned *mhz)                                          \
    {                                                                                                                  \
        static const enum value CLOCK[] = {V_##prefix##_graphics, V_##prefix##_sm, V_##prefix##_memory,                \
                                           V_##prefix##_video};                                                        \
        CALL(name, device, PHYSICAL);                                                                                  \
        return clock < 4 ? number_u32(&call, CLOCK[clock], mhz) : NVML_ERROR_INVALID_ARGUMENT;                         \
    }

CLOCKS(nvmlDeviceGetClockInfo, clock)
CLOCKS(nvmlDeviceGetMaxClockInfo, clock_max)

API nvmlReturn_t nvmlDeviceGetNumFans(nvmlDevice_t device, unsigned *count)
{
    CALL(nvmlDeviceGetNumFans, device, PHYSICAL);
    *count = call.gpu->lists[L_fan_speeds].count;
    if (number_u32(&call, V_fan_count, count) == NVML_SUCCESS)
        return NVML_SUCCESS;
    return call.gpu->lists[L_fan_speeds].present ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

static nvmlReturn_t fan_speed(const struct call *call, unsigned fan, unsigned *speed)
{
    const struct number_list *fans = &call->gpu->lists[L_fan_speeds];
    if (!fans->present || fans->count == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    if (fan >= fans->count)
        return NVML_ERROR_INVALID_ARGUMENT;
    *speed = (unsigned)fans->numbers[fan];
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetFanSpeed(nvmlDevice_t device, unsigned *speed)
{
    CALL(nvmlDeviceGetFanSpeed, device, PHYSICAL);
    return fan_speed(&call, 0, speed);
}

API nvmlReturn_t nvmlDeviceGetFanSpeed_v2(nvmlDevice_t device, unsigned fan, unsigned *speed)
{
    CALL(nvmlDeviceGetFanSpeed_v2, device, PHYSICAL);
    return fan_speed(&call, fan, speed);
}

API nvmlReturn_t nvmlDeviceGetFanSpeedRPM(nvmlDevice_t device, nvmlFanSpeedInfo_v1_t *answer)
{
    CALL(nvmlDeviceGetFanSpeedRPM, device, PHYSICAL);
    const struct number_list *fans = &call.gpu->lists[L_fan_rpms];
    if (answer->version != 0x100000C)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (!fans->present || fans->count == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    if (answer->fan >= fans->count)
        return NVML_ERROR_INVALID_ARGUMENT;
    answer->speed = (unsigned)fans->numbers[answer->fan];
    return NVML_SUCCESS;
}

/* The real call measures for 20 ms. */
API nvmlReturn_t nvmlDeviceGetPcieThroughput(nvmlDevice_t device, unsigned counter, unsigned *kib_per_second)
{
    CALL(nvmlDeviceGetPcieThroughput, device, PHYSICAL);
    nvmlReturn_t status =
        number_u32(&call, counter == 0 ? V_pcie_throughput_tx : V_pcie_throughput_rx, kib_per_second);
    if (status == NVML_SUCCESS)
        sleep_us((uint64_t)call.gpu->values[V_pcie_throughput_ms] * 1000);
    return status;
}

API nvmlReturn_t nvmlDeviceGetViolationStatus(nvmlDevice_t device, unsigned policy, nvmlViolationTime_t *time)
{
    CALL(nvmlDeviceGetViolationStatus, device, PHYSICAL);
    if (policy > V_reason_ns_reliability - V_reason_ns_power)
        return NVML_ERROR_NOT_SUPPORTED;
    time->reference = now_us(call.state);
    return number_u64(&call, (enum value)(V_reason_ns_power + policy), &time->violation);
}

/* The driver model is a Windows matter. */
API nvmlReturn_t nvmlDeviceGetDriverModel(nvmlDevice_t device, unsigned *current, unsigned *pending)
{
    CALL(nvmlDeviceGetDriverModel, device, PHYSICAL);
    *current = *pending = 0;
    return NVML_ERROR_NOT_SUPPORTED;
}

API nvmlReturn_t nvmlDeviceGetDriverModel_v2(nvmlDevice_t device, unsigned *current, unsigned *pending)
{
    CALL(nvmlDeviceGetDriverModel_v2, device, PHYSICAL);
    *current = *pending = 0;
    return NVML_ERROR_NOT_SUPPORTED;
}

static nvmlReturn_t fabric(const struct call *call, nvmlGpuFabricInfo_v2_t *info)
{
    int64_t state;
    nvmlReturn_t status = number(call, V_fabric_state, &state);
    if (status != NVML_SUCCESS)
        return status;
    info->state = (unsigned char)state;
    info->status = (nvmlReturn_t)call->gpu->values[V_fabric_status];
    info->health = (uint32_t)call->gpu->values[V_fabric_health];
    info->clique = (uint32_t)call->gpu->values[V_fabric_clique];
    memset(info->cluster, 0, sizeof info->cluster);
    memcpy(info->cluster, &call->gpu->values[V_fabric_cluster], sizeof call->gpu->values[V_fabric_cluster]);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t device, nvmlGpuFabricInfo_v2_t *info)
{
    CALL(nvmlDeviceGetGpuFabricInfoV, device, PHYSICAL);
    return info->version == 0x2000024 ? fabric(&call, info) : NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
}

API nvmlReturn_t nvmlDeviceGetGpuFabricInfo(nvmlDevice_t device, nvmlGpuFabricInfo_t *info)
{
    CALL(nvmlDeviceGetGpuFabricInfo, device, PHYSICAL);
    nvmlGpuFabricInfo_v2_t newer = {0};
    nvmlReturn_t status = fabric(&call, &newer);
    info->state = newer.state;
    info->status = newer.status;
    return status;
}

API nvmlReturn_t nvmlDeviceGetPlatformInfo(nvmlDevice_t device, nvmlPlatformInfo_v2_t *info)
{
    CALL(nvmlDeviceGetPlatformInfo, device, PHYSICAL);
    if (info->version != 0x200002c)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (!call.gpu->has[V_platform_module])
        return NVML_ERROR_NOT_SUPPORTED;
    const int64_t *values = call.gpu->values;
    const char *serial = call.gpu->strings[S_chassis_serial];
    for (size_t i = 0; i < sizeof info->chassis_serial && serial[i] != '\0'; i++)
        info->chassis_serial[i] = (unsigned char)serial[i];
    info->slot = (unsigned char)values[V_platform_slot];
    info->tray = (unsigned char)values[V_platform_tray];
    info->host = (unsigned char)values[V_platform_host];
    info->module = (unsigned char)values[V_platform_module];
    return NVML_SUCCESS;
}
