"""libvirt's errors as Python exceptions.

The only place that makes them, and the only place that silences libvirt's own printing.
"""

cimport libvirt as lib
from libc.stdlib cimport free

from pyvirhost._readings cimport (FIELD_COUNT, FREE_MEMORY, MAX_CELLS, MAX_CPUS, NO_MEMORY,
                                  NO_ROWS, OTHER_FIELDS, PER_CELL_MEMORY_STATS, PER_CPU_STATS,
                                  READ, REFUSED, SHORT_MAP, TOO_MANY_CPUS, Readings)


class LibvirtError(Exception):
    """An error that libvirt reports; the subclasses say which kind in Python's terms.

    Attributes
    ----------
    code : ErrorCode or int
        What went wrong, ``VIR_ERR_...``.
    domain : ErrorDomain or int
        The part of libvirt that raised it, ``VIR_FROM_...``.
    level : ErrorLevel or int
        How severe it is.
    message : str
        libvirt's own message.
    str1, str2, str3 : str or None
        Further details, as libvirt gave them.
    int1, int2 : int
        Further numbers, often ``errno`` in ``int1``.
    function : str or None
        The C function that failed.
    """

    __module__ = "pyvirhost"

    def __init__(self, message, *, code=0, domain=0, level=0, str1=None, str2=None, str3=None,
                 int1=0, int2=0, function=None, summary=None):
        super().__init__(message if summary is None else summary)
        self.message = message
        self.code = code
        self.domain = domain
        self.level = level
        self.str1 = str1
        self.str2 = str2
        self.str3 = str3
        self.int1 = int1
        self.int2 = int2
        self.function = function


class NotSupportedError(LibvirtError, NotImplementedError):
    """The driver lacks the call or the option, or this libvirt is too old."""

    __module__ = "pyvirhost"


class InvalidArgumentError(LibvirtError, ValueError):
    """libvirt refused an argument: a cell or CPU out of range, an unknown flag, an invalid URI."""

    __module__ = "pyvirhost"


class AccessDeniedError(LibvirtError, PermissionError):
    """The connection is read-only, or an access rule forbids the call."""

    __module__ = "pyvirhost"


class AuthenticationError(LibvirtError, PermissionError):
    """Authentication failed, was cancelled, or is unavailable."""

    __module__ = "pyvirhost"


class ConnectionLostError(LibvirtError, ConnectionError):
    """The connection died; every further call on it fails. Open it again."""

    __module__ = "pyvirhost"


class OperationTimeoutError(LibvirtError, TimeoutError):
    """A timeout elapsed, libvirt's own or that of `open`."""

    __module__ = "pyvirhost"


class CPUIncompatibleError(LibvirtError):
    """The host can't run the CPU, and the flags asked for an error in that case."""

    __module__ = "pyvirhost"


class ConnectionClosedError(LibvirtError, ValueError):
    """The program closed the connection, or is a forked child of the one that opened it."""

    __module__ = "pyvirhost"


cdef dict CLASSES = {
    lib.VIR_ERR_NO_SUPPORT: NotSupportedError,
    lib.VIR_ERR_CONFIG_UNSUPPORTED: NotSupportedError,
    lib.VIR_ERR_ARGUMENT_UNSUPPORTED: NotSupportedError,
    lib.VIR_ERR_OPERATION_UNSUPPORTED: NotSupportedError,
    lib.VIR_ERR_NO_CONNECT: InvalidArgumentError,  # no driver for such a URI
    lib.VIR_ERR_INVALID_ARG: InvalidArgumentError,
    lib.VIR_ERR_OPERATION_DENIED: AccessDeniedError,
    lib.VIR_ERR_ACCESS_DENIED: AccessDeniedError,
    lib.VIR_ERR_AUTH_FAILED: AuthenticationError,
    lib.VIR_ERR_AUTH_CANCELLED: AuthenticationError,
    lib.VIR_ERR_AUTH_UNAVAILABLE: AuthenticationError,
    lib.VIR_ERR_OPERATION_TIMEOUT: OperationTimeoutError,
    lib.VIR_ERR_CPU_INCOMPATIBLE: CPUIncompatibleError,
}


cdef const char *C_FUNCTIONS[FIELD_COUNT]
C_FUNCTIONS[:] = [
    "virNodeGetInfo", "virNodeGetCPUStats", "virNodeGetCPUMap", "virNodeGetCPUStats",
    "virNodeGetMemoryStats", "virNodeGetFreeMemory", "virNodeGetCellsFreeMemory",
    "virNodeGetMemoryStats", "virNodeGetFreePages", "virNodeGetMemoryParameters",
]


