/* What the driver samples by itself: utilization and power, and the processes. */
#include <string.h>

#include "stub.h"

#define BEATS_PER_SECOND 6u

/* The beats of the sampling clock are those of the machine's, so that every process sees the same samples. */
static uint64_t beat_time(uint64_t beat)
{
    return (beat * 1000000 + BEATS_PER_SECOND - 1) / BEATS_PER_SECOND;
}

static uint64_t latest_beat(uint64_t time)
{
    return time * BEATS_PER_SECOND / 1000000;
}

/* What a sample taken at a time is stamped with: the machine's wall clock, which somebody may have set since. */
static uint64_t stamp(const struct state *state, uint64_t time)
{
    int64_t ahead = 0;
    for (unsigned i = 0; i < state->clock_steps.count && state->clock_steps.entries[i].time <= time; i++)
        ahead = state->clock_steps.entries[i].value;
    return time + (uint64_t)ahead;
}

static unsigned listed_samples(const struct timeline *line, uint64_t last_seen, struct timed_value *found)
{
    unsigned count = 0;
    for (unsigned i = 0; i < line->count; i++)
        if (line->entries[i].time > last_seen)
            found[count++] = line->entries[i];
    return count;
}

static unsigned sampled_history(const struct call *call, const struct timeline *line, uint64_t last_seen,
                                struct timed_value *found)
{
    unsigned count = 0, at = 0;
    unsigned held = call->gpu->buffer_samples ? call->gpu->buffer_samples : MAX_SAMPLES;
    uint64_t last = latest_beat(now_us(call->state));
    for (uint64_t beat = last - held + 1; beat <= last; beat++) {
        uint64_t time = beat_time(beat), stamped = stamp(call->state, time);
        if (stamped <= last_seen || line->count == 0 || time < line->entries[0].time)
            continue;
        while (at + 1 < line->count && line->entries[at + 1].time <= time)
            at++;
        found[count++] = (struct timed_value){stamped, line->entries[at].value};
    }
    return count;
}

/* Without a place for samples, the answer is how many can come at most; pynvml asks that first. */
API nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, unsigned kind, unsigned long long last_seen,
                                      unsigned *value_type, unsigned *count, nvmlSample_t *samples)
{
    CALL(nvmlDeviceGetSamples, device, PHYSICAL);
    if (kind >= SAMPLE_KINDS)
        return NVML_ERROR_NOT_SUPPORTED;
    const struct timeline *listed = &call.gpu->samples[kind], *history = &call.gpu->history[kind];
    if (!(listed->present || history->present) || (kind != POWER_SAMPLES && call.gpu->values[V_mig_mode]))
        return NVML_ERROR_NOT_SUPPORTED;
    *value_type = VALUE_UNSIGNED_INT;
    if (samples == NULL) {
        *count = MAX_SAMPLES;
        return NVML_SUCCESS;
    }
    charge_samples(&call, kind);
    struct timed_value found[MAX_SAMPLES];
    unsigned newer = listed->present ? listed_samples(listed, last_seen, found)
                                     : sampled_history(&call, history, last_seen, found);
    if (newer == 0)
        return NVML_ERROR_NOT_FOUND;
    unsigned skipped = newer > *count ? newer - *count : 0;
    *count = newer - skipped;
    for (unsigned i = 0; i < *count; i++) {
        samples[i].time = found[skipped + i].time;
        samples[i].value.u64 = 0;
        samples[i].value.u32 = (unsigned)found[skipped + i].value;
    }
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *samples,
                                                 unsigned *count, unsigned long long last_seen)
{
    CALL(nvmlDeviceGetProcessUtilization, device, PHYSICAL);
    if (call.gpu->values[V_mig_mode])
        return NVML_ERROR_NOT_SUPPORTED;
    const struct process_utilization *all = call.gpu->utilization;
    uint64_t beat = stamp(call.state, beat_time(latest_beat(now_us(call.state))));
    unsigned room = samples == NULL ? 0 : *count, found = 0;
    for (unsigned i = 0; i < call.gpu->utilization_count; i++) {
        uint64_t time = all[i].time ? all[i].time : beat;
        if (time <= last_seen)
            continue;
        if (found < room)
            samples[found] = (nvmlProcessUtilizationSample_t){all[i].pid,    time,           all[i].sm,
                                                              all[i].memory, all[i].encoder, all[i].decoder};
        found++;
    }
    *count = found;
    if (found == 0)
        return NVML_ERROR_NOT_FOUND;
    return found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

/* A MIG device shows its own processes only. */
static bool shown(const struct call *call, const struct process *process)
{
    return call->mig == NULL || (process->gpu_instance == call->mig->gpu_instance &&
                                 process->compute_instance == call->mig->compute_instance);
}

static nvmlReturn_t processes(const struct call *call, enum process_kind kind, unsigned *count, void *room)
{
    unsigned limit = room == NULL ? 0 : *count, found = 0;
    bool third_version = call->function == F_nvmlDeviceGetComputeRunningProcesses_v3 ||
                         call->function == F_nvmlDeviceGetGraphicsRunningProcesses_v3;
    unsigned bytes = third_version && call->gpu->process_bytes ? call->gpu->process_bytes : 24;
    bool first_version = bytes == 16 || call->function == F_nvmlDeviceGetComputeRunningProcesses ||
                         call->function == F_nvmlDeviceGetGraphicsRunningProcesses ||
                         call->function == F_nvmlDeviceGetMPSComputeRunningProcesses;
    for (unsigned i = 0; i < call->gpu->process_counts[kind]; i++) {
        const struct process *process = &call->gpu->processes[kind][i];
        if (!shown(call, process))
            continue;
        if (found < limit && first_version)
            ((nvmlProcessInfo_v1_t *)room)[found] = (nvmlProcessInfo_v1_t){process->pid, process->memory};
        else if (found < limit) {
            char *item = (char *)room + (size_t)found * bytes;
            memset(item, 0, bytes); /* what version 3 once had behind the instances is 0 without confidential computing */
            *(nvmlProcessInfo_v2_t *)item = (nvmlProcessInfo_v2_t){
                process->pid, process->memory, process->gpu_instance, process->compute_instance};
        }
        found++;
    }
    *count = found;
    return found > limit ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

#define PROCESSES(name, kind)                                                                                          \
    API nvmlReturn_t name(nvmlDevice_t device, unsigned *count, void *room)                                            \
    {                                                                                                                  \
        CALL(name, device, ANY_DEVICE);                                                                                \
        return processes(&call, kind, count, room);                                                                    \
    }

PROCESSES(nvmlDeviceGetComputeRunningProcesses, COMPUTE)
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, COMPUTE)
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, COMPUTE)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses, GRAPHICS)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, GRAPHICS)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, GRAPHICS)
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses, MPS)
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v2, MPS)
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3, MPS)

API nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device, void *list)
{
    (void)list;
    CALL(nvmlDeviceGetRunningProcessDetailList, device, ANY_DEVICE);
    return NVML_ERROR_NOT_SUPPORTED;
}
