/* Reads the state file (its format is told in nvml_stub.c) and keeps the newest reading. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "stub.h"

#define AS_NAME(name) #name,
static const char *const VALUE_NAMES[] = {VALUES(AS_NAME)};
static const char *const LIST_NAMES[] = {LISTS(AS_NAME)};
static const char *const STRING_NAMES[] = {STRINGS(AS_NAME)};
static const char *const PROCESS_NAMES[] = {"compute", "graphics", "mps"};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct state *newest;
static struct stat newest_file;

/* A test that misspells a key must not pass. */
static void refuse(const char *what, const char *word)
{
    fprintf(stderr, "nvml_stub: %s '%s' in the state file\n", what, word);
    abort();
}

/* The file lists names in the order of the tables, so that the search nearly always ends at the first comparison. */
static int find(const char *const *names, unsigned count, const char *name, unsigned *hint)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned at = (*hint + i) % count;
        if (strcmp(names[at], name) == 0) {
            *hint = at + 1;
            return (int)at;
        }
    }
    return -1;
}

static int64_t integer(const char *word)
{
    char *end;
    int64_t value = *word == '-' ? strtoll(word, &end, 10) : (int64_t)strtoull(word, &end, 0);
    if (end == word || *end != '\0')
        refuse("no integer:", word);
    return value;
}

/* Splits "1:2:3,4:5" at commas, then at colons; missing parts keep `fallback`. Returns false at the end. */
static bool next_tuple(char **rest, int64_t *parts, unsigned count, int64_t fallback)
{
    char *item = strsep(rest, ",");
    if (item == NULL || *item == '\0')
        return false;
    for (unsigned i = 0; i < count; i++) {
        char *part = strsep(&item, ":");
        parts[i] = part == NULL ? fallback : integer(part);
    }
    return true;
}

static void parse_processes(struct gpu *gpu, enum process_kind kind, char *value)
{
    int64_t part[4];
    unsigned count = 0;
    while (count < MAX_PROCESSES && next_tuple(&value, part, 4, NO_INSTANCE))
        gpu->processes[kind][count++] =
            (struct process){(unsigned)part[0], (uint64_t)part[1], (unsigned)part[2], (unsigned)part[3]};
    gpu->process_counts[kind] = count;
}

static void parse_utilization(struct gpu *gpu, char *value)
{
    int64_t part[6];
    unsigned count = 0;
    while (count < MAX_PROCESSES && next_tuple(&value, part, 6, 0))
        gpu->utilization[count++] = (struct process_utilization){
            (unsigned)part[0], (unsigned)part[1], (unsigned)part[2], (unsigned)part[3], (unsigned)part[4],
            (uint64_t)part[5]};
    gpu->utilization_count = count;
}

static void parse_timeline(struct timeline *line, char *value)
{
    int64_t part[2];
    line->present = true;
    while (line->count < MAX_SAMPLES && next_tuple(&value, part, 2, 0))
        line->entries[line->count++] = (struct timed_value){(uint64_t)part[0], part[1]};
}

static struct timeline *timeline(struct timeline *timelines, char *key)
{
    int64_t kind = integer(key);
    if (kind < 0 || kind >= SAMPLE_KINDS)
        refuse("no kind of samples:", key);
    return &timelines[kind];
}

static char *after(char *key, const char *prefix);

static void parse_mig(struct gpu *gpu, char *key, char *value)
{
    char *index = strsep(&key, ".");
    int64_t at = integer(index);
    if (at < 0 || at >= MAX_MIG)
        refuse("no MIG index:", index);
    struct mig *mig = &gpu->mig[at];
    if (key != NULL) {
        char *metric = after(key, "gpm.");
        if (metric == NULL || mig->gpm_count == MAX_OVERRIDES)
            refuse("no GPM metric of a MIG device:", key);
        mig->gpm[mig->gpm_count++] = (struct gpm_value){(unsigned)integer(metric), strtod(value, NULL), false};
        return;
    }
    unsigned long long total, used;
    if (sscanf(value, "%95s %u %u %llu %llu %95[^\n]", mig->uuid, &mig->gpu_instance, &mig->compute_instance, &total,
               &used, mig->name) != 6)
        refuse("no MIG device:", value);
    mig->memory_total = total;
    mig->memory_used = used;
    mig->present = true;
}

/* "field.171 1:3:0" is value, type and return code for whatever scope, "field.171.2 …" for one. */
static void parse_field(struct gpu *gpu, char *key, char *value)
{
    if (gpu->field_count == MAX_OVERRIDES)
        refuse("too many fields:", key);
    int64_t part[3];
    char *field = strsep(&key, ".");
    if (!next_tuple(&value, part, 3, 0))
        refuse("no answer of the field:", field);
    gpu->fields[gpu->field_count++] = (struct field_override){
        (unsigned)integer(field), key == NULL ? ALL_SCOPES : (unsigned)integer(key), (unsigned)part[1], part[0],
        (nvmlReturn_t)part[2]};
}

