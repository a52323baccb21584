/* nvmlDeviceGetFieldValues, and the NVLink calls that read the same lists. */
#include "stub.h"

/* Fields that answer one of the GPU's numbers. */
static const struct {
    unsigned field;
    enum value value;
    unsigned type;
} FIELDS[] = {
    {1, V_ecc_enabled, VALUE_UNSIGNED_INT},
    {2, V_ecc_pending, VALUE_UNSIGNED_INT},
    {7, V_ecc_corrected_volatile_l1, VALUE_UNSIGNED_LONG_LONG},
    {8, V_ecc_uncorrected_volatile_l1, VALUE_UNSIGNED_LONG_LONG},
    {9, V_ecc_corrected_volatile_l2, VALUE_UNSIGNED_LONG_LONG},
    {10, V_ecc_uncorrected_volatile_l2, VALUE_UNSIGNED_LONG_LONG},
    {11, V_ecc_corrected_volatile_dram, VALUE_UNSIGNED_LONG_LONG},
    {12, V_ecc_uncorrected_volatile_dram, VALUE_UNSIGNED_LONG_LONG},
    {13, V_ecc_corrected_volatile_register, VALUE_UNSIGNED_LONG_LONG},
    {14, V_ecc_uncorrected_volatile_register, VALUE_UNSIGNED_LONG_LONG},
    {15, V_ecc_corrected_volatile_texture, VALUE_UNSIGNED_LONG_LONG},
    {16, V_ecc_uncorrected_volatile_texture, VALUE_UNSIGNED_LONG_LONG},
    {17, V_ecc_uncorrected_volatile_cbu, VALUE_UNSIGNED_LONG_LONG},
    {18, V_ecc_corrected_aggregate_l1, VALUE_UNSIGNED_LONG_LONG},
    {19, V_ecc_uncorrected_aggregate_l1, VALUE_UNSIGNED_LONG_LONG},
    {20, V_ecc_corrected_aggregate_l2, VALUE_UNSIGNED_LONG_LONG},
    {21, V_ecc_uncorrected_aggregate_l2, VALUE_UNSIGNED_LONG_LONG},
    {22, V_ecc_corrected_aggregate_dram, VALUE_UNSIGNED_LONG_LONG},
    {23, V_ecc_uncorrected_aggregate_dram, VALUE_UNSIGNED_LONG_LONG},
    {24, V_ecc_corrected_aggregate_register, VALUE_UNSIGNED_LONG_LONG},
    {25, V_ecc_uncorrected_aggregate_register, VALUE_UNSIGNED_LONG_LONG},
    {26, V_ecc_corrected_aggregate_texture, VALUE_UNSIGNED_LONG_LONG},
    {27, V_ecc_uncorrected_aggregate_texture, VALUE_UNSIGNED_LONG_LONG},
    {28, V_ecc_uncorrected_aggregate_cbu, VALUE_UNSIGNED_LONG_LONG},
    {29, V_retired_sbe, VALUE_UNSIGNED_INT},
    {30, V_retired_dbe, VALUE_UNSIGNED_INT},
    {31, V_retired_pending, VALUE_UNSIGNED_INT},
    {74, V_reason_ns_power, VALUE_UNSIGNED_LONG_LONG},
    {75, V_reason_ns_thermal, VALUE_UNSIGNED_LONG_LONG},
    {76, V_reason_ns_sync_boost, VALUE_UNSIGNED_LONG_LONG},
    {77, V_reason_ns_board_limit, VALUE_UNSIGNED_LONG_LONG},
    {78, V_reason_ns_low_utilization, VALUE_UNSIGNED_LONG_LONG},
    {79, V_reason_ns_reliability, VALUE_UNSIGNED_LONG_LONG},
    {82, V_memory_temperature, VALUE_UNSIGNED_INT},
    {83, V_energy, VALUE_UNSIGNED_LONG_LONG},
    {94, V_pcie_replays, VALUE_UNSIGNED_INT},
    {142, V_remapped_corrected, VALUE_UNSIGNED_INT},
    {143, V_remapped_uncorrected, VALUE_UNSIGNED_INT},
    {144, V_remap_pending, VALUE_UNSIGNED_INT},
    {145, V_remap_failure, VALUE_UNSIGNED_INT},
    {185, V_power_average, VALUE_UNSIGNED_INT},
    {186, V_power_instant, VALUE_UNSIGNED_INT},
    {187, V_power_min_limit, VALUE_UNSIGNED_INT},
    {188, V_power_max_limit, VALUE_UNSIGNED_INT},
    {189, V_power_default_limit, VALUE_UNSIGNED_INT},
    {190, V_power_enforced_limit, VALUE_UNSIGNED_INT},
    {193, V_tlimit_shutdown, VALUE_SIGNED_INT},
    {194, V_tlimit_slowdown, VALUE_SIGNED_INT},
    {195, V_tlimit_memory_max, VALUE_SIGNED_INT},
    {196, V_tlimit_max_operating, VALUE_SIGNED_INT},
    {197, V_pcie_tx_bytes, VALUE_UNSIGNED_LONG_LONG},
    {198, V_pcie_rx_bytes, VALUE_UNSIGNED_LONG_LONG},
    {230, V_recovery_action, VALUE_UNSIGNED_INT},
};

