/* Every exported function: the order of the call counters, and the names that the state file may slow down or fail. */
#ifndef FUNCTIONS_H
#define FUNCTIONS_H

#define FUNCTIONS(X)                                                                                                   \
    X(nvmlInit_v2) X(nvmlInitWithFlags) X(nvmlShutdown)                                                                \
    X(nvmlSystemGetDriverVersion) X(nvmlSystemGetNVMLVersion)                                                          \
    X(nvmlSystemGetCudaDriverVersion) X(nvmlSystemGetCudaDriverVersion_v2)                                             \
    X(nvmlDeviceGetCount_v2) X(nvmlDeviceGetHandleByIndex_v2) X(nvmlDeviceGetHandleByUUID)                             \
    X(nvmlDeviceGetHandleBySerial) X(nvmlDeviceGetHandleByPciBusId_v2)                                                 \
    X(nvmlDeviceGetName) X(nvmlDeviceGetUUID) X(nvmlDeviceGetSerial) X(nvmlDeviceGetVbiosVersion)                      \
    X(nvmlDeviceGetBrand) X(nvmlDeviceGetArchitecture) X(nvmlDeviceGetPciInfo_v3) X(nvmlDeviceGetIndex)                \
    X(nvmlDeviceGetMinorNumber) X(nvmlDeviceGetCudaComputeCapability) X(nvmlDeviceGetNumGpuCores)                      \
    X(nvmlDeviceGetNumFans) X(nvmlDeviceGetFanSpeed) X(nvmlDeviceGetFanSpeed_v2)                                       \
    X(nvmlDeviceGetFanSpeedRPM)                                                                                        \
    X(nvmlDeviceGetUtilizationRates) X(nvmlDeviceGetEncoderUtilization) X(nvmlDeviceGetDecoderUtilization)             \
    X(nvmlDeviceGetJpgUtilization) X(nvmlDeviceGetOfaUtilization)                                                      \
    X(nvmlDeviceGetMemoryInfo) X(nvmlDeviceGetMemoryInfo_v2) X(nvmlDeviceGetBAR1MemoryInfo)                            \
    X(nvmlDeviceGetTemperature) X(nvmlDeviceGetTemperatureV) X(nvmlDeviceGetTemperatureThreshold)                      \
    X(nvmlDeviceGetMarginTemperature)                                                                                  \
    X(nvmlDeviceGetPowerUsage) X(nvmlDeviceGetPowerManagementLimit) X(nvmlDeviceGetPowerManagementDefaultLimit)        \
    X(nvmlDeviceGetPowerManagementLimitConstraints) X(nvmlDeviceGetEnforcedPowerLimit)                                 \
    X(nvmlDeviceGetTotalEnergyConsumption)                                                                             \
    X(nvmlDeviceGetClockInfo) X(nvmlDeviceGetMaxClockInfo) X(nvmlDeviceGetPerformanceState)                            \
    X(nvmlDeviceGetPowerState) X(nvmlDeviceGetCurrentClocksEventReasons)                                               \
    X(nvmlDeviceGetCurrentClocksThrottleReasons) X(nvmlDeviceGetSupportedClocksEventReasons)                           \
    X(nvmlDeviceGetSupportedClocksThrottleReasons) X(nvmlDeviceGetViolationStatus)                                     \
    X(nvmlDeviceGetEccMode) X(nvmlDeviceGetTotalEccErrors) X(nvmlDeviceGetDetailedEccErrors)                           \
    X(nvmlDeviceGetMemoryErrorCounter) X(nvmlDeviceGetSramEccErrorStatus)                                              \
    X(nvmlDeviceGetRetiredPages) X(nvmlDeviceGetRetiredPages_v2) X(nvmlDeviceGetRetiredPagesPendingStatus)             \
    X(nvmlDeviceGetRemappedRows) X(nvmlDeviceGetRowRemapperHistogram) X(nvmlDeviceGetRepairStatus)                     \
    X(nvmlDeviceGetPlatformInfo)                                                                                       \
    X(nvmlDeviceGetPcieReplayCounter) X(nvmlDeviceGetPcieThroughput) X(nvmlDeviceGetCurrPcieLinkGeneration)            \
    X(nvmlDeviceGetMaxPcieLinkGeneration) X(nvmlDeviceGetCurrPcieLinkWidth) X(nvmlDeviceGetMaxPcieLinkWidth)           \
    X(nvmlDeviceGetNvLinkState) X(nvmlDeviceGetNvLinkVersion) X(nvmlDeviceGetNvLinkErrorCounter)                       \
    X(nvmlDeviceGetGpuFabricInfo) X(nvmlDeviceGetGpuFabricInfoV)                                                       \
    X(nvmlDeviceGetPersistenceMode) X(nvmlDeviceGetComputeMode) X(nvmlDeviceGetDisplayMode)                            \
    X(nvmlDeviceGetDisplayActive) X(nvmlDeviceGetDriverModel) X(nvmlDeviceGetDriverModel_v2)                           \
    X(nvmlDeviceGetMigMode) X(nvmlDeviceGetMaxMigDeviceCount) X(nvmlDeviceGetMigDeviceHandleByIndex)                   \
    X(nvmlDeviceIsMigDeviceHandle) X(nvmlDeviceGetDeviceHandleFromMigDeviceHandle) X(nvmlDeviceGetGpuInstanceId)       \
    X(nvmlDeviceGetComputeInstanceId) X(nvmlDeviceGetAttributes_v2)                                                    \
    X(nvmlDeviceGetFieldValues) X(nvmlDeviceGetSamples) X(nvmlDeviceGetProcessUtilization)                             \
    X(nvmlDeviceGetComputeRunningProcesses) X(nvmlDeviceGetComputeRunningProcesses_v2)                                 \
    X(nvmlDeviceGetComputeRunningProcesses_v3)                                                                         \
    X(nvmlDeviceGetGraphicsRunningProcesses) X(nvmlDeviceGetGraphicsRunningProcesses_v2)                               \
    X(nvmlDeviceGetGraphicsRunningProcesses_v3)                                                                        \
    X(nvmlDeviceGetMPSComputeRunningProcesses) X(nvmlDeviceGetMPSComputeRunningProcesses_v2)                           \
    X(nvmlDeviceGetMPSComputeRunningProcesses_v3) X(nvmlDeviceGetRunningProcessDetailList)                             \
    X(nvmlEventSetCreate) X(nvmlDeviceRegisterEvents) X(nvmlDeviceGetSupportedEventTypes)                              \
    X(nvmlEventSetWait_v2) X(nvmlEventSetFree)                                                                         \
    X(nvmlGpmQueryDeviceSupport) X(nvmlGpmSampleAlloc) X(nvmlGpmSampleFree) X(nvmlGpmSampleGet)                        \
    X(nvmlGpmMigSampleGet) X(nvmlGpmMetricsGet)

#define AS_ENUM(name) F_##name,
enum function { FUNCTIONS(AS_ENUM) F_COUNT };
#undef AS_ENUM

#endif
