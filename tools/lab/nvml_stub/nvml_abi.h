/* The part of NVML's binary interface that the stand-in answers: layouts as the ctypes structures of NVIDIA's Python
 * binding (module pynvml) describe them. */
#ifndef NVML_ABI_H
#define NVML_ABI_H

#include <stdint.h>

#define API __attribute__((visibility("default")))

typedef int nvmlReturn_t;
typedef struct device_handle *nvmlDevice_t;
typedef struct event_set *nvmlEventSet_t;
typedef struct gpm_sample *nvmlGpmSample_t;

enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_DRIVER_NOT_LOADED = 9,
    NVML_ERROR_TIMEOUT = 10,
    NVML_ERROR_GPU_IS_LOST = 15,
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18,
    NVML_ERROR_MEMORY = 20,
    NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
};

enum {
    VALUE_DOUBLE = 0,
    VALUE_UNSIGNED_INT = 1,
    VALUE_UNSIGNED_LONG = 2,
    VALUE_UNSIGNED_LONG_LONG = 3,
    VALUE_SIGNED_LONG_LONG = 4,
    VALUE_SIGNED_INT = 5,
    VALUE_UNSIGNED_SHORT = 6,
};

#define ALL_SCOPES 0xFFFFFFFFu
#define NO_INSTANCE 0xFFFFFFFFu

typedef union {
    double real;
    unsigned u32;
    unsigned long long u64;
    int i32;
    unsigned short u16;
} nvmlValue_t;

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} nvmlPciInfo_t;

typedef struct {
    unsigned long long total, free, used;
} nvmlMemory_t;

typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} nvmlMemory_v2_t;

typedef struct {
    unsigned long long total, free, used;
} nvmlBAR1Memory_t;

typedef struct {
    unsigned gpu, memory;
} nvmlUtilization_t;

typedef struct {
    unsigned version, sensor;
    int temperature;
} nvmlTemperature_v1_t;

typedef struct {
    unsigned version;
    int margin;
} nvmlMarginTemperature_v1_t;

typedef struct {
    unsigned version, fan, speed;
} nvmlFanSpeedInfo_v1_t;

typedef struct {
    unsigned pid;
    unsigned long long used;
} nvmlProcessInfo_v1_t;

typedef struct {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
} nvmlProcessInfo_v2_t;

typedef struct {
    unsigned pid;
    unsigned long long time;
    unsigned sm, memory, encoder, decoder;
} nvmlProcessUtilizationSample_t;

typedef struct {
    unsigned long long time;
    nvmlValue_t value;
} nvmlSample_t;

typedef struct {
    uint32_t field, scope;
    int64_t timestamp, latency;
    unsigned value_type;
    nvmlReturn_t status;
    nvmlValue_t value;
} nvmlFieldValue_t;

typedef struct {
    unsigned long long l1_cache, l2_cache, device_memory, register_file;
} nvmlEccErrorCounts_t;

typedef struct {
    unsigned version;
    unsigned long long aggregate_parity, aggregate_secded, aggregate_corrected;
    unsigned long long volatile_parity, volatile_secded, volatile_corrected;
    unsigned long long bucket_l2, bucket_sm, bucket_pcie, bucket_mcu, bucket_other;
    unsigned threshold_exceeded;
} nvmlEccSramErrorStatus_v1_t;

typedef struct {
    unsigned long long reference, violation;
} nvmlViolationTime_t;

typedef struct {
    unsigned char cluster[16];
    nvmlReturn_t status;
    uint32_t clique;
    unsigned char state;
} nvmlGpuFabricInfo_t;

typedef struct {
    unsigned version;
    unsigned char cluster[16];
    nvmlReturn_t status;
    uint32_t clique;
    unsigned char state;
    uint32_t health;
} nvmlGpuFabricInfo_v2_t;

typedef struct {
    unsigned max, high, partial, low, none;
} nvmlRowRemapperHistogramValues_t;

typedef struct {
    unsigned version, channel_pending, tpc_pending;
} nvmlRepairStatus_v1_t;

typedef struct {
    unsigned version;
    unsigned char ib_guid[16], chassis_serial[16];
    unsigned char slot, tray, host, peer_type, module;
} nvmlPlatformInfo_v2_t;

typedef struct {
    unsigned multiprocessors, copy_engines, decoders, encoders, jpegs, ofas, gpu_slices, compute_slices;
    unsigned long long memory_mib;
} nvmlDeviceAttributes_t;

typedef struct {
    nvmlDevice_t device;
    unsigned long long type, data;
    unsigned gpu_instance, compute_instance;
} nvmlEventData_t;

typedef struct {
    unsigned metric;
    nvmlReturn_t status;
    double value;
    const char *short_name, *long_name, *unit;
} nvmlGpmMetric_t;

typedef struct {
    unsigned version, count;
    nvmlGpmSample_t first, second;
    nvmlGpmMetric_t metrics[];
} nvmlGpmMetricsGet_t;

typedef struct {
    unsigned version, supported;
} nvmlGpmSupport_t;

#endif
