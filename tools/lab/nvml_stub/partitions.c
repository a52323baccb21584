/* MIG devices, and the profiling metrics (GPM). */
#include <stdlib.h>

#include "stub.h"

#define GPM_PCIE_TX 20u
#define GPM_PCIE_RX 21u

struct gpm_sample {
    nvmlDevice_t device; /* NULL: nothing sampled yet */
    uint64_t time, real_time; /* µs of the machine's clock, and of one that never stands still */
    uint64_t pcie_tx, pcie_rx;
    unsigned mig; /* its place, MAX_MIG for the whole GPU */
};

static nvmlReturn_t take_sample(const struct call *call, nvmlDevice_t device, unsigned mig, nvmlGpmSample_t sample)
{
    if (call->gpu->gpm_count == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *sample = (struct gpm_sample){device, now_us(call->state), monotonic_us(),
                                  (uint64_t)call->gpu->values[V_pcie_tx_bytes],
                                  (uint64_t)call->gpu->values[V_pcie_rx_bytes], mig};
    return NVML_SUCCESS;
}

/* A mean over the time between two samples. */
static double mib_per_second(uint64_t before, uint64_t after, const nvmlGpmMetricsGet_t *request)
{
    uint64_t us = request->second->time - request->first->time;
    if (us == 0)
        us = request->second->real_time - request->first->real_time;
    return us == 0 ? 0.0 : (double)(after - before) / (1 << 20) / ((double)us / 1e6);
}

/* How much of the time between two samples the GPU was busy, by the history of its utilization. */
static double busy_share(const struct gpu *gpu, const nvmlGpmMetricsGet_t *request)
{
    const struct timeline *line = &gpu->history[GPU_SAMPLES];
    uint64_t from = request->first->time, to = request->second->time;
    double sum = 0.0;
    if (!line->present || line->count == 0)
        return 1.0;
    if (to <= from)
        return (double)line->entries[line->count - 1].value / 100;
    for (unsigned i = 0; i < line->count; i++) {
        uint64_t begin = i == 0 || line->entries[i].time < from ? from : line->entries[i].time;
        uint64_t end = i + 1 == line->count || line->entries[i + 1].time > to ? to : line->entries[i + 1].time;
        if (end > begin)
            sum += (double)line->entries[i].value / 100 * (double)(end - begin);
    }
    return sum / (double)(to - from);
}

API nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned index, nvmlDevice_t *answer)
{
    CALL(nvmlDeviceGetMigDeviceHandleByIndex, device, PHYSICAL);
    if (!call.gpu->values[V_mig_mode])
        return NVML_ERROR_NOT_SUPPORTED;
    if (index >= MAX_MIG || !call.gpu->mig[index].present)
        return NVML_ERROR_NOT_FOUND;
    *answer = mig_handle(call.index, index);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned *is_mig)
{
    CALL(nvmlDeviceIsMigDeviceHandle, device, ANY_DEVICE);
    *is_mig = call.mig != NULL;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t device, nvmlDevice_t *parent)
{
    CALL(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, device, ANY_DEVICE);
    *parent = gpu_handle(call.index);
    return call.mig == NULL ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS;
}

#define OF_INSTANCE(name, member)                                                                                      \
    API nvmlReturn_t name(nvmlDevice_t device, unsigned *id)                                                           \
    {                                                                                                                  \
        CALL(name, device, ANY_DEVICE);                                                                                \
        if (call.mig == NULL)                                                                                          \
            return NVML_ERROR_INVALID_ARGUMENT;                                                                        \
        *id = call.mig->member;                                                                                        \
        return NVML_SUCCESS;                                                                                           \
    }

OF_INSTANCE(nvmlDeviceGetGpuInstanceId, gpu_instance)
OF_INSTANCE(nvmlDeviceGetComputeInstanceId, compute_instance)

API nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
    CALL(nvmlDeviceGetAttributes_v2, device, ANY_DEVICE);
    if (call.mig == NULL)
        return NVML_ERROR_NOT_SUPPORTED;
    *attributes = (nvmlDeviceAttributes_t){
        .gpu_slices = 1, .compute_slices = 1, .memory_mib = call.mig->memory_total >> 20};
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t *support)
{
    CALL(nvmlGpmQueryDeviceSupport, device, ANY_DEVICE);
    support->supported = call.gpu->gpm_count > 0;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *sample)
{
    CALL(nvmlGpmSampleAlloc, NULL, NO_DEVICE);
    *sample = calloc(1, sizeof **sample);
    return *sample == NULL ? NVML_ERROR_MEMORY : NVML_SUCCESS;
}

API nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t sample)
{
    CALL(nvmlGpmSampleFree, NULL, NO_DEVICE);
    free(sample);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t device, nvmlGpmSample_t sample)
{
    CALL(nvmlGpmSampleGet, device, ANY_DEVICE);
    return take_sample(&call, device, MAX_MIG, sample);
}

API nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t device, unsigned gpu_instance, nvmlGpmSample_t sample)
{
    CALL(nvmlGpmMigSampleGet, device, PHYSICAL);
    for (unsigned i = 0; i < MAX_MIG; i++)
        if (call.gpu->mig[i].present && call.gpu->mig[i].gpu_instance == gpu_instance)
            return take_sample(&call, device, i, sample);
    return NVML_ERROR_NOT_FOUND;
}

API nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *request)
{
    nvmlDevice_t device = request->second == NULL ? NULL : request->second->device;
    CALL(nvmlGpmMetricsGet, device, ANY_DEVICE);
    if (request->version != 1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (request->first == NULL || request->first->device != device || request->first->mig != request->second->mig)
        return NVML_ERROR_INVALID_ARGUMENT;
    const struct mig *mig = request->second->mig < MAX_MIG ? &call.gpu->mig[request->second->mig] : NULL;
    const struct gpm_value *told = mig && mig->gpm_count ? mig->gpm : call.gpu->gpm;
    unsigned count = mig && mig->gpm_count ? mig->gpm_count : call.gpu->gpm_count;
    for (unsigned i = 0; i < request->count; i++) {
        nvmlGpmMetric_t *metric = &request->metrics[i];
        metric->status = NVML_ERROR_NOT_SUPPORTED;
        if (metric->metric == GPM_PCIE_TX && call.gpu->has[V_pcie_tx_bytes]) {
            metric->value = mib_per_second(request->first->pcie_tx, request->second->pcie_tx, request);
            metric->status = NVML_SUCCESS;
        } else if (metric->metric == GPM_PCIE_RX && call.gpu->has[V_pcie_rx_bytes]) {
            metric->value = mib_per_second(request->first->pcie_rx, request->second->pcie_rx, request);
            metric->status = NVML_SUCCESS;
        }
        for (unsigned j = 0; j < count; j++)
            if (told[j].metric == metric->metric) {
                metric->value = told[j].value * (told[j].of_busy ? busy_share(call.gpu, request) : 1.0);
                metric->status = NVML_SUCCESS;
            }
    }
    return NVML_SUCCESS;
}