cdef object last_error(lib.virConnectPtr connection, str function):
    cdef lib.virErrorPtr record
    cdef int alive = -1
    cdef char *uri = NULL
    # Detached before anything else: any Python object made here can start a finaliser that closes
    # another connection, and that call would wipe this thread's error.
    with nogil:
        record = lib.virSaveLastError()
        if connection is not NULL:
            alive = lib.virConnectIsAlive(connection)
            if alive == 0:
                uri = lib.virConnectGetURI(connection)
    try:
        return recorded_error(record, alive == 0, text(uri), function)
    finally:
        lib.virFreeError(record)
        free(uri)


# By the name of each enum that was needed, its members by their numbers. To call the enum itself
# takes eight times as long.
cdef dict ENUMS = {}


cdef object member(str enum, int number):
    cdef dict members = ENUMS.get(enum)
    if members is None:
        # At the interpreter's end, or without a descriptor to load it by, what the number is of
        # counts more than its name.
        try:
            from pyvirhost import constants

            members = {int(each): each for each in getattr(constants, enum)}
        except Exception:
            return number
        ENUMS[enum] = members
    # A newer libvirt may report numbers that no enum here has.
    return members.get(number, number)


cdef object recorded_error(lib.virErrorPtr record, bint lost, str uri, str function):
    if record is NULL or record.code == lib.VIR_ERR_OK:
        return LibvirtError(f"{function} failed, and libvirt does not say why",
                            code=member("ErrorCode", lib.VIR_ERR_INTERNAL_ERROR), function=function)
    message = text(record.message) or f"{function} failed without a message"
    error_class = CLASSES.get(record.code, LibvirtError)
    if record.domain == lib.VIR_FROM_URI:
        error_class = InvalidArgumentError
    elif record.domain == lib.VIR_FROM_AUTH:
        error_class = AuthenticationError
    summary = None
    if lost:
        error_class = ConnectionLostError
        summary = f"the connection to {uri or 'libvirt'} is lost, open it again: {message}"
    return error_class(
        message, code=member("ErrorCode", record.code),
        domain=member("ErrorDomain", record.domain), level=member("ErrorLevel", record.level),
        str1=text(record.str1), str2=text(record.str2), str3=text(record.str3), int1=record.int1,
        int2=record.int2, function=function, summary=summary,
    )


cdef object recast(object error, object error_class):
    fields = dict(vars(error))
    return error_class(fields.pop("message"), **fields)


cdef object closed_error(str reason):
    return ConnectionClosedError(reason, code=member("ErrorCode", lib.VIR_ERR_INVALID_CONN))


cpdef object server_error(str function, str problem):
    return LibvirtError(
        f"the server's answer makes no sense: {problem}",
        code=member("ErrorCode", lib.VIR_ERR_RPC), domain=member("ErrorDomain", lib.VIR_FROM_RPC),
        level=member("ErrorLevel", lib.VIR_ERR_ERROR), function=function)


cdef object outcome_error(lib.virConnectPtr handle, int outcome, const char *function):
    if outcome == REFUSED:
        return last_error(handle, function.decode())
    return nonsense(outcome, function)


cdef object nonsense(int outcome, const char *function):
    if outcome == NO_MEMORY:
        return MemoryError()
    if outcome == SHORT_MAP:
        problem = "a CPU map that is too short for its CPUs"
    elif outcome == OTHER_FIELDS:
        problem = "statistics whose fields are not the same for all"
    elif outcome == NO_ROWS:
        problem = "a host without any"
    elif outcome == TOO_MANY_CPUS:
        problem = f"more than {MAX_CPUS} CPUs"
    else:
        problem = f"more than {MAX_CELLS} NUMA cells"
    return server_error(function.decode(), problem)


cdef bint says_none_left(object error) except -1:
    # 0 is also the answer of a host that has none left. libvirt takes it for a failure for which
    # nobody, VIR_FROM_NONE, gave a cause.
    return error.domain == lib.VIR_FROM_NONE and type(error) is LibvirtError


cdef object reading_error(const Readings *readings, int field, str uri):
    cdef int outcome = readings.outcomes[field]
    cdef const char *function = C_FUNCTIONS[field]
    if outcome == READ:
        return None
    if field == PER_CPU_STATS:
        function = readings.cpu_table.function
    elif field == PER_CELL_MEMORY_STATS:
        function = readings.cell_table.function
    if outcome != REFUSED:
        return nonsense(outcome, function)
    error = recorded_error(readings.refusals[field], readings.lost[field], uri, function.decode())
    return None if field == FREE_MEMORY and says_none_left(error) else error


cdef str text(const char *value):
    # Messages quote file names and servers, so they need not be UTF-8.
    return None if value is NULL else value.decode("utf-8", "replace")


cdef void ignore(void *data, lib.virErrorPtr error) noexcept nogil:
    pass


# libvirt prints every error to stderr unless the process has a handler. The handler is one for the
# whole process, libvirt has no way to ask for the present one, and a failed open, which has no
# connection yet, can be silenced in no other way. A program that wants its own calls
# virSetErrorFunc after this module is loaded.
lib.virSetErrorFunc(NULL, ignore)
