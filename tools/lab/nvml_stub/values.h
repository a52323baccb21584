/* The numbers that the state file may hold for a GPU, in NVML's own units. One that is missing is NOT_SUPPORTED. */
#ifndef VALUES_H
#define VALUES_H

#define VALUES(X)                                                                                                      \
    X(brand) X(architecture) X(compute_major) X(compute_minor) X(cores) X(minor_number)                                \
    X(pci_domain) X(pci_bus) X(pci_device) X(pci_device_id) X(pci_subsystem_id)                                        \
    X(fan_count) X(persistence_mode) X(compute_mode) X(display_mode) X(display_active)                                              \
    X(mig_mode) X(max_mig_devices) X(performance_state) X(recovery_action)                                             \
    X(utilization) X(memory_utilization) X(encoder_utilization) X(decoder_utilization)                                 \
    X(jpeg_utilization) X(ofa_utilization)                                                                             \
    X(memory_total) X(memory_reserved) X(memory_used) X(bar1_total) X(bar1_used)                                       \
    X(temperature) X(memory_temperature) X(temperature_margin)                                                         \
    X(limit_slowdown) X(limit_shutdown) X(limit_max_operating) X(limit_memory_max)                                     \
    X(tlimit_slowdown) X(tlimit_shutdown) X(tlimit_max_operating) X(tlimit_memory_max)                                 \
    X(power_instant) X(power_average) X(power_usage) X(power_limit) X(power_enforced_limit)                            \
    X(power_default_limit) X(power_min_limit) X(power_max_limit) X(energy)                                             \
    X(clock_graphics) X(clock_sm) X(clock_memory) X(clock_video)                                                       \
    X(clock_max_graphics) X(clock_max_sm) X(clock_max_memory) X(clock_max_video)                                       \
    X(event_reasons) X(supported_event_reasons)                                                                        \
    X(reason_ns_power) X(reason_ns_thermal) X(reason_ns_sync_boost) X(reason_ns_board_limit)                           \
    X(reason_ns_low_utilization) X(reason_ns_reliability)                                                              \
    X(reason_ns_sw_thermal) X(reason_ns_hw_thermal) X(reason_ns_power_brake)                                           \
    X(ecc_enabled) X(ecc_pending)                                                                                      \
    X(ecc_corrected_volatile_l1) X(ecc_corrected_volatile_l2) X(ecc_corrected_volatile_dram)                           \
    X(ecc_corrected_volatile_register) X(ecc_corrected_volatile_texture) X(ecc_corrected_volatile_cbu)                 \
    X(ecc_corrected_aggregate_l1) X(ecc_corrected_aggregate_l2) X(ecc_corrected_aggregate_dram)                        \
    X(ecc_corrected_aggregate_register) X(ecc_corrected_aggregate_texture) X(ecc_corrected_aggregate_cbu)              \
    X(ecc_uncorrected_volatile_l1) X(ecc_uncorrected_volatile_l2) X(ecc_uncorrected_volatile_dram)                     \
    X(ecc_uncorrected_volatile_register) X(ecc_uncorrected_volatile_texture) X(ecc_uncorrected_volatile_cbu)           \
    X(ecc_uncorrected_aggregate_l1) X(ecc_uncorrected_aggregate_l2) X(ecc_uncorrected_aggregate_dram)                  \
    X(ecc_uncorrected_aggregate_register) X(ecc_uncorrected_aggregate_texture) X(ecc_uncorrected_aggregate_cbu)        \
    X(sram_corrected_volatile) X(sram_corrected_aggregate) X(sram_parity_volatile) X(sram_parity_aggregate)            \
    X(sram_secded_volatile) X(sram_secded_aggregate) X(sram_threshold_exceeded)                                        \
    X(sram_bucket_l2) X(sram_bucket_sm) X(sram_bucket_pcie) X(sram_bucket_mcu) X(sram_bucket_other)                    \
    X(retired_sbe) X(retired_dbe) X(retired_pending)                                                                   \
    X(remapped_corrected) X(remapped_uncorrected) X(remap_pending) X(remap_failure)                                    \
    X(pcie_tx_bytes) X(pcie_rx_bytes) X(pcie_counter_bits) X(pcie_throughput_tx) X(pcie_throughput_rx)                 \
    X(pcie_throughput_ms) X(pcie_replays) X(pcie_generation) X(pcie_generation_max)                                    \
    X(pcie_width) X(pcie_width_max)                                                                                    \
    X(nvlink_generation) X(fabric_state) X(fabric_status) X(fabric_health) X(supported_events)                        \
    X(fabric_cluster) X(fabric_clique) X(repair_channel) X(repair_tpc)                                                 \
    X(platform_slot) X(platform_tray) X(platform_host) X(platform_module)

/* Lists with one number a fan or a link. */
#define LISTS(X)                                                                                                       \
    X(fan_speeds) X(nvlink_states) X(nvlink_tx) X(nvlink_rx) X(nvlink_crc_flit) X(nvlink_crc_data)                     \
    X(nvlink_replay) X(nvlink_recovery) X(nvlink_symbol) X(remap_banks) X(fan_rpms)

#define STRINGS(X) X(name) X(uuid) X(serial) X(vbios_version) X(pci_bus_id) X(chassis_serial)

#define AS_VALUE(name) V_##name,
#define AS_LIST(name) L_##name,
#define AS_STRING(name) S_##name,
enum value { VALUES(AS_VALUE) V_COUNT };
enum list { LISTS(AS_LIST) L_COUNT };
enum string { STRINGS(AS_STRING) S_COUNT };
#undef AS_VALUE
#undef AS_LIST
#undef AS_STRING

#endif
