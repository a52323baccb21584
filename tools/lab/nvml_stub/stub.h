/* What the parts of the stand-in share: the parsed state file, and the prologue that every exported function runs. */
#ifndef STUB_H
#define STUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "functions.h"
#include "nvml_abi.h"
#include "values.h"

enum {
    MAX_GPUS = 64,
    MAX_LINKS = 36,
    MAX_PROCESSES = 64,
    MAX_SAMPLES = 120,
    MAX_MIG = 8,
    MAX_EVENTS = 256,
    MAX_OVERRIDES = 128,
    MAX_FIELDS = 512,
    TEXT = 96,
};

enum process_kind { COMPUTE, GRAPHICS, MPS, PROCESS_KINDS };
enum sample_kind { POWER_SAMPLES, GPU_SAMPLES, MEMORY_SAMPLES, SAMPLE_KINDS };

struct number_list {
    bool present;
    unsigned count;
    int64_t numbers[MAX_LINKS];
};

struct process {
    unsigned pid;
    uint64_t memory;
    unsigned gpu_instance, compute_instance;
};

struct process_utilization {
    unsigned pid, sm, memory, encoder, decoder;
    uint64_t time; /* 0: the latest beat of the sampling clock */
};

struct timed_value {
    uint64_t time;
    int64_t value;
};

struct timeline {
    bool present;
    unsigned count;
    struct timed_value entries[MAX_SAMPLES];
};

struct gpm_value {
    unsigned metric;
    double value;
    bool of_busy; /* of the time in which the GPU is busy, instead of all */
};

struct mig {
    bool present;
    unsigned gpm_count; /* 0: the GPU's own */
    struct gpm_value gpm[MAX_OVERRIDES];
    char uuid[TEXT], name[TEXT];
    unsigned gpu_instance, compute_instance;
    uint64_t memory_total, memory_used;
};

struct field_override {
    unsigned field, scope, type;
    int64_t value;
    nvmlReturn_t error;
};

struct gpu {
    bool has[V_COUNT];
    int64_t values[V_COUNT];
    struct number_list lists[L_COUNT];
    char strings[S_COUNT][TEXT]; /* empty: not supported */
    nvmlReturn_t error;
    bool hang, lookup;
    uint64_t delay_us;
    nvmlReturn_t function_error[F_COUNT];
    unsigned buffer_samples; /* that a buffer holds; 0 is MAX_SAMPLES */
    unsigned process_bytes; /* of an item of the list's version 3; 0 is the usual 24 */
    unsigned process_counts[PROCESS_KINDS];
    struct process processes[PROCESS_KINDS][MAX_PROCESSES];
    unsigned utilization_count;
    struct process_utilization utilization[MAX_PROCESSES];
    struct timeline samples[SAMPLE_KINDS]; /* listed one by one */
    struct timeline history[SAMPLE_KINDS]; /* value from each time on; samples are taken from it on the beat */
    struct mig mig[MAX_MIG];
    unsigned field_count, gpm_count;
    struct field_override fields[MAX_OVERRIDES];
    struct gpm_value gpm[MAX_OVERRIDES];
};

/* Microseconds of CPU: the first time, and again while NVML would answer from its cache. */
struct price {
    uint32_t first, again;
};

struct event {
    unsigned number, gpu;
    uint64_t type, data;
};

struct state {
    unsigned users;
    unsigned count;
    int64_t listed; /* -1: as many as there are */
    uint64_t now_us; /* 0: the real clock's */
    struct timeline clock_steps; /* by how much samples are stamped ahead from each time on */
    int cuda_version;
    char driver_version[TEXT], nvml_version[TEXT], module_version[TEXT];
    nvmlReturn_t init_error;
    bool init_hang;
    unsigned failure_number;
    nvmlReturn_t failure_code;
    nvmlReturn_t function_error[F_COUNT];
    uint64_t function_delay_us[F_COUNT];
    struct price function_price[F_COUNT], sample_price[SAMPLE_KINDS], field_price[MAX_FIELDS];
    uint64_t open_price; /* of the first call for a GPU */
    unsigned event_count;
    struct event events[MAX_EVENTS];
    struct gpu gpus[MAX_GPUS];
};

/* What nvmlInit fixes until the last nvmlShutdown. */
struct session {
    unsigned users;
    unsigned count;
    unsigned failure_number;
    int driver_major;
};

/* Which handles a function takes. */
enum takes { NO_DEVICE, PHYSICAL, ANY_DEVICE };

struct call {
    enum function function;
    nvmlReturn_t status;
    unsigned index;
    const struct state *state; /* held until call_end */
    const struct gpu *gpu;
    const struct mig *mig; /* NULL for a physical GPU */
};

#pragma GCC visibility push(hidden)

const struct state *state_acquire(void); /* NULL where there is no state file */
void state_release(const struct state *state);
int function_by_name(const char *name); /* -1 where unknown */

uint64_t now_us(const struct state *state); /* of the machine's wall clock, like NVML's time stamps */
uint64_t monotonic_us(void);
void sleep_us(uint64_t us);

void free_event_sets(void); /* as the last session ends */
struct session session_now(void);
nvmlDevice_t gpu_handle(unsigned index);
nvmlDevice_t mig_handle(unsigned index, unsigned instance);
struct call call_begin(enum function function, nvmlDevice_t device, enum takes takes);
/* Waits, then answers the errors that the state lists for this GPU and function. */
nvmlReturn_t call_admit(struct call *call, unsigned index, bool lookup);
void call_end(struct call *call);

/* Keeps the CPU busy for what the real driver takes. */
void charge_samples(const struct call *call, unsigned kind);
void charge_field(const struct call *call, unsigned field);

nvmlReturn_t number(const struct call *call, enum value value, int64_t *answer);
nvmlReturn_t number_u32(const struct call *call, enum value value, unsigned *answer);
nvmlReturn_t number_u64(const struct call *call, enum value value, unsigned long long *answer);
nvmlReturn_t text(const char *text, char *buffer, unsigned size);

#pragma GCC visibility pop

#define CALL(name, device, takes)                                                                                      \
    struct call call __attribute__((cleanup(call_end))) = call_begin(F_##name, device, takes);                         \
    if (call.status != NVML_SUCCESS)                                                                                   \
        return call.status

#endif
