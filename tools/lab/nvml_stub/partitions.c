/* MIG devices, and the profiling metrics (GPM). */
#include <stdlib.h>

#include "stub.h"

struct gpm_sample {
    nvmlDevice_t device; /* NULL: nothing sampled yet */
};

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
    sample->device = device;
    return call.gpu->gpm_count > 0 ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

API nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t device, unsigned gpu_instance, nvmlGpmSample_t sample)
{
    CALL(nvmlGpmMigSampleGet, device, PHYSICAL);
    sample->device = device;
    for (unsigned i = 0; i < MAX_MIG; i++)
        if (call.gpu->mig[i].present && call.gpu->mig[i].gpu_instance == gpu_instance)
            return call.gpu->gpm_count > 0 ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
    return NVML_ERROR_NOT_FOUND;
}

API nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *request)
{
    nvmlDevice_t device = request->second == NULL ? NULL : request->second->device;
    CALL(nvmlGpmMetricsGet, device, ANY_DEVICE);
    if (request->version != 1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (request->first == NULL || request->first->device != device)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned i = 0; i < request->count; i++) {
        nvmlGpmMetric_t *metric = &request->metrics[i];
        metric->status = NVML_ERROR_NOT_SUPPORTED;
        for (unsigned j = 0; j < call.gpu->gpm_count; j++)
            if (call.gpu->gpm[j].metric == metric->metric) {
                metric->value = call.gpu->gpm[j].value;
                metric->status = NVML_SUCCESS;
            }
    }
    return NVML_SUCCESS;
}
