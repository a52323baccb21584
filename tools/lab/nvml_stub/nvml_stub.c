/* A stand-in for libnvidia-ml.so.1 whose GPUs live in a text file, so that the real pynvml runs without a GPU.
 *
 * Environment: NVML_STUB_STATE names the state file, NVML_STUB_CALLS (optional) a file in which every call is counted.
 * With NVML_STUB_EXIT_HANGS, the library's exit handler never ends, as one that waits for a call that hangs.
 * The state is read again whenever the file changes; replace the file as a whole (rename) so that no half is read.
 *
 * State file: one "key value" a line, "#" starts a comment. An unknown key aborts the process. N is a GPU's index.
 *
 *   count N                          GPUs; in force from the next nvmlInit on
 *   driver_version, nvml_version     text; the fields' numbers follow the driver's release
 *   cuda_version                     integer, 12080 for 12.8
 *   now_us N                         the machine's clock stands at this Unix time; without, it is the real one
 *   clock_steps US:AHEAD,...         by how much the clock that stamps samples is ahead of it, from each time on
 *   listed N                         what nvmlDeviceGetCount answers, whatever there is
 *   module_version TEXT              the kernel module's; a library built for another one (STUB_VERSION) is refused
 *   init_error CODE                  nvmlInit answers this
 *   init_hang 1                      nvmlInit blocks until this is gone
 *   driver_failure NUMBER CODE       every session older than this failure answers CODE until shutdown and init
 *   error.FUNCTION CODE              this function fails for every GPU
 *   delay_us.FUNCTION N              this function takes longer
 *   price.FUNCTION FIRST:AGAIN       microseconds of CPU that a call takes; AGAIN within 0.3 s, as from NVML's own cache
 *   price.samples.KIND, price.field.ID FIRST:AGAIN       the same of one buffer, and of one field
 *   price.open US                    and of the first call for each GPU of a process
 *   event NUMBER GPU TYPE DATA       delivered once, to event sets registered before; numbers rise; TYPE 8 is an XID
 *
 *   gpu.N.VALUE INTEGER              values.h lists them; one that is missing is NOT_SUPPORTED
 *   gpu.N.LIST INTEGER,INTEGER       one number a fan or link
 *   gpu.N.STRING TEXT                name, uuid, serial, vbios_version, pci_bus_id (instead of the numbers')
 *   gpu.N.error CODE                 every call for the GPU answers this, handle look-ups included
 *   gpu.N.hang 1                     every call for the GPU blocks until this is gone
 *   gpu.N.lookup 1                   handle look-ups work in spite of error and hang
 *   gpu.N.delay_us N                 every call for the GPU takes longer
 *   gpu.N.error.FUNCTION CODE        this function fails for this GPU
 *   gpu.N.field.ID INTEGER           the value of one field, whatever the driver's release
 *   gpu.N.field_error.ID CODE        one field's own nvmlReturn
 *   gpu.N.processes.KIND PID:BYTES[:GI:CI],...           KIND compute, graphics, mps; BYTES -1 is "not available"
 *   gpu.N.process_bytes N            what version 3 writes a process; 16 and 32 have been seen in drivers
 *   gpu.N.process_utilization PID:SM:MEM:ENC:DEC[:US],...  without US: sampled at the latest beat
 *   gpu.N.history.KIND US:VALUE,...  what nvmlDeviceGetSamples saw from each time on, sampled every 1/6 s;
 *                                    KIND 0 power, 1 GPU, 2 memory utilization; without: NOT_SUPPORTED
 *   gpu.N.buffer_samples N           how many of them a buffer holds; 120 at most, and by default
 *   gpu.N.samples.KIND US:VALUE,...  the exact samples, instead
 *   gpu.N.mig.I UUID GI CI TOTAL USED NAME               a MIG device
 *   gpu.N.mig.I.gpm.ID NUMBER        a GPM metric of its GPU instance; without any it has those of the GPU
 *   gpu.N.gpm.ID NUMBER              a GPM metric; with any, the GPU supports GPM. 20 and 21, the PCIe rates, are what
 *                                    pcie_tx_bytes and pcie_rx_bytes grew by between the samples, unless told here
 *   gpu.N.gpm_of_busy.ID NUMBER      the same of the time in which the GPU is busy, by the history of its utilization
 *
 * This file holds the life cycle, the handles and the prologue of every call.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "stub.h"

#ifndef STUB_VERSION
#define STUB_VERSION ""
#endif

#define POLL_US 10000u /* how soon a blocked call sees that the state changed */
#define CACHED_US 300000u /* for how long NVML answers from its cache (H200, driver 580) */

#define AS_NAME(name) #name,
static const char *const FUNCTION_NAMES[] = {FUNCTIONS(AS_NAME)};

