/* ECC counters, retired pages and remapped rows. */
#include "stub.h"

enum { LOCATION_SRAM = 7, CAUSE_SBE = 0 };

/* By NVML's location, error type (0 corrected) and counter (0 volatile). */
#define BY_KIND(place)                                                                                                 \
    {                                                                                                                  \
        {V_ecc_corrected_volatile_##place, V_ecc_corrected_aggregate_##place},                                         \
        {                                                                                                              \
            V_ecc_uncorrected_volatile_##place, V_ecc_uncorrected_aggregate_##place                                    \
        }                                                                                                              \
    }
static const struct {
    unsigned location;
    enum value values[2][2];
} PLACES[] = {
    {0, BY_KIND(l1)}, {1, BY_KIND(l2)}, {2, BY_KIND(dram)}, {3, BY_KIND(register)}, {4, BY_KIND(texture)},
    {6, BY_KIND(cbu)},
};
enum { PLACE_COUNT = sizeof PLACES / sizeof *PLACES };

static nvmlReturn_t sram(const struct call *call, unsigned type, unsigned counter, unsigned long long *count)
{
    if (type == 0)
        return number_u64(call, counter ? V_sram_corrected_aggregate : V_sram_corrected_volatile, count);
    unsigned long long parity, secded;
    nvmlReturn_t status = number_u64(call, counter ? V_sram_parity_aggregate : V_sram_parity_volatile, &parity);
    if (status == NVML_SUCCESS)
        status = number_u64(call, counter ? V_sram_secded_aggregate : V_sram_secded_volatile, &secded);
    if (status == NVML_SUCCESS)
        *count = parity + secded;
    return status;
}

API nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, unsigned type, unsigned counter,
                                                 unsigned location, unsigned long long *count)
{
    CALL(nvmlDeviceGetMemoryErrorCounter, device, PHYSICAL);
    if (type > 1 || counter > 1 || location > LOCATION_SRAM)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (location == LOCATION_SRAM)
        return sram(&call, type, counter, count);
    for (unsigned i = 0; i < PLACE_COUNT; i++)
        if (PLACES[i].location == location)
            return number_u64(&call, PLACES[i].values[type][counter], count);
    return NVML_ERROR_NOT_SUPPORTED;
}

API nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, unsigned type, unsigned counter,
                                             unsigned long long *count)
{
    CALL(nvmlDeviceGetTotalEccErrors, device, PHYSICAL);
    if (type > 1 || counter > 1)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!call.gpu->values[V_ecc_enabled])
        return NVML_ERROR_NOT_SUPPORTED;
    unsigned long long in_sram = 0;
    sram(&call, type, counter, &in_sram);
    *count = in_sram;
    for (unsigned i = 0; i < PLACE_COUNT; i++)
        *count += (unsigned long long)call.gpu->values[PLACES[i].values[type][counter]];
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetDetailedEccErrors(nvmlDevice_t device, unsigned type, unsigned counter,
                                                nvmlEccErrorCounts_t *counts)
{
    CALL(nvmlDeviceGetDetailedEccErrors, device, PHYSICAL);
    if (type > 1 || counter > 1)
        return NVML_ERROR_INVALID_ARGUMENT;
    const int64_t *values = call.gpu->values;
    *counts = (nvmlEccErrorCounts_t){
        (unsigned long long)values[PLACES[0].values[type][counter]],
        (unsigned long long)values[PLACES[1].values[type][counter]],
        (unsigned long long)values[PLACES[2].values[type][counter]],
        (unsigned long long)values[PLACES[3].values[type][counter]],
    };
    return values[V_ecc_enabled] ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

API nvmlReturn_t nvmlDeviceGetSramEccErrorStatus(nvmlDevice_t device, nvmlEccSramErrorStatus_v1_t *answer)
{
    CALL(nvmlDeviceGetSramEccErrorStatus, device, PHYSICAL);
    if (answer->version != 0x1000068)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    const struct {
        enum value value;
        unsigned long long *place;
    } parts[] = {
        {V_sram_parity_aggregate, &answer->aggregate_parity}, {V_sram_secded_aggregate, &answer->aggregate_secded},
        {V_sram_corrected_aggregate, &answer->aggregate_corrected},
        {V_sram_parity_volatile, &answer->volatile_parity},   {V_sram_secded_volatile, &answer->volatile_secded},
        {V_sram_corrected_volatile, &answer->volatile_corrected},
        {V_sram_bucket_l2, &answer->bucket_l2},               {V_sram_bucket_sm, &answer->bucket_sm},
        {V_sram_bucket_pcie, &answer->bucket_pcie},           {V_sram_bucket_mcu, &answer->bucket_mcu},
        {V_sram_bucket_other, &answer->bucket_other},
    };
    for (unsigned i = 0; i < sizeof parts / sizeof *parts; i++)
        *parts[i].place = (unsigned long long)call.gpu->values[parts[i].value];
    return number_u32(&call, V_sram_threshold_exceeded, &answer->threshold_exceeded);
}

/* The addresses are made up; only their number means anything. */
static nvmlReturn_t pages(const struct call *call, unsigned cause, unsigned *count, unsigned long long *addresses,
                          unsigned long long *times)
{
    unsigned found, room = addresses == NULL ? 0 : *count;
    nvmlReturn_t status = number_u32(call, cause == CAUSE_SBE ? V_retired_sbe : V_retired_dbe, &found);
    if (status != NVML_SUCCESS)
        return status;
    *count = found;
    if (room < found)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < found; i++) {
        addresses[i] = 0x10000ull * (i + 1);
        if (times != NULL)
            times[i] = 0;
    }
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetRetiredPages(nvmlDevice_t device, unsigned cause, unsigned *count,
                                           unsigned long long *addresses)
{
    CALL(nvmlDeviceGetRetiredPages, device, PHYSICAL);
    return pages(&call, cause, count, addresses, NULL);
}

/* pynvml's first call leaves out the last argument: with no room for addresses, `times` is not to be read. */
API nvmlReturn_t nvmlDeviceGetRetiredPages_v2(nvmlDevice_t device, unsigned cause, unsigned *count,
                                              unsigned long long *addresses, unsigned long long *times)
{
    CALL(nvmlDeviceGetRetiredPages_v2, device, PHYSICAL);
    return pages(&call, cause, count, addresses, addresses == NULL ? NULL : times);
}

API nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned *corrected, unsigned *uncorrected,
                                           unsigned *pending, unsigned *failure)
{
    CALL(nvmlDeviceGetRemappedRows, device, PHYSICAL);
    const int64_t *values = call.gpu->values;
    *uncorrected = (unsigned)values[V_remapped_uncorrected];
    *pending = (unsigned)values[V_remap_pending];
    *failure = (unsigned)values[V_remap_failure];
    return number_u32(&call, V_remapped_corrected, corrected);
}

API nvmlReturn_t nvmlDeviceGetRowRemapperHistogram(nvmlDevice_t device, nvmlRowRemapperHistogramValues_t *values)
{
    CALL(nvmlDeviceGetRowRemapperHistogram, device, PHYSICAL);
    const struct number_list *banks = &call.gpu->lists[L_remap_banks];
    if (!banks->present || banks->count != 5)
        return NVML_ERROR_NOT_SUPPORTED;
    *values = (nvmlRowRemapperHistogramValues_t){
        (unsigned)banks->numbers[0], (unsigned)banks->numbers[1], (unsigned)banks->numbers[2],
        (unsigned)banks->numbers[3], (unsigned)banks->numbers[4],
    };
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetRepairStatus(nvmlDevice_t device, nvmlRepairStatus_v1_t *status)
{
    CALL(nvmlDeviceGetRepairStatus, device, PHYSICAL);
    if (status->version != 0x100000C)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlReturn_t code = number_u32(&call, V_repair_tpc, &status->tpc_pending);
    return code == NVML_SUCCESS ? number_u32(&call, V_repair_channel, &status->channel_pending) : code;
}