/* Fields that answer a list: for one link, or all links summed up. `from` and `to` are NVLink generations. */
static const struct {
    unsigned field;
    enum list list;
    bool total; /* the field is the sum, whatever the scope */
    int from, to;
    uint64_t unit; /* the lists hold bytes and plain counts */
} LINK_FIELDS[] = {
    {38, L_nvlink_crc_flit, true, 1, 3, 1},   {45, L_nvlink_crc_data, true, 1, 3, 1},
    {52, L_nvlink_replay, true, 1, 3, 1},     {59, L_nvlink_recovery, true, 1, 3, 1},
    {138, L_nvlink_tx, false, 1, 4, 1024},    {139, L_nvlink_rx, false, 1, 4, 1024},
    {140, L_nvlink_tx, false, 1, 4, 1024},    {141, L_nvlink_rx, false, 1, 4, 1024},
    {161, L_nvlink_replay, false, 4, 99, 1},  {162, L_nvlink_recovery, false, 4, 99, 1},
    {163, L_nvlink_crc_flit, false, 4, 99, 1}, {165, L_nvlink_states, false, 4, 99, 1},
    {202, L_nvlink_tx, false, 5, 99, 1},      {204, L_nvlink_rx, false, 5, 99, 1},
    {215, L_nvlink_recovery, false, 5, 99, 1}, {221, L_nvlink_symbol, false, 5, 99, 1},
};

static const struct number_list *links(const struct call *call, enum list list)
{
    const struct number_list *numbers = &call->gpu->lists[list];
    return numbers->present ? numbers : NULL;
}

static nvmlReturn_t link_value(const struct number_list *numbers, unsigned scope, uint64_t *answer)
{
    if (numbers == NULL)
        return NVML_ERROR_NOT_SUPPORTED;
    if (scope != ALL_SCOPES) {
        if (scope >= numbers->count)
            return NVML_ERROR_INVALID_ARGUMENT;
        *answer = (uint64_t)numbers->numbers[scope];
        return NVML_SUCCESS;
    }
    *answer = 0;
    for (unsigned i = 0; i < numbers->count; i++)
        *answer += (uint64_t)numbers->numbers[i];
    return NVML_SUCCESS;
}

/* A double comes as its 64 bits. */
static void set_value(nvmlFieldValue_t *field, unsigned type, int64_t wide)
{
    field->value_type = type;
    switch (type) {
    case VALUE_DOUBLE:
    case VALUE_UNSIGNED_LONG:
    case VALUE_UNSIGNED_LONG_LONG:
    case VALUE_SIGNED_LONG_LONG:
        field->value.u64 = (unsigned long long)wide;
        break;
    case VALUE_SIGNED_INT:
        field->value.i32 = (int)wide;
        break;
    case VALUE_UNSIGNED_SHORT:
        field->value.u16 = (unsigned short)wide;
        break;
    default:
        field->value.u32 = (unsigned)wide;
    }
}

static nvmlReturn_t answer_number(const struct call *call, enum value value, unsigned type, nvmlFieldValue_t *field)
{
    int64_t wide;
    nvmlReturn_t status = number(call, value, &wide);
    if (status != NVML_SUCCESS)
        return status;
    bool narrow = value == V_pcie_tx_bytes || value == V_pcie_rx_bytes;
    if (narrow && call->gpu->values[V_pcie_counter_bits] == 32)
        type = VALUE_UNSIGNED_INT;
    set_value(field, type, wide);
    return NVML_SUCCESS;
}