/* One record of the call file, shared with the Python driver; behind the functions is what they charged. */
struct counter {
    char name[56];
    _Atomic uint64_t calls;
};

struct device_handle {
    unsigned index;
    int instance; /* -1 for the GPU itself */
};

static struct device_handle handles[MAX_GPUS][1 + MAX_MIG];
static struct counter *counters;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t session_lock = PTHREAD_MUTEX_INITIALIZER;
static struct session session;

uint64_t now_us(const struct state *state)
{
    if (state->now_us != 0)
        return state->now_us;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint64_t monotonic_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

void sleep_us(uint64_t us)
{
    struct timespec left = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

int function_by_name(const char *name)
{
    for (int i = 0; i < F_COUNT; i++)
        if (strcmp(FUNCTION_NAMES[i], name) == 0)
            return i;
    return -1;
}

static void open_counters(const char *path)
{
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    size_t size = sizeof(struct counter) * (F_COUNT + 1);
    if (file < 0 || ftruncate(file, (off_t)size) != 0) {
        perror("nvml_stub: NVML_STUB_CALLS");
        abort();
    }
    void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (map == MAP_FAILED)
        abort();
    counters = map;
    for (int i = 0; i < F_COUNT; i++)
        snprintf(counters[i].name, sizeof counters[i].name, "%s", FUNCTION_NAMES[i]);
    snprintf(counters[F_COUNT].name, sizeof counters[F_COUNT].name, "charged_us");
}

static void prepare(void)
{
    for (unsigned index = 0; index < MAX_GPUS; index++)
        for (int instance = -1; instance < MAX_MIG; instance++)
            handles[index][1 + instance] = (struct device_handle){index, instance};
    const char *path = getenv("NVML_STUB_CALLS");
    if (path != NULL && *path != '\0')
        open_counters(path);
}

__attribute__((destructor)) static void exit_handler(void)
{
    while (getenv("NVML_STUB_EXIT_HANGS") != NULL)
        pause();
}

static void count_call(enum function function)
{
    pthread_once(&once, prepare);
    if (counters != NULL)
        atomic_fetch_add_explicit(&counters[function].calls, 1, memory_order_relaxed);
}

struct session session_now(void)
{
    pthread_mutex_lock(&session_lock);
    struct session now = session;
    pthread_mutex_unlock(&session_lock);
    return now;
}

nvmlDevice_t gpu_handle(unsigned index)
{
    return &handles[index][0];
}

nvmlDevice_t mig_handle(unsigned index, unsigned instance)
{
    return &handles[index][1 + instance];
}

/* Handles that this library never gave out must not be followed. */
static bool is_handle(nvmlDevice_t device)
{
    uintptr_t address = (uintptr_t)device, first = (uintptr_t)handles;
    return address >= first && address < first + sizeof handles && (address - first) % sizeof **handles == 0;
}

static uint64_t wanted_delay(const struct call *call, bool lookup)
{
    const struct gpu *gpu = call->gpu;
    /* A look-up has waited for its function before it knew the GPU. */
    uint64_t delay = lookup ? 0 : call->state->function_delay_us[call->function];
    if (gpu == NULL)
        return delay;
    if (gpu->hang && !(lookup && gpu->lookup))
        return UINT64_MAX;
    return delay + gpu->delay_us;
}

/* A stall ends as soon as the state says so, which lets a test free a blocked call. */
static void stall(struct call *call, bool lookup)
{
    uint64_t wanted = wanted_delay(call, lookup);
    if (wanted == 0)
        return;
    uint64_t start = monotonic_us(), passed;
    while ((passed = monotonic_us() - start) < wanted) {
        uint64_t left = wanted - passed;
        sleep_us(left < POLL_US ? left : POLL_US);
        const struct state *state = state_acquire();
        if (state == NULL)
            continue;
        state_release(call->state);
        call->state = state;
        if (call->gpu != NULL)
            call->gpu = &state->gpus[call->index];
        wanted = wanted_delay(call, lookup);
    }
}

/* When something was paid for last, by GPU; a race between two threads costs a little more, as it does in the driver. */
static _Atomic uint64_t paid_functions[MAX_GPUS][F_COUNT], paid_samples[MAX_GPUS][SAMPLE_KINDS],
    paid_fields[MAX_GPUS][MAX_FIELDS];
static atomic_bool opened[MAX_GPUS];

static uint64_t cpu_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void spin(uint64_t us)
{
    if (counters != NULL)
        atomic_fetch_add_explicit(&counters[F_COUNT].calls, us, memory_order_relaxed);
    for (uint64_t end = cpu_us() + us; cpu_us() < end;)
        ;
}

static void charge(const struct price *price, _Atomic uint64_t *paid)
{
    if (price->first == 0)
        return;
    uint64_t now = monotonic_us(), before = atomic_load(paid);
    spin(before != 0 && now - before < CACHED_US ? price->again : price->first);
    atomic_store(paid, monotonic_us());
}

void charge_samples(const struct call *call, unsigned kind)
{
    charge(&call->state->sample_price[kind], &paid_samples[call->index][kind]);
}

void charge_field(const struct call *call, unsigned field)
{
    if (field < MAX_FIELDS)
        charge(&call->state->field_price[field], &paid_fields[call->index][field]);
}

static void charge_call(const struct call *call)
{
    if (call->state->open_price != 0 && !atomic_exchange(&opened[call->index], true))
        spin(call->state->open_price);
    charge(&call->state->function_price[call->function], &paid_functions[call->index][call->function]);
}

nvmlReturn_t call_admit(struct call *call, unsigned index, bool lookup)
{
    call->index = index;
    call->gpu = &call->state->gpus[index];
    stall(call, lookup);
    charge_call(call);
    struct session now = session_now();
    if (now.users == 0)
        return NVML_ERROR_UNINITIALIZED;
    if (call->state->failure_number > now.failure_number)
        return call->state->failure_code;
    if (index >= call->state->count)
        return NVML_ERROR_GPU_IS_LOST;
    if (call->gpu->error != NVML_SUCCESS && !(lookup && call->gpu->lookup))
        return call->gpu->error;
    if (call->gpu->function_error[call->function] != NVML_SUCCESS)
        return call->gpu->function_error[call->function];
    return call->state->function_error[call->function];
}

static nvmlReturn_t admit_without_device(struct call *call)
{
    stall(call, false);
    struct session now = session_now();
    if (now.users == 0)
        return NVML_ERROR_UNINITIALIZED;
    if (call->state->failure_number > now.failure_number)
        return call->state->failure_code;
    return call->state->function_error[call->function];
}

static nvmlReturn_t admit_device(struct call *call, nvmlDevice_t device, enum takes takes)
{
    if (!is_handle(device) || device->index >= session_now().count)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t status = call_admit(call, device->index, false);
    if (status != NVML_SUCCESS || device->instance < 0)
        return status;
    call->mig = &call->gpu->mig[device->instance];
    if (!call->mig->present)
        return NVML_ERROR_INVALID_ARGUMENT;
    return takes == ANY_DEVICE ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

struct call call_begin(enum function function, nvmlDevice_t device, enum takes takes)
{
    struct call call = {.function = function};
    count_call(function);
    if (session_now().users == 0)
        call.status = NVML_ERROR_UNINITIALIZED;
    else if ((call.state = state_acquire()) == NULL)
        call.status = NVML_ERROR_DRIVER_NOT_LOADED;
    else
        call.status = takes == NO_DEVICE ? admit_without_device(&call) : admit_device(&call, device, takes);
    return call;
}

void call_end(struct call *call)
{
    state_release(call->state);
}

nvmlReturn_t number(const struct call *call, enum value value, int64_t *answer)
{
    if (!call->gpu->has[value])
        return NVML_ERROR_NOT_SUPPORTED;
    *answer = call->gpu->values[value];
    return NVML_SUCCESS;
}

nvmlReturn_t number_u32(const struct call *call, enum value value, unsigned *answer)
{
    int64_t wide;
    nvmlReturn_t status = number(call, value, &wide);
    if (status == NVML_SUCCESS)
        *answer = (unsigned)wide;
    return status;
}

nvmlReturn_t number_u64(const struct call *call, enum value value, unsigned long long *answer)
{
    int64_t wide;
    nvmlReturn_t status = number(call, value, &wide);
    if (status == NVML_SUCCESS)
        *answer = (unsigned long long)wide;
    return status;
}

nvmlReturn_t text(const char *text, char *buffer, unsigned size)
{
    if (*text == '\0')
        return NVML_ERROR_NOT_SUPPORTED;
    if (strlen(text) >= size)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return NVML_SUCCESS;
}

/* A library works with the kernel module of its own release only; one that was built without a release, with any. */
static bool foreign_module(const struct state *state)
{
    return *STUB_VERSION != '\0' && *state->module_version != '\0' && strcmp(STUB_VERSION, state->module_version) != 0;
}

static nvmlReturn_t start(enum function function)
{
    struct call call __attribute__((cleanup(call_end))) = {.function = function};
    count_call(function);
    for (;;) {
        call.state = state_acquire();
        if (call.state == NULL)
            return NVML_ERROR_DRIVER_NOT_LOADED;
        if (!call.state->init_hang)
            break;
        state_release(call.state);
        sleep_us(POLL_US);
    }
    stall(&call, false);
    pthread_mutex_lock(&session_lock);
    nvmlReturn_t status = session.users == 0 ? call.state->init_error : NVML_SUCCESS;
    if (status == NVML_SUCCESS && session.users == 0 && foreign_module(call.state))
        status = NVML_ERROR_LIB_RM_VERSION_MISMATCH;
    if (status == NVML_SUCCESS && session.users++ == 0) {
        session.count = call.state->count;
        session.failure_number = call.state->failure_number;
        session.driver_major = atoi(call.state->driver_version);
    }
    pthread_mutex_unlock(&session_lock);
    return status;
}

API nvmlReturn_t nvmlInit_v2(void)
{
    return start(F_nvmlInit_v2);
}

API nvmlReturn_t nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    return start(F_nvmlInitWithFlags);
}

API nvmlReturn_t nvmlShutdown(void)
{
    count_call(F_nvmlShutdown);
    pthread_mutex_lock(&session_lock);
    nvmlReturn_t status = session.users == 0 ? NVML_ERROR_UNINITIALIZED : NVML_SUCCESS;
    if (session.users > 0 && --session.users == 0)
        free_event_sets();
    pthread_mutex_unlock(&session_lock);
    return status;
}

API const char *nvmlErrorString(nvmlReturn_t code)
{
    static const char *const WORDS[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions",
        "Already Initialized", "Not Found", "Insufficient Size", "Insufficient External Power", "Driver Not Loaded",
        "Timeout", "Interrupt Request Issue", "NVML Shared Library Not Found", "Function Not Found",
        "Corrupted infoROM", "GPU is lost", "GPU requires reset", "The operating system has blocked the request",
        "RM has detected an NVML/RM version mismatch", "GPU is currently in use"};
    return code >= 0 && (size_t)code < sizeof WORDS / sizeof *WORDS ? WORDS[code] : "Unknown Error";
}

API nvmlReturn_t nvmlSystemGetDriverVersion(char *buffer, unsigned size)
{
    CALL(nvmlSystemGetDriverVersion, NULL, NO_DEVICE);
    return text(call.state->driver_version, buffer, size);
}

API nvmlReturn_t nvmlSystemGetNVMLVersion(char *buffer, unsigned size)
{
    CALL(nvmlSystemGetNVMLVersion, NULL, NO_DEVICE);
    return text(call.state->nvml_version, buffer, size);
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    CALL(nvmlSystemGetCudaDriverVersion, NULL, NO_DEVICE);
    *version = call.state->cuda_version;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    CALL(nvmlSystemGetCudaDriverVersion_v2, NULL, NO_DEVICE);
    *version = call.state->cuda_version;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count)
{
    CALL(nvmlDeviceGetCount_v2, NULL, NO_DEVICE);
    *count = call.state->listed >= 0 ? (unsigned)call.state->listed : session_now().count;
    return NVML_SUCCESS;
}

static nvmlReturn_t look_up(struct call *call, unsigned index, nvmlDevice_t *device)
{
    nvmlReturn_t status = call_admit(call, index, true);
    if (status == NVML_SUCCESS)
        *device = gpu_handle(index);
    return status;
}

static nvmlReturn_t look_up_string(struct call *call, enum string string, const char *wanted, nvmlDevice_t *device)
{
    unsigned count = session_now().count;
    for (unsigned index = 0; index < count; index++)
        if (strcmp(call->state->gpus[index].strings[string], wanted) == 0)
            return look_up(call, index, device);
    return NVML_ERROR_NOT_FOUND;
}

API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device)
{
    CALL(nvmlDeviceGetHandleByIndex_v2, NULL, NO_DEVICE);
    return index < session_now().count ? look_up(&call, index, device) : NVML_ERROR_INVALID_ARGUMENT;
}

API nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    CALL(nvmlDeviceGetHandleByUUID, NULL, NO_DEVICE);
    unsigned count = session_now().count;
    for (unsigned index = 0; index < count; index++)
        for (unsigned instance = 0; instance < MAX_MIG; instance++)
            if (call.state->gpus[index].mig[instance].present &&
                strcmp(call.state->gpus[index].mig[instance].uuid, uuid) == 0) {
                *device = mig_handle(index, instance);
                return call_admit(&call, index, true);
            }
    return look_up_string(&call, S_uuid, uuid, device);
}

API nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device)
{
    CALL(nvmlDeviceGetHandleBySerial, NULL, NO_DEVICE);
    return look_up_string(&call, S_serial, serial, device);
}

API nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device)
{
    CALL(nvmlDeviceGetHandleByPciBusId_v2, NULL, NO_DEVICE);
    unsigned domain, bus, slot, count = session_now().count;
    if (sscanf(bus_id, "%x:%x:%x", &domain, &bus, &slot) != 3)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned index = 0; index < count; index++) {
        const int64_t *values = call.state->gpus[index].values;
        if (values[V_pci_domain] == domain && values[V_pci_bus] == bus && values[V_pci_device] == slot)
            return look_up(&call, index, device);
    }
    return NVML_ERROR_NOT_FOUND;
}
