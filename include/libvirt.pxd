# What libvirt's headers declare and this package uses, in the headers' own order.
# cimport it as lib, so that every crossing into libvirt reads as one.

cdef extern from "<libvirt/libvirt.h>" nogil:
    # libvirt-host.h, types
    ctypedef struct virConnect
    ctypedef virConnect *virConnectPtr

    enum:
        VIR_SECURITY_MODEL_BUFLEN
        VIR_SECURITY_DOI_BUFLEN
        VIR_NODE_CPU_STATS_FIELD_LENGTH
        VIR_NODE_CPU_STATS_ALL_CPUS
        VIR_NODE_MEMORY_STATS_ALL_CELLS
        VIR_CONNECT_RO

    ctypedef struct virSecurityModel:
        char model[VIR_SECURITY_MODEL_BUFLEN]
        char doi[VIR_SECURITY_DOI_BUFLEN]

    ctypedef struct virNodeInfo:
        char model[32]
        unsigned long memory
        unsigned int cpus
        unsigned int mhz
        unsigned int nodes
        unsigned int sockets
        unsigned int cores
        unsigned int threads

    ctypedef struct virNodeCPUStats:
        char field[VIR_NODE_CPU_STATS_FIELD_LENGTH]
        unsigned long long value
    ctypedef virNodeCPUStats *virNodeCPUStatsPtr

    ctypedef struct virNodeMemoryStats:
        char field[VIR_NODE_CPU_STATS_FIELD_LENGTH]
        unsigned long long value
    ctypedef virNodeMemoryStats *virNodeMemoryStatsPtr

    ctypedef struct virConnectCredential:
        int type
        const char *prompt
        const char *challenge
        const char *defresult
        char *result
        unsigned int resultlen
    ctypedef virConnectCredential *virConnectCredentialPtr

    ctypedef int (*virConnectAuthCallbackPtr)(virConnectCredentialPtr cred, unsigned int ncred,
                                              void *cbdata)

    ctypedef struct virConnectAuth:
        int *credtype
        unsigned int ncredtype
        virConnectAuthCallbackPtr cb
        void *cbdata
    ctypedef virConnectAuth *virConnectAuthPtr

    virConnectAuthPtr virConnectAuthPtrDefault

    # libvirt-common.h
    enum:
        VIR_TYPED_PARAM_INT
        VIR_TYPED_PARAM_UINT
        VIR_TYPED_PARAM_LLONG
        VIR_TYPED_PARAM_ULLONG
        VIR_TYPED_PARAM_DOUBLE
        VIR_TYPED_PARAM_BOOLEAN
        VIR_TYPED_PARAM_STRING
        VIR_TYPED_PARAM_FIELD_LENGTH

    # C leaves this union without a name: read its members in place, never copy it whole.
    ctypedef union virTypedParameterValue:
        int i
        unsigned int ui
        long long int l
        unsigned long long int ul
        double d
        char b
        char *s

    ctypedef struct virTypedParameter:
        char field[VIR_TYPED_PARAM_FIELD_LENGTH]
        int type
        virTypedParameterValue value
    ctypedef virTypedParameter *virTypedParameterPtr

    int virTypedParamsAddInt(virTypedParameterPtr *params, int *nparams, int *maxparams,
                             const char *name, int value)
    int virTypedParamsAddUInt(virTypedParameterPtr *params, int *nparams, int *maxparams,
                              const char *name, unsigned int value)
    int virTypedParamsAddLLong(virTypedParameterPtr *params, int *nparams, int *maxparams,
                               const char *name, long long value)
    int virTypedParamsAddULLong(virTypedParameterPtr *params, int *nparams, int *maxparams,
                                const char *name, unsigned long long value)
    int virTypedParamsAddDouble(virTypedParameterPtr *params, int *nparams, int *maxparams,
                                const char *name, double value)
    int virTypedParamsAddBoolean(virTypedParameterPtr *params, int *nparams, int *maxparams,
                                 const char *name, int value)
    int virTypedParamsAddString(virTypedParameterPtr *params, int *nparams, int *maxparams,
                                const char *name, const char *value)
    void virTypedParamsClear(virTypedParameterPtr params, int nparams)
    void virTypedParamsFree(virTypedParameterPtr params, int nparams)

    ctypedef void (*virFreeCallback)(void *opaque) noexcept nogil

    # libvirt-host.h, functions
    int virNodeGetMemoryParameters(virConnectPtr conn, virTypedParameterPtr params, int *nparams,
                                   unsigned int flags)
    int virNodeSetMemoryParameters(virConnectPtr conn, virTypedParameterPtr params, int nparams,
                                   unsigned int flags)
    int virNodeGetCPUMap(virConnectPtr conn, unsigned char **cpumap, unsigned int *online,
                         unsigned int flags)
    int virNodeGetSEVInfo(virConnectPtr conn, virTypedParameterPtr *params, int *nparams,
                          unsigned int flags)
    int virGetVersion(unsigned long *libVer, const char *type, unsigned long *typeVer)
    int virInitialize()
    virConnectPtr virConnectOpenAuth(const char *name, virConnectAuthPtr auth, unsigned int flags)
    int virConnectRef(virConnectPtr conn)
    int virConnectClose(virConnectPtr conn)
    int virConnectSetIdentity(virConnectPtr conn, virTypedParameterPtr params, int nparams,
                              unsigned int flags)
    const char *virConnectGetType(virConnectPtr conn)
    int virConnectGetVersion(virConnectPtr conn, unsigned long *hvVer)
    int virConnectGetLibVersion(virConnectPtr conn, unsigned long *libVer)
    char *virConnectGetHostname(virConnectPtr conn)
    char *virConnectGetURI(virConnectPtr conn)
    char *virConnectGetSysinfo(virConnectPtr conn, unsigned int flags)
    int virConnectSetKeepAlive(virConnectPtr conn, int interval, unsigned int count)
    ctypedef void (*virConnectCloseFunc)(virConnectPtr conn, int reason, void *opaque)
    int virConnectRegisterCloseCallback(virConnectPtr conn, virConnectCloseFunc cb, void *opaque,
                                        virFreeCallback freecb)
    int virConnectUnregisterCloseCallback(virConnectPtr conn, virConnectCloseFunc cb)
    int virConnectGetMaxVcpus(virConnectPtr conn, const char *type)
    int virNodeGetInfo(virConnectPtr conn, virNodeInfo *info)
    char *virConnectGetCapabilities(virConnectPtr conn)
    int virNodeGetCPUStats(virConnectPtr conn, int cpuNum, virNodeCPUStatsPtr params,
                           int *nparams, unsigned int flags)
    int virNodeGetMemoryStats(virConnectPtr conn, int cellNum, virNodeMemoryStatsPtr params,
                              int *nparams, unsigned int flags)
    unsigned long long virNodeGetFreeMemory(virConnectPtr conn)
    int virNodeGetSecurityModel(virConnectPtr conn, virSecurityModel *secmodel)
    int virNodeSuspendForDuration(virConnectPtr conn, unsigned int target,
                                  unsigned long long duration, unsigned int flags)
    int virNodeGetCellsFreeMemory(virConnectPtr conn, unsigned long long *freeMems, int startCell,
                                  int maxCells)
    int virConnectIsEncrypted(virConnectPtr conn)
    int virConnectIsSecure(virConnectPtr conn)
    int virConnectIsAlive(virConnectPtr conn)
    int virConnectCompareCPU(virConnectPtr conn, const char *xmlDesc, unsigned int flags)
    int virConnectCompareHypervisorCPU(virConnectPtr conn, const char *emulator, const char *arch,
                                       const char *machine, const char *virttype,
                                       const char *xmlCPU, unsigned int flags)
    int virConnectGetCPUModelNames(virConnectPtr conn, const char *arch, char ***models,
                                   unsigned int flags)
    char *virConnectBaselineCPU(virConnectPtr conn, const char **xmlCPUs, unsigned int ncpus,
                                unsigned int flags)
    char *virConnectBaselineHypervisorCPU(virConnectPtr conn, const char *emulator,
                                          const char *arch, const char *machine,
                                          const char *virttype, const char **xmlCPUs,
                                          unsigned int ncpus, unsigned int flags)
    int virNodeGetFreePages(virConnectPtr conn, unsigned int npages, unsigned int *pages,
                            int startcell, unsigned int cellcount, unsigned long long *counts,
                            unsigned int flags)
    int virNodeAllocPages(virConnectPtr conn, unsigned int npages, unsigned int *pageSizes,
                          unsigned long long *pageCounts, int startCell, unsigned int cellCount,
                          unsigned int flags)

    # libvirt-event.h
    enum:
        VIR_EVENT_HANDLE_READABLE
        VIR_EVENT_HANDLE_WRITABLE
        VIR_EVENT_HANDLE_ERROR
        VIR_EVENT_HANDLE_HANGUP
    ctypedef void (*virEventHandleCallback)(int watch, int fd, int events,
                                            void *opaque) noexcept nogil
    ctypedef int (*virEventAddHandleFunc)(int fd, int event, virEventHandleCallback cb,
                                          void *opaque, virFreeCallback ff) noexcept nogil
    ctypedef void (*virEventUpdateHandleFunc)(int watch, int event) noexcept nogil
    ctypedef int (*virEventRemoveHandleFunc)(int watch) noexcept nogil
    ctypedef void (*virEventTimeoutCallback)(int timer, void *opaque) noexcept nogil
    ctypedef int (*virEventAddTimeoutFunc)(int timeout, virEventTimeoutCallback cb, void *opaque,
                                           virFreeCallback ff) noexcept nogil
    ctypedef void (*virEventUpdateTimeoutFunc)(int timer, int timeout) noexcept nogil
    ctypedef int (*virEventRemoveTimeoutFunc)(int timer) noexcept nogil
    void virEventRegisterImpl(virEventAddHandleFunc addHandle,
                              virEventUpdateHandleFunc updateHandle,
                              virEventRemoveHandleFunc removeHandle,
                              virEventAddTimeoutFunc addTimeout,
                              virEventUpdateTimeoutFunc updateTimeout,
                              virEventRemoveTimeoutFunc removeTimeout)
    int virEventAddTimeout(int frequency, virEventTimeoutCallback cb, void *opaque,
                           virFreeCallback ff)
    int virEventRemoveTimeout(int timer)

    # libvirt-domain.h
    int VIR_CPU_MAPLEN(int cpu)
    int VIR_CPU_USED(const unsigned char *cpumap, int cpu)