/* Drivers 575 to 579 number the three counters 251 to 253, drivers from 580 on (an H200 of 580.159) 269 to 271. */
static nvmlReturn_t answer_renumbered(const struct call *call, nvmlFieldValue_t *field)
{
    static const enum value REASONS[] = {V_reason_ns_sw_thermal, V_reason_ns_hw_thermal, V_reason_ns_power_brake};
    int major = session_now().driver_major;
    unsigned first = major >= 580 ? 269 : 251;
    if (major < 575 || field->field < first || field->field > first + 2)
        return NVML_ERROR_NOT_SUPPORTED;
    return answer_number(call, REASONS[field->field - first], VALUE_UNSIGNED_LONG_LONG, field);
}

static nvmlReturn_t answer_link_field(const struct call *call, unsigned at, nvmlFieldValue_t *field)
{
    int64_t generation = call->gpu->values[V_nvlink_generation];
    if (generation < LINK_FIELDS[at].from || generation > LINK_FIELDS[at].to)
        return NVML_ERROR_NOT_SUPPORTED;
    uint64_t sum;
    unsigned scope = LINK_FIELDS[at].total ? ALL_SCOPES : field->scope;
    nvmlReturn_t status = link_value(links(call, LINK_FIELDS[at].list), scope, &sum);
    if (status == NVML_SUCCESS) {
        field->value_type = VALUE_UNSIGNED_LONG_LONG;
        field->value.u64 = sum / LINK_FIELDS[at].unit;
    }
    return status;
}

static nvmlReturn_t answer_field(const struct call *call, nvmlFieldValue_t *field)
{
    const struct gpu *gpu = call->gpu;
    for (unsigned i = 0; i < gpu->field_count; i++) {
        const struct field_override *override = &gpu->fields[i];
        if (override->field == field->field && (override->scope == ALL_SCOPES || override->scope == field->scope)) {
            set_value(field, override->type, override->value);
            return override->error;
        }
    }
    for (unsigned i = 0; i < sizeof FIELDS / sizeof *FIELDS; i++)
        if (FIELDS[i].field == field->field)
            return answer_number(call, FIELDS[i].value, FIELDS[i].type, field);
    for (unsigned i = 0; i < sizeof LINK_FIELDS / sizeof *LINK_FIELDS; i++)
        if (LINK_FIELDS[i].field == field->field)
            return answer_link_field(call, i, field);
    if (field->field == 91 && gpu->lists[L_nvlink_states].present) {
        field->value_type = VALUE_UNSIGNED_INT;
        field->value.u32 = gpu->lists[L_nvlink_states].count;
        return NVML_SUCCESS;
    }
    return answer_renumbered(call, field);
}

API nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *fields)
{
    CALL(nvmlDeviceGetFieldValues, device, PHYSICAL);
    if (count <= 0 || fields == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    int64_t now = (int64_t)now_us(call.state);
    for (int i = 0; i < count; i++) {
        fields[i].timestamp = now;
        fields[i].latency = 0;
        charge_field(&call, fields[i].field);
        fields[i].status = answer_field(&call, &fields[i]);
    }
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned link, unsigned *active)
{
    CALL(nvmlDeviceGetNvLinkState, device, PHYSICAL);
    uint64_t state;
    nvmlReturn_t status =
        link < MAX_LINKS ? link_value(links(&call, L_nvlink_states), link, &state) : NVML_ERROR_INVALID_ARGUMENT;
    if (status == NVML_SUCCESS)
        *active = state != 0;
    return status;
}

API nvmlReturn_t nvmlDeviceGetNvLinkVersion(nvmlDevice_t device, unsigned link, unsigned *version)
{
    CALL(nvmlDeviceGetNvLinkVersion, device, PHYSICAL);
    if (link >= call.gpu->lists[L_nvlink_states].count)
        return call.gpu->lists[L_nvlink_states].present ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_NOT_SUPPORTED;
    return number_u32(&call, V_nvlink_generation, version);
}

API nvmlReturn_t nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t device, unsigned link, unsigned counter,
                                                 unsigned long long *errors)
{
    static const enum list COUNTERS[] = {L_nvlink_replay, L_nvlink_recovery, L_nvlink_crc_flit, L_nvlink_crc_data};
    CALL(nvmlDeviceGetNvLinkErrorCounter, device, PHYSICAL);
    if (counter >= sizeof COUNTERS / sizeof *COUNTERS || link >= MAX_LINKS)
        return NVML_ERROR_INVALID_ARGUMENT;
    uint64_t sum;
    nvmlReturn_t status = link_value(links(&call, COUNTERS[counter]), link, &sum);
    if (status == NVML_SUCCESS)
        *errors = sum;
    return status;
}
