/* Event sets. An event reaches the sets that were registered for its GPU before the state file listed it, once. */
#include <pthread.h>

#include "stub.h"

#define POLL_US 5000u

enum { MAX_SETS = 256 }; /* a process of tests leaves some behind, beneath calls that hang */

struct event_set {
    bool used;
    unsigned delivered; /* number of the latest event that this set has seen */
    struct {
        uint64_t types;
        unsigned after; /* number of the latest event when the GPU was registered */
    } gpus[MAX_GPUS];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct event_set sets[MAX_SETS];

void free_event_sets(void)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < MAX_SETS; i++)
        sets[i].used = false;
    pthread_mutex_unlock(&lock);
}

static bool in_use(nvmlEventSet_t set)
{
    return set >= sets && set < sets + MAX_SETS && set->used;
}

API nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
    CALL(nvmlEventSetCreate, NULL, NO_DEVICE);
    nvmlReturn_t status = NVML_ERROR_MEMORY;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < MAX_SETS && status != NVML_SUCCESS; i++)
        if (!sets[i].used) {
            sets[i] = (struct event_set){.used = true};
            *set = &sets[i];
            status = NVML_SUCCESS;
        }
    pthread_mutex_unlock(&lock);
    return status;
}

API nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    CALL(nvmlEventSetFree, NULL, NO_DEVICE);
    pthread_mutex_lock(&lock);
    nvmlReturn_t status = in_use(set) ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
    if (status == NVML_SUCCESS)
        set->used = false;
    pthread_mutex_unlock(&lock);
    return status;
}

API nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set)
{
    CALL(nvmlDeviceRegisterEvents, device, PHYSICAL);
    if (types & ~(uint64_t)call.gpu->values[V_supported_events])
        return NVML_ERROR_NOT_SUPPORTED;
    unsigned latest = 0;
    for (unsigned i = 0; i < call.state->event_count; i++)
        if (call.state->events[i].number > latest)
            latest = call.state->events[i].number;
    pthread_mutex_lock(&lock);
    nvmlReturn_t status = in_use(set) ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
    if (status == NVML_SUCCESS) {
        /* Registered once more, nothing that is queued is lost. */
        if (set->gpus[call.index].types == 0)
            set->gpus[call.index].after = latest;
        set->gpus[call.index].types |= types;
    }
    pthread_mutex_unlock(&lock);
    return status;
}

static const struct event *next_event(const struct state *state, const struct event_set *set)
{
    const struct event *next = NULL;
    for (unsigned i = 0; i < state->event_count; i++) {
        const struct event *event = &state->events[i];
        if (event->number <= set->delivered || event->gpu >= MAX_GPUS)
            continue;
        if (!(set->gpus[event->gpu].types & event->type) || event->number <= set->gpus[event->gpu].after)
            continue;
        if (next == NULL || event->number < next->number)
            next = event;
    }
    return next;
}

static nvmlReturn_t take_event(const struct state *state, nvmlEventSet_t set, nvmlEventData_t *data)
{
    pthread_mutex_lock(&lock);
    nvmlReturn_t status = in_use(set) ? NVML_ERROR_TIMEOUT : NVML_ERROR_INVALID_ARGUMENT;
    const struct event *event = status == NVML_ERROR_TIMEOUT ? next_event(state, set) : NULL;
    if (event != NULL) {
        set->delivered = event->number;
        *data = (nvmlEventData_t){gpu_handle(event->gpu), event->type, event->data, NO_INSTANCE, NO_INSTANCE};
        status = NVML_SUCCESS;
    }
    pthread_mutex_unlock(&lock);
    return status;
}

API nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned timeout_ms)
{
    uint64_t end = monotonic_us() + (uint64_t)timeout_ms * 1000, now;
    CALL(nvmlEventSetWait_v2, NULL, NO_DEVICE);
    for (;;) {
        nvmlReturn_t status = take_event(call.state, set, data);
        if (status != NVML_ERROR_TIMEOUT || (now = monotonic_us()) >= end)
            return status;
        sleep_us(end - now < POLL_US ? end - now : POLL_US);
        const struct state *state = state_acquire();
        if (state == NULL)
            return NVML_ERROR_DRIVER_NOT_LOADED;
        state_release(call.state);
        call.state = state;
        struct session session = session_now();
        if (session.users == 0)
            return NVML_ERROR_UNINITIALIZED;
        if (state->failure_number > session.failure_number)
            return state->failure_code;
        if (state->function_error[F_nvmlEventSetWait_v2] != NVML_SUCCESS)
            return state->function_error[F_nvmlEventSetWait_v2];
    }
}