static void parse_gpm(struct gpu *gpu, const char *key, const char *value, bool of_busy)
{
    if (gpu->gpm_count == MAX_OVERRIDES)
        refuse("too many GPM metrics:", key);
    gpu->gpm[gpu->gpm_count++] = (struct gpm_value){(unsigned)integer(key), strtod(value, NULL), of_busy};
}

static enum function function_called(const char *name)
{
    int function = function_by_name(name);
    if (function < 0)
        refuse("unknown function", name);
    return (enum function)function;
}

/* "prefix.rest" -> "rest", or NULL */
static char *after(char *key, const char *prefix)
{
    size_t length = strlen(prefix);
    return strncmp(key, prefix, length) == 0 ? key + length : NULL;
}

static void parse_gpu(struct gpu *gpu, char *key, char *value, unsigned hints[3])
{
    char *rest;
    int at = find(VALUE_NAMES, V_COUNT, key, &hints[0]);
    if (at >= 0) {
        gpu->values[at] = integer(value);
        gpu->has[at] = true;
    } else if ((at = find(STRING_NAMES, S_COUNT, key, &hints[1])) >= 0) {
        snprintf(gpu->strings[at], TEXT, "%s", value);
    } else if ((at = find(LIST_NAMES, L_COUNT, key, &hints[2])) >= 0) {
        struct number_list *list = &gpu->lists[at];
        list->present = true;
        while (list->count < MAX_LINKS && next_tuple(&value, &list->numbers[list->count], 1, 0))
            list->count++;
    } else if (strcmp(key, "error") == 0) {
        gpu->error = (nvmlReturn_t)integer(value);
    } else if (strcmp(key, "hang") == 0) {
        gpu->hang = integer(value) != 0;
    } else if (strcmp(key, "lookup") == 0) {
        gpu->lookup = integer(value) != 0;
    } else if (strcmp(key, "delay_us") == 0) {
        gpu->delay_us = (uint64_t)integer(value);
    } else if ((rest = after(key, "error."))) {
        gpu->function_error[function_called(rest)] = (nvmlReturn_t)integer(value);
    } else if ((rest = after(key, "field."))) {
        parse_field(gpu, rest, value);
    } else if ((rest = after(key, "processes."))) {
        int kind = find(PROCESS_NAMES, PROCESS_KINDS, rest, &(unsigned){0});
        if (kind < 0)
            refuse("unknown kind of processes", rest);
        parse_processes(gpu, (enum process_kind)kind, value);
    } else if (strcmp(key, "buffer_samples") == 0) {
        gpu->buffer_samples = (unsigned)integer(value);
        if (gpu->buffer_samples > MAX_SAMPLES)
            refuse("too many samples:", value);
    } else if (strcmp(key, "process_bytes") == 0) {
        gpu->process_bytes = (unsigned)integer(value);
    } else if (strcmp(key, "process_utilization") == 0) {
        parse_utilization(gpu, value);
    } else if ((rest = after(key, "samples."))) {
        parse_timeline(timeline(gpu->samples, rest), value);
    } else if ((rest = after(key, "history."))) {
        parse_timeline(timeline(gpu->history, rest), value);
    } else if ((rest = after(key, "mig."))) {
        parse_mig(gpu, rest, value);
    } else if ((rest = after(key, "gpm."))) {
        parse_gpm(gpu, rest, value, false);
    } else if ((rest = after(key, "gpm_of_busy."))) {
        parse_gpm(gpu, rest, value, true);
    } else {
        refuse("unknown GPU key", key);
    }
}

static void parse_event(struct state *state, const char *value)
{
    unsigned long long type, data;
    unsigned number, gpu;
    if (sscanf(value, "%u %u %llu %llu", &number, &gpu, &type, &data) != 4)
        refuse("no event:", value);
    if (state->event_count == MAX_EVENTS)
        refuse("too many events:", value);
    state->events[state->event_count++] = (struct event){number, gpu, type, data};
}

static struct price price(char *value)
{
    int64_t part[2] = {0};
    next_tuple(&value, part, 2, 0);
    return (struct price){(uint32_t)part[0], (uint32_t)part[1]};
}