cdef extern from "<libvirt/virterror.h>" nogil:
    enum:
        VIR_FROM_NONE
        VIR_FROM_RPC
        VIR_FROM_URI
        VIR_FROM_AUTH

    enum:
        VIR_ERR_ERROR

    enum:
        VIR_ERR_OK
        VIR_ERR_INTERNAL_ERROR
        VIR_ERR_NO_SUPPORT
        VIR_ERR_NO_CONNECT
        VIR_ERR_INVALID_CONN
        VIR_ERR_INVALID_ARG
        VIR_ERR_OPERATION_FAILED
        VIR_ERR_OPERATION_DENIED
        VIR_ERR_RPC
        VIR_ERR_AUTH_FAILED
        VIR_ERR_CONFIG_UNSUPPORTED
        VIR_ERR_OPERATION_TIMEOUT
        VIR_ERR_ARGUMENT_UNSUPPORTED
        VIR_ERR_AUTH_CANCELLED
        VIR_ERR_OPERATION_UNSUPPORTED
        VIR_ERR_ACCESS_DENIED
        VIR_ERR_CPU_INCOMPATIBLE
        VIR_ERR_AUTH_UNAVAILABLE

    ctypedef struct virError:
        int code
        int domain
        char *message
        int level
        char *str1
        char *str2
        char *str3
        int int1
        int int2
    ctypedef virError *virErrorPtr
    ctypedef void (*virErrorFunc)(void *userData, virErrorPtr error)

    virErrorPtr virSaveLastError()
    void virFreeError(virErrorPtr err)
    int virGetLastErrorCode()
    void virSetErrorFunc(void *userData, virErrorFunc handler)