static void parse_price(struct state *state, char *key, char *value)
{
    char *rest;
    if (strcmp(key, "open") == 0) {
        state->open_price = (uint64_t)integer(value);
    } else if ((rest = after(key, "samples."))) {
        int64_t kind = integer(rest);
        if (kind < 0 || kind >= SAMPLE_KINDS)
            refuse("no kind of samples:", rest);
        state->sample_price[kind] = price(value);
    } else if ((rest = after(key, "field."))) {
        int64_t field = integer(rest);
        if (field < 0 || field >= MAX_FIELDS)
            refuse("no field:", rest);
        state->field_price[field] = price(value);
    } else {
        state->function_price[function_called(key)] = price(value);
    }
}

static void parse_line(struct state *state, char *line, unsigned hints[3])
{
    char *value = strpbrk(line, " \n");
    if (value == NULL || *line == '#' || *line == '\n')
        return;
    if (*value == ' ')
        *value++ = '\0';
    value[strcspn(value, "\n")] = '\0';

    char *rest = after(line, "gpu.");
    if (rest != NULL) {
        char *key;
        unsigned long index = strtoul(rest, &key, 10);
        if (key == rest || *key != '.' || index >= MAX_GPUS)
            refuse("no GPU key:", line);
        parse_gpu(&state->gpus[index], key + 1, value, hints);
    } else if (strcmp(line, "count") == 0) {
        state->count = (unsigned)integer(value);
        if (state->count > MAX_GPUS)
            refuse("too many GPUs:", value);
    } else if (strcmp(line, "listed") == 0) {
        state->listed = integer(value);
    } else if (strcmp(line, "module_version") == 0) {
        snprintf(state->module_version, TEXT, "%s", value);
    } else if (strcmp(line, "now_us") == 0) {
        state->now_us = (uint64_t)integer(value);
    } else if (strcmp(line, "clock_steps") == 0) {
        parse_timeline(&state->clock_steps, value);
    } else if (strcmp(line, "driver_version") == 0) {
        snprintf(state->driver_version, TEXT, "%s", value);
    } else if (strcmp(line, "nvml_version") == 0) {
        snprintf(state->nvml_version, TEXT, "%s", value);
    } else if (strcmp(line, "cuda_version") == 0) {
        state->cuda_version = (int)integer(value);
    } else if (strcmp(line, "init_error") == 0) {
        state->init_error = (nvmlReturn_t)integer(value);
    } else if (strcmp(line, "init_hang") == 0) {
        state->init_hang = integer(value) != 0;
    } else if (strcmp(line, "driver_failure") == 0) {
        if (sscanf(value, "%u %d", &state->failure_number, &state->failure_code) != 2)
            refuse("no driver failure:", value);
    } else if (strcmp(line, "event") == 0) {
        parse_event(state, value);
    } else if ((rest = after(line, "price."))) {
        parse_price(state, rest, value);
    } else if ((rest = after(line, "error."))) {
        state->function_error[function_called(rest)] = (nvmlReturn_t)integer(value);
    } else if ((rest = after(line, "delay_us."))) {
        state->function_delay_us[function_called(rest)] = (uint64_t)integer(value);
    } else {
        refuse("unknown key", line);
    }
}

static struct state *read_state(FILE *file)
{
    struct state *state = calloc(1, sizeof *state);
    if (state == NULL)
        abort();
    state->listed = -1;
    char *line = NULL;
    size_t room = 0;
    unsigned hints[3] = {0};
    while (getline(&line, &room, file) >= 0)
        parse_line(state, line, hints);
    free(line);
    return state;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_ino == b->st_ino && a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

const struct state *state_acquire(void)
{
    const char *path = getenv("NVML_STUB_STATE");
    struct stat now;
    if (path == NULL || stat(path, &now) != 0)
        return NULL;
    pthread_mutex_lock(&lock);
    if (newest == NULL || !same_file(&now, &newest_file)) {
        FILE *file = fopen(path, "re");
        /* The file may have been replaced since: remember the one that is read. */
        if (file != NULL && fstat(fileno(file), &newest_file) == 0) {
            struct state *before = newest;
            newest = read_state(file);
            newest->users = 1;
            if (before != NULL && --before->users == 0)
                free(before);
        }
        if (file != NULL)
            fclose(file);
    }
    struct state *state = newest;
    if (state != NULL)
        state->users++;
    pthread_mutex_unlock(&lock);
    return state;
}

void state_release(const struct state *state)
{
    struct state *held = (struct state *)state;
    if (held == NULL)
        return;
    pthread_mutex_lock(&lock);
    if (--held->users == 0)
        free(held);
    pthread_mutex_unlock(&lock);
}

/* A process that unloads the library and loads it again must not grow by that. */
__attribute__((destructor)) static void forget(void)
{
    struct state *held = newest;
    newest = NULL;
    state_release(held);
}
