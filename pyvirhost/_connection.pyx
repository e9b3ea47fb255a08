"""Connections to libvirt: the only module that calls the host API.

Every call holds the connection (`enter`), releases the GIL around libvirt, turns a failure into an
exception before anything else can run, and lets the connection go (`leave`). The last one out of a
closed connection closes it.
"""

cimport cython
cimport libvirt as lib
from cpython.exc cimport PyErr_SetObject, PyErr_WriteUnraisable
from cpython.mem cimport PyMem_Free
from cpython.weakref cimport PyWeakref_NewRef
from libc.limits cimport UINT_MAX
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from pyvirhost._arguments cimport (int_argument, is_within, items_argument,
                                   optional_text_argument, page_size_argument, text_argument,
                                   texts_argument, uint_argument, ullong_argument)
from pyvirhost._errors cimport (
    closed_error, last_error, member, outcome_error, recast, says_none_left)
from pyvirhost._events cimport settle
from pyvirhost._readings cimport (
    CELL_MEMORY, CPU, FREE_PAGES, HOST_MEMORY, MAX_CELLS, MAX_FIELDS, MAX_PAGE_SIZES,
    MAX_PARAMETERS, READ, OnlineCPUs, Readings, Source, Table, begin_readings,
    count_cells, free_readings, free_table, new_table, read_all, read_cells, read_cpu_map,
    read_online_cpus, read_pages, read_stats)
from pyvirhost._results cimport (
    CPUStats, HostSnapshot, Learned, MemoryStats, PageCounts, Stats, StatsTable, TypedParameters,
    add_typed_parameter, check_out, field_bits, fill_snapshot, new_cells_free_memory,
    new_cpu_map, new_node_info, new_page_counts, new_security_model, new_snapshot, new_stats,
    new_stats_table, new_typed_parameters, new_version)

from pyvirhost._errors import (ConnectionLostError, InvalidArgumentError, LibvirtError,
                               NotSupportedError)
from pyvirhost import _results


cdef extern from *:
    """
    #include <stdatomic.h>
    #include <stdint.h>
    #include <string.h>

    static atomic_uintptr_t close_callbacks_made;

    #if PY_VERSION_HEX < 0x030D0000
    #define Py_IsFinalizing _Py_IsFinalizing
    #endif
    """
    uintptr_t close_callbacks_made
    uintptr_t atomic_fetch_add(uintptr_t *value, uintptr_t more) nogil
    bint Py_IsFinalizing()
    int PyErr_ResourceWarning(object source, Py_ssize_t stack_level, const char *format,
                              ...) except -1


cdef enum:
    PAGES_BIT = 1 << FREE_PAGES


ctypedef int (*IntGetter)(lib.virConnectPtr) noexcept nogil
ctypedef char *(*TextGetter)(lib.virConnectPtr) noexcept nogil
ctypedef int (*VersionGetter)(lib.virConnectPtr, unsigned long *) noexcept nogil
ctypedef int (*ParameterSetter)(lib.virConnectPtr, lib.virTypedParameterPtr, int,
                                unsigned int) noexcept nogil


# ---- callbacks ----------------------------------------------------------------------------------

include "_losses.pxi"
include "_forks.pxi"  # after it: a fork first waits for what may still report a loss


cpdef int check_callback(object callback, int arguments, str name) except -1:
    if not callable(callback):
        raise TypeError(f"{name} must be callable, not {type(callback).__name__}")
    import inspect

    try:
        signature = inspect.signature(callback)
    except ValueError:
        return 0  # some built-in functions don't tell
    try:
        signature.bind(*(None,) * arguments)
    except TypeError:
        raise TypeError(f"{name} must take {arguments} arguments, {callback!r} takes "
                        f"{signature}") from None
    return 0


# ---- the library --------------------------------------------------------------------------------

def initialize():
    """Initialise libvirt; `open` does so by itself.

    Notes
    -----
    ``virInitialize``, since libvirt 0.1.0; no round trip. Any thread may call it at any time.
    """
    cdef int result
    with nogil:
        result = lib.virInitialize()
    if result < 0:
        raise last_error(NULL, "virInitialize")


def lib_version():
    """Return the version of libvirt that this process has loaded.

    Returns
    -------
    Version

    Notes
    -----
    ``virGetVersion``, since libvirt 0.0.3; no round trip.
    """
    cdef unsigned long number = 0
    cdef int result
    with nogil:
        result = lib.virGetVersion(&number, NULL, NULL)
    if result < 0:
        raise last_error(NULL, "virGetVersion")
    return new_version(number)


include "_open.pxi"


# ---- arguments and results ----------------------------------------------------------------------

cdef Source source_of_cell(int cell) noexcept:
    return HOST_MEMORY if cell == lib.VIR_NODE_MEMORY_STATS_ALL_CELLS else CELL_MEMORY


cdef struct Hypervisor:
    # Each NULL where libvirt is to choose; the texts live as long as the arguments.
    const char *emulator
    const char *arch
    const char *machine
    const char *virttype


cdef int hypervisor_argument(Hypervisor *hypervisor, object emulator, object arch, object machine,
                             object virttype) except -1:
    hypervisor.emulator = optional_text_argument(emulator, "emulator")
    hypervisor.arch = optional_text_argument(arch, "arch")
    hypervisor.machine = optional_text_argument(machine, "machine")
    hypervisor.virttype = optional_text_argument(virttype, "virttype")
    return 0


cdef list pairs_argument(object mapping, str name):
    try:
        pairs = [(key, value) for key, value in mapping.items()]
    except (AttributeError, TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a mapping, not {type(mapping).__name__}") from error
    if not pairs:
        raise ValueError(f"{name} must not be empty")
    return pairs


cdef list memory_settings(object parameters):
    # The name, C type and value of each. What was read knows its types, also those of settings
    # that a newer libvirt has; its counters are the kernel's and not sent back.
    if isinstance(parameters, TypedParameters):
        types = parameters.types
        settings = [(name, types[name], value) for name, value in parameters.items()
                    if name not in MEMORY_COUNTERS]
        if not settings:
            raise ValueError("parameters has no setting that can be changed")
        return settings
    return typed(parameters, MEMORY_SETTINGS)


cdef list typed(object parameters, dict types):
    cdef list pairs = pairs_argument(parameters, "parameters")
    for name, _ in pairs:
        if name not in types:
            raise ValueError(
                f"parameters has {name!r}; only {', '.join(types)} can be set")
    return [(name, types[name], value) for name, value in pairs]


cdef dict IDENTITY = {
    "user-name": "string",
    "unix-user-id": "ullong",
    "group-name": "string",
    "unix-group-id": "ullong",
    "process-id": "llong",
    "process-time": "ullong",
    "sasl-user-name": "string",
    "x509-distinguished-name": "string",
    "selinux-context": "string",
}

cdef dict MEMORY_SETTINGS = {
    "shm_pages_to_scan": "uint",
    "shm_sleep_millisecs": "uint",
    "shm_merge_across_nodes": "uint",
}
cdef frozenset MEMORY_COUNTERS = frozenset((
    "shm_pages_shared", "shm_pages_sharing", "shm_pages_unshared", "shm_pages_volatile",
    "shm_full_scans",
))


cdef bint is_of_page_sizes(int code) noexcept:
    # libvirt refuses a size that the host does not have in these words.
    return code in (lib.VIR_ERR_OPERATION_FAILED, lib.VIR_ERR_INVALID_ARG)


cdef bint has_stale_page_sizes(const Readings *readings) noexcept:
    cdef lib.virErrorPtr refusal = readings.refusals[<int>FREE_PAGES]
    return refusal is not NULL and is_of_page_sizes(refusal.code)


cdef tuple page_sizes_argument(object page_sizes):
    if are_plain_sizes(page_sizes):
        return tuple(page_sizes)
    sizes = items_argument(page_sizes, "page_sizes", "int")
    return tuple([page_size_argument(size, f"page_sizes[{i}]") for i, size in enumerate(sizes)])


cdef bint are_plain_sizes(object page_sizes) except -1:
    # To look closer, and to name what is wrong, takes longer than to ask libvirt.
    cdef long long number = 0
    if type(page_sizes) is not list and type(page_sizes) is not tuple or not page_sizes:
        return False
    for size in page_sizes:
        if not is_within(size, 1, UINT_MAX, &number):
            return False
    return True


cdef tuple few_page_sizes_argument(object page_sizes):
    cdef tuple sizes = page_sizes_argument(page_sizes)
    if len(sizes) > <int>MAX_PAGE_SIZES:
        raise ValueError(f"page_sizes must have at most {MAX_PAGE_SIZES} sizes, not {len(sizes)}")
    return sizes


def snapshot_arguments(fields, page_sizes):
    """Return the arguments of `Connection.snapshot` as tuples, or raise what is wrong with them."""
    if fields is not None:
        fields = tuple(items_argument(fields, "fields", "str"))
        field_bits(fields)
    return fields, None if page_sizes is None else few_page_sizes_argument(page_sizes)


cdef tuple page_sizes_of(str capabilities):
    # The sizes in KiB of the pages that a host has, or none where it does not say.
    from pyvirhost._xml import parse

    pages = parse(capabilities, "virConnectGetCapabilities").findall("host/cpu/pages")
    texts = [page.get("size", "") for page in pages]
    # Python refuses to read a number of thousands of digits, which only a server in error sends.
    sizes = [int(text) for text in texts if text.isdecimal() and len(text) <= 10]
    return tuple([size for size in sizes if 0 < size <= UINT_MAX][:MAX_PAGE_SIZES])


cdef str owned_text(char *text):
    try:
        return text.decode("utf-8", "replace")
    finally:
        free(text)


# Methods of C's kind, which the interpreter calls a tenth faster than Cython's own; inspect takes
# their signatures from the docstrings.
@cython.binding(False)
@cython.embedsignature(True)
@cython.embedsignature.format("clinic")
@cython.final
cdef class Connection:
    """A connection to a libvirt driver; `pyvirhost.open` returns it.

    Any thread may call any method at any time, even while another closes the connection. A
    connection is a context manager that closes itself. Dropping one without closing it is a
    `ResourceWarning`, and it is closed in the background.

    A call waits for its server, for ever if need be, and Ctrl-C does not interrupt it: Python runs
    signal handlers between calls. With ``open(keepalive=...)`` the call fails when the server is
    lost; an await of `pyvirhost.aio` can be cancelled. Leave SIGPIPE ignored, as Python does:
    with its default action, a daemon that dies can take its client with it.

    Every method can raise `ConnectionClosedError` after `close`, `ConnectionLostError` when the
    connection has died, `NotSupportedError` where the driver has no such call, `AccessDeniedError`
    where the connection lacks permission, and their base class `LibvirtError` for whatever else
    libvirt reports. An argument of the wrong type is a TypeError, an int that does not fit its C
    type an OverflowError, and a text with a NUL a ValueError, all before libvirt is called.

    The round trips in a method's notes are those to a daemon for a call that succeeds; a driver in
    this process, such as ``test:///default``, needs none.
    """

    cdef lib.virConnectPtr handle
    cdef int calls
    cdef bint closing
    cdef unsigned long forks
    cdef int process
    cdef Learned learned  # shared by all handles of the connection
    # The close callback and its key in close_callbacks, which is there until it has been called;
    # None without one. While a thread registers or unregisters it, no other may. The key is a str:
    # to forget a callback there may be no memory for another, and the collector, which takes other
    # objects from a connection before it is finalised, leaves a str alone.
    cdef object callback
    cdef str callback_key
    cdef bint changing_callback
    cdef object __weakref__

    def __cinit__(self):
        self.closing = True

    def __init__(self, *args, **kwargs):
        raise TypeError("Connection() can't be called; use pyvirhost.open()")

    def __dealloc__(self):
        # At the interpreter's end the kernel closes the socket, and a thread of ours would only
        # race with libraries that are being unloaded.
        if self.handle is not NULL and self.forks == forks and not Py_IsFinalizing():
            close_in_background(self.handle, self.forget_callback())

    def __del__(self):
        if not self.closing and self.forks == forks:
            PyErr_ResourceWarning(self, 1, "unclosed %R", <void *>self)

    def __enter__(self):
        self.enter()
        self.leave()
        return self

    def __exit__(self, *exception):
        self.close()

    def __reduce__(self):
        raise TypeError("a Connection can't be pickled; pickle its uri() and open that again")

    def __repr__(self):
        if self.closed:
            return "<Connection closed>"
        try:
            return f"<Connection {self.uri()!r}>"
        except Exception:
            return "<Connection>"

    # ---- holding the connection ----

    cdef lib.virConnectPtr enter(self) except NULL:
        cdef bint closing, usable
        with cython.critical_section(self):
            closing = self.closing
            usable = not closing and self.forks == forks
            if usable:
                self.calls += 1
        if usable:
            return self.handle
        if closing:
            raise closed_error("the connection is closed")
        raise closed_error(f"the connection belongs to process {self.process}, which forked "
                           "this one; open another one here")

    cdef void leave(self) noexcept:
        cdef bint last
        with cython.critical_section(self):
            self.calls -= 1
            last = self.closing and self.calls == 0
        if last:
            self.close_if_last()

    cdef void close_if_last(self) noexcept:
        cdef lib.virConnectPtr last = NULL
        cdef bint registered
        with cython.critical_section(self):
            if self.closing and self.calls == 0 and self.forks == forks:
                last = self.handle
                self.handle = NULL
        if last is not NULL:
            registered = self.forget_callback()
            with nogil:
                close_handle(last, registered, NULL)
            settle()

    cdef bint forget_callback(self) noexcept:
        # Whether there was one that libvirt still knows.
        with cython.critical_section(self):
            key, self.callback_key = self.callback_key, None
            forgotten, self.callback = self.callback, None
        del forgotten  # only now, since its finaliser can run any Python
        return key is not None and close_callbacks.pop(key, None) is not None

    def close(self):
        """Close the connection; do nothing if it is closed.

        Calls in flight in other threads run to their end, and the last of them closes the
        connection. New calls raise `ConnectionClosedError` at once.

        Notes
        -----
        ``virConnectClose``, since libvirt 0.0.3; 1 round trip, none while another `ref` is open.
        """
        with cython.critical_section(self):
            self.closing = True
        self.close_if_last()

    def ref(self):
        """Return a second handle to the same connection, which is closed on its own.

        Returns
        -------
        Connection

        Notes
        -----
        ``virConnectRef``, since libvirt 0.6.0; no round trip.
        """
        cdef lib.virConnectPtr handle = self.enter()
        cdef int result
        try:
            with nogil:
                result = lib.virConnectRef(handle)
            if result < 0:
                raise last_error(handle, "virConnectRef")
            return new_connection(handle, self.learned)
        finally:
            self.leave()

    @property
    def closed(self):
        """Whether this process closed it or was forked since: bool. A lost one is not closed."""
        cdef bint closing
        with cython.critical_section(self):
            closing = self.closing
        return closing or self.forks != forks

    # ---- calls that differ in the C function only ----

    cdef bint truth(self, IntGetter get, str function) except -1:
        cdef lib.virConnectPtr handle = self.enter()
        cdef int result
        try:
            with nogil:
                result = get(handle)
            if result < 0:
                raise last_error(handle, function)
            return result
        finally:
            self.leave()

    cdef str text(self, TextGetter get, str function):
        cdef lib.virConnectPtr handle = self.enter()
        cdef char *result
        try:
            with nogil:
                result = get(handle)
            if result is NULL:
                raise last_error(handle, function)
            return owned_text(result)
        finally:
            self.leave()

    cdef object version_number(self, VersionGetter get, str function):
        cdef lib.virConnectPtr handle = self.enter()
        cdef unsigned long number = 0
        cdef int result
        try:
            with nogil:
                result = get(handle, &number)
            if result < 0:
                raise last_error(handle, function)
            return new_version(number)
        finally:
            self.leave()

    cdef int set_parameters(self, ParameterSetter set, str function, list wanted,
                            object flags) except -1:
        cdef unsigned int c_flags = uint_argument(flags, "flags")
        cdef lib.virTypedParameterPtr parameters = NULL
        cdef int count = 0
        cdef int room = 0
        cdef int result
        cdef lib.virConnectPtr handle
        try:
            for name, type_name, value in wanted:
                add_typed_parameter(&parameters, &count, &room, name, type_name, value,
                                    "parameters")
            handle = self.enter()
            try:
                with nogil:
                    result = set(handle, parameters, count, c_flags)
                if result < 0:
                    raise last_error(handle, function)
            finally:
                self.leave()
        finally:
            lib.virTypedParamsFree(parameters, count)
        return 0

    # ---- who answers ----

    def type(self):
        """Return the driver's name, such as ``"QEMU"``.

        Returns
        -------
        str
            ``"remote"`` on a connection that has died.

        Notes
        -----
        ``virConnectGetType``, since libvirt 0.0.3; 1 round trip, none from the second call.
        """
        cdef lib.virConnectPtr handle = self.enter()
        cdef const char *result
        try:
            with nogil:
                result = lib.virConnectGetType(handle)
            if result is NULL:
                raise last_error(handle, "virConnectGetType")
            return result.decode("utf-8", "replace")
        finally:
            self.leave()

    def uri(self):
        """Return the URI of the connection, as completed by libvirt.

        Returns
        -------
        str

        Notes
        -----
        ``virConnectGetURI``, since libvirt 0.3.0; no round trip.
        """
        return self.text(lib.virConnectGetURI, "virConnectGetURI")

    def hostname(self):
        """Return the host's own name.

        Returns
        -------
        str

        Notes
        -----
        ``virConnectGetHostname``, since libvirt 0.3.0; 1 round trip.
        """
        return self.text(lib.virConnectGetHostname, "virConnectGetHostname")

    def version(self):
        """Return the hypervisor's version.

        Returns
        -------
        Version

        Notes
        -----
        ``virConnectGetVersion``, since libvirt 0.0.3; 1 round trip.
        """
        return self.version_number(lib.virConnectGetVersion, "virConnectGetVersion")

    def lib_version(self):
        """Return the version of the libvirt that the server runs.

        Returns
        -------
        Version

        Notes
        -----
        ``virConnectGetLibVersion``, since libvirt 0.7.3; 1 round trip.
        """
        return self.version_number(lib.virConnectGetLibVersion, "virConnectGetLibVersion")

    def is_alive(self):
        """Return whether the connection is up, as far as this side knows.

        A server that has died is noticed at the next call or, with an event loop, at once; `ping`
        asks the server.

        Returns
        -------
        bool

        Notes
        -----
        ``virConnectIsAlive``, since libvirt 0.9.8; no round trip.
        """
        return self.truth(lib.virConnectIsAlive, "virConnectIsAlive")

    def is_encrypted(self):
        """Return whether the traffic is encrypted.

        Returns
        -------
        bool

        Notes
        -----
        ``virConnectIsEncrypted``, since libvirt 0.7.3; 1 round trip.
        """
        return self.truth(lib.virConnectIsEncrypted, "virConnectIsEncrypted")

    def is_secure(self):
        """Return whether the traffic is safe from others: encrypted, or never leaving the host.

        Returns
        -------
        bool

        Notes
        -----
        ``virConnectIsSecure``, since libvirt 0.7.3; 1 round trip.
        """
        return self.truth(lib.virConnectIsSecure, "virConnectIsSecure")

    def ping(self):
        """Ask the server for a sign of life, and raise if it gives none.

        Raises
        ------
        ConnectionLostError
            The server is gone.

        Notes
        -----
        ``virConnectGetLibVersion``, since libvirt 0.7.3; 1 round trip.
        """
        self.lib_version()

    # ---- losing it ----

    def set_keepalive(self, interval, count):
        """Probe the server regularly, and drop the connection when it stops answering.

        The `EventLoop` must have been running when the connection was opened;
        ``open(keepalive=...)`` sees to that.

        Parameters
        ----------
        interval : int
            In seconds; 0 or less stops the probes.
        count : int
            How many probes may go unanswered. The connection is lost after
            ``interval * (count + 1)`` seconds of silence.

        Returns
        -------
        bool
            Whether the server supports it.

        Raises
        ------
        NotSupportedError
            The driver runs in this process.
        LibvirtError
            There was no event loop when the connection was opened.

        Notes
        -----
        ``virConnectSetKeepAlive``, since libvirt 0.9.8; no round trip.
        """
        cdef int c_interval = int_argument(interval, "interval")
        cdef unsigned int c_count = uint_argument(count, "count")
        cdef lib.virConnectPtr handle = self.enter()
        cdef int result
        try:
            with nogil:
                result = lib.virConnectSetKeepAlive(handle, c_interval, c_count)
            if result < 0:
                raise last_error(handle, "virConnectSetKeepAlive")
            return result == 0
        finally:
            self.leave()

    def register_close_callback(self, callback):
        """Register a function to be called once, when the connection is lost.

        One thread calls the callbacks of all connections, one after the other, and does nothing
        else. Without an `EventLoop`, a loss is noticed only by a call. What a callback raises goes
        to `sys.unraisablehook`. It may call any method, including `close`. It is not called after
        `close`, nor once the connection is no longer referenced.

        Parameters
        ----------
        callback : callable
            Called with the connection and a `CloseReason`, or an int if the reason is unknown.

        Raises
        ------
        TypeError
            `callback` does not take two arguments.
        ValueError
            A callback is already registered.
        RuntimeError
            The thread can't be started.

        Notes
        -----
        ``virConnectRegisterCloseCallback``, since libvirt 0.10.0; 1 round trip.
        """
        cdef lib.virConnectPtr handle
        cdef uintptr_t number = atomic_fetch_add(&close_callbacks_made, 1) + 1
        cdef str key = str(number)
        cdef str earlier
        cdef bint granted
        cdef int result
        check_callback(callback, 2, "callback")
        # Its enum is loaded now, as there may be no descriptor to load it by when it is needed.
        member("CloseReason", 0)
        start_telling_losses()
        handle = self.enter()
        try:
            with cython.critical_section(self):
                earlier = self.callback_key
            granted = earlier not in close_callbacks
            if granted:
                close_callbacks[key] = PyWeakref_NewRef(self, None)
                forgotten = callback
                with cython.critical_section(self):
                    granted = not self.changing_callback and self.callback_key is earlier
                    if granted:
                        self.changing_callback = True
                        self.callback_key = key
                        forgotten, self.callback = self.callback, callback
                del forgotten  # only now, since its finaliser can run any Python
                if not granted:
                    del close_callbacks[key]
            if not granted:
                raise ValueError("a close callback is already registered; unregister it first")
            try:
                with nogil:
                    result = lib.virConnectRegisterCloseCallback(
                        handle, on_close, <void *>number, NULL)
                if result < 0:
                    try:
                        raise last_error(handle, "virConnectRegisterCloseCallback")
                    finally:
                        self.forget_callback()
            finally:
                self.callback_changed()
        finally:
            self.leave()

    def unregister_close_callback(self):
        """Unregister the close callback.

        Do nothing in the callback itself and after it was called.

        Raises
        ------
        ValueError
            No callback is registered.

        Notes
        -----
        ``virConnectUnregisterCloseCallback``, since libvirt 0.10.0; 1 round trip.
        """
        cdef lib.virConnectPtr handle = self.enter()
        cdef bint granted
        cdef int result
        try:
            with cython.critical_section(self):
                key = self.callback_key
                granted = not self.changing_callback and key is not None
                if granted:
                    self.changing_callback = True
            if not granted:
                if key is not None and key not in close_callbacks:
                    return  # it was called, or another thread is just unregistering it
                raise ValueError("no close callback is registered")
            try:
                # libvirt forgets a callback by itself when it calls it, and waits for itself for
                # ever when it is asked to in the callback.
                if self.forget_callback():
                    with nogil:
                        result = lib.virConnectUnregisterCloseCallback(handle, on_close)
                    if result < 0:
                        error = last_error(handle, "virConnectUnregisterCloseCallback")
                        # A connection that has died meanwhile has no callback left.
                        if type(error) is not ConnectionLostError:
                            raise error
            finally:
                self.callback_changed()
        finally:
            self.leave()

    cdef void callback_changed(self) noexcept:
        with cython.critical_section(self):
            self.changing_callback = False

    def set_identity(self, parameters, flags=0):
        """Tell the server whom this connection acts for, so that its access rules can check that.

        Only a client that the server trusts may do so.

        Parameters
        ----------
        parameters : mapping of str to str or int
            ``VIR_CONNECT_IDENTITY_...``: names, contexts and distinguished names are str, ids and
            times int.
        flags : int, default 0
            libvirt defines none yet.

        Raises
        ------
        ValueError
            A parameter is unknown, or there is none; nothing is set.
        TypeError, OverflowError
            A value does not fit its parameter's type; nothing is set.
        AccessDeniedError
            The connection is read-only.

        Notes
        -----
        ``virConnectSetIdentity``, since libvirt 5.8.0; 1 round trip.
        """
        self.set_parameters(lib.virConnectSetIdentity, "virConnectSetIdentity",
                            typed(parameters, IDENTITY), flags)

    # ---- what the host can do ----

    def capabilities(self):
        """Return the capabilities of the host and its hypervisor, as libvirt's XML.

        Returns
        -------
        str
            A ``<capabilities>`` document.

        Notes
        -----
        ``virConnectGetCapabilities``, since libvirt 0.2.1; 1 round trip.
        """
        return self.text(lib.virConnectGetCapabilities, "virConnectGetCapabilities")

    def sysinfo(self, flags=0):
        """Return what the firmware says about the host's hardware, as libvirt's XML.

        Parameters
        ----------
        flags : int, default 0
            libvirt defines none yet.

        Returns
        -------
        str
            A ``<sysinfo>`` document.

        Notes
        -----
        ``virConnectGetSysinfo``, since libvirt 0.8.8; 1 round trip.
        """
        cdef unsigned int c_flags = uint_argument(flags, "flags")
        cdef lib.virConnectPtr handle = self.enter()
        cdef char *result
        try:
            with nogil:
                result = lib.virConnectGetSysinfo(handle, c_flags)
            if result is NULL:
                raise last_error(handle, "virConnectGetSysinfo")
            return owned_text(result)
        finally:
            self.leave()

    def max_vcpus(self, type=None):
        """Return how many virtual CPUs a guest may have.

        Parameters
        ----------
        type : str, optional
            The guest's type, such as ``"kvm"``; by default the driver's own.

        Returns
        -------
        int

        Notes
        -----
        ``virConnectGetMaxVcpus``, since libvirt 0.2.1; 1 round trip.
        """
        cdef const char *c_type = optional_text_argument(type, "type")
        cdef lib.virConnectPtr handle = self.enter()
        cdef int result
        try:
            with nogil:
                result = lib.virConnectGetMaxVcpus(handle, c_type)
            if result < 0:
                raise last_error(handle, "virConnectGetMaxVcpus")
            return result
        finally:
            self.leave()

    # ---- CPU models ----

    def cpu_model_names(self, arch, flags=0):
        """Return the names of the CPU models that libvirt knows for an architecture.

        Parameters
        ----------
        arch : str
            Such as ``"x86_64"``.
        flags : int, default 0
            libvirt defines none yet.

        Returns
        -------
        list of str
            Empty if every model is allowed.

        Raises
        ------
        InvalidArgumentError
            libvirt does not know the architecture.

        Notes
        -----
        ``virConnectGetCPUModelNames``, since libvirt 1.1.3; 1 round trip.
        """
        cdef const char *c_arch = text_argument(arch, "arch")
        cdef unsigned int c_flags = uint_argument(flags, "flags")
        cdef lib.virConnectPtr handle = self.enter()
        cdef char **models = NULL
        cdef int result, i
        cdef int count = 0
        try:
            with nogil:
                result = lib.virConnectGetCPUModelNames(handle, c_arch, &models, c_flags)
                # The result is what the server says, the NULL at the end what it sent.
                while models is not NULL and models[count] is not NULL:
                    count += 1
            try:
                if result < 0:
                    raise last_error(handle, "virConnectGetCPUModelNames")
                return [models[i].decode("utf-8", "replace") for i in range(count)]
            finally:
                for i in range(count):
                    free(models[i])
                free(models)
        finally:
            self.leave()

    def compare_cpu(self, xml, flags=0):
        """Compare a CPU with the host's.

        Parameters
        ----------
        xml : str
            A ``<cpu>`` element, or a document of the host's capabilities.
        flags : CompareCPUFlags or int, default 0

        Returns
        -------
        CPUCompareResult
            A plain int if the server's answer is newer than this package.

        Raises
        ------
        CPUIncompatibleError
            The host can't run that CPU, and `CompareCPUFlags.FAIL_INCOMPATIBLE` is set.
        LibvirtError
            The XML is not well-formed or describes no CPU.

        Notes
        -----
        ``virConnectCompareCPU``, since libvirt 0.7.5; 1 round trip.
        """
        return self.compare(xml, NULL, flags)

    def compare_hypervisor_cpu(self, xml, *, emulator=None, arch=None, machine=None,
                               virttype=None, flags=0):
        """Compare a CPU with the one that the hypervisor can give a guest on this host.

        Parameters
        ----------
        xml : str
            A ``<cpu>`` element.
        emulator : str, optional
            The path of the emulator; by default the one for `arch`.
        arch : str, optional
            The guest's architecture; by default the host's.
        machine : str, optional
            The guest's machine type; by default the emulator's.
        virttype : str, optional
            Such as ``"kvm"`` or ``"qemu"``; by default the best available.
        flags : CompareCPUFlags or int, default 0

        Returns
        -------
        CPUCompareResult
            A plain int if the server's answer is newer than this package.

        Raises
        ------
        CPUIncompatibleError
            As in `compare_cpu`.
        AccessDeniedError
            The connection is read-only.

        Notes
        -----
        ``virConnectCompareHypervisorCPU``, since libvirt 4.4.0; 1 round trip.
        """
        cdef Hypervisor hypervisor
        hypervisor_argument(&hypervisor, emulator, arch, machine, virttype)
        return self.compare(xml, &hypervisor, flags)

    cdef object compare(self, object xml, const Hypervisor *hypervisor, object flags):
        # With the host's CPU, or with what a hypervisor makes of it.
        cdef const char *c_xml = text_argument(xml, "xml")
        cdef unsigned int c_flags = uint_argument(flags, "flags")
        cdef lib.virConnectPtr handle = self.enter()
        cdef int result
        try:
            with nogil:
                if hypervisor is NULL:
                    result = lib.virConnectCompareCPU(handle, c_xml, c_flags)
                else:
                    result = lib.virConnectCompareHypervisorCPU(
                        handle, hypervisor.emulator, hypervisor.arch, hypervisor.machine,
                        hypervisor.virttype, c_xml, c_flags)
            if result < 0:
                raise last_error(handle, "virConnectCompareCPU" if hypervisor is NULL else
                                 "virConnectCompareHypervisorCPU")
            return member("CPUCompareResult", result)
        finally:
            self.leave()

    def baseline_cpu(self, xml_cpus, flags=0):
        """Return the best CPU that all of the given hosts can run.

        Parameters
        ----------
        xml_cpus : list of str
            The CPU of each host, as ``<cpu>`` elements or documents of capabilities.
        flags : BaselineCPUFlags or int, default 0

        Returns
        -------
        str
            A ``<cpu>`` element.

        Raises
        ------
        LibvirtError
            The XML is not well-formed, or the CPUs have nothing in common.

        Notes
        -----
        ``virConnectBaselineCPU``, since libvirt 0.7.7; 1 round trip.
        """
        return self.baseline(xml_cpus, NULL, flags)

    def baseline_hypervisor_cpu(self, xml_cpus, *, emulator=None, arch=None, machine=None,
                                virttype=None, flags=0):
        """Return the best CPU that the hypervisor can give guests on all of the given hosts.

        Parameters
        ----------
        xml_cpus : list of str
            The CPU of each host, as ``<cpu>`` elements or documents of domain capabilities.
        emulator, arch, machine, virttype : str, optional
            As in `compare_hypervisor_cpu`.
        flags : BaselineCPUFlags or int, default 0

        Returns
        -------
        str
            A ``<cpu>`` element.

        Raises
        ------
        AccessDeniedError
            The connection is read-only.
        LibvirtError
            As in `baseline_cpu`.

        Notes
        -----
        ``virConnectBaselineHypervisorCPU``, since libvirt 4.4.0; 1 round trip.
        """
        cdef Hypervisor hypervisor
        hypervisor_argument(&hypervisor, emulator, arch, machine, virttype)
        return self.baseline(xml_cpus, &hypervisor, flags)

    cdef str baseline(self, object xml_cpus, const Hypervisor *hypervisor, object flags):
        # Of what the hosts have, or of what a hypervisor makes of it.
        cdef list xmls = items_argument(xml_cpus, "xml_cpus", "str")
        cdef unsigned int c_flags = uint_argument(flags, "flags")
        cdef unsigned int count = len(xmls)
        cdef const char **c_xmls = texts_argument(xmls, "xml_cpus")
        cdef lib.virConnectPtr handle
        cdef char *result
        try:
            handle = self.enter()
            try:
                with nogil:
                    if hypervisor is NULL:
                        result = lib.virConnectBaselineCPU(handle, c_xmls, count, c_flags)
                    else:
                        result = lib.virConnectBaselineHypervisorCPU(
                            handle, hypervisor.emulator, hypervisor.arch, hypervisor.machine,
                            hypervisor.virttype, c_xmls, count, c_flags)
                if result is NULL:
                    raise last_error(handle, "virConnectBaselineCPU" if hypervisor is NULL else
                                     "virConnectBaselineHypervisorCPU")
                return owned_text(result)
            finally:
                self.leave()
        finally:
            PyMem_Free(c_xmls)

    # ---- CPUs ----

    def node_info(self):
        """Return the host's processors and memory.

        Returns
        -------
        NodeInfo
            With the memory in KiB.

        Notes
        -----
        ``virNodeGetInfo``, since libvirt 0.1.0; 1 round trip.
        """
        cdef lib.virConnectPtr handle = self.enter()
        cdef lib.virNodeInfo info
        cdef int result
        try:
            with nogil:
                result = lib.virNodeGetInfo(handle, &info)
            if result < 0:
                raise last_error(handle, "virNodeGetInfo")
            return new_node_info(&info)
        finally:
            self.leave()

    def cpu_map(self, flags=0):
        """Return which of the host's CPUs are online.

        Parameters
        ----------
        flags : int, default 0
            libvirt defines none yet.

        Returns
        -------
        CPUMap
            As a buffer, shape ``((cpus + 7) // 8,)``, dtype uint8.

        Notes
        -----
        ``virNodeGetCPUMap``, since libvirt 1.0.0; 1 round trip.
        """
        cdef unsigned int c_flags = uint_argument(flags, "flags")
        cdef lib.virConnectPtr handle = self.enter()
        cdef OnlineCPUs cpus
        cdef int outcome
        cpus.bits = NULL
        try:
            with nogil:
                outcome = read_cpu_map(handle, &cpus, c_flags)
            if outcome != READ:
                raise outcome_error(handle, outcome, "virNodeGetCPUMap")
            return new_cpu_map(&cpus)
        finally:
            free(cpus.bits)
            self.leave()

    def cpu_stats(self, cpu=-1, flags=0, *, CPUStats out=None):
        """Return the time that the CPUs have spent in each mode since the host booted.

        Parameters
        ----------
        cpu : int, default ALL_CPUS
            The number of one CPU, or `ALL_CPUS` for the sum over all.
        flags : int, default 0
            libvirt defines none yet.
        out : CPUStats, optional
            An earlier reading of the same fields, to overwrite instead of making a new one.

        Returns
        -------
        CPUStats
            In ns, shape ``(fields,)``, dtype uint64; `out` if given.

        Raises
        ------
        InvalidArgumentError
            The CPU does not exist, or is offline.
        ValueError
            `out` has other fields; it is unchanged.

        Notes
        -----
        ``virNodeGetCPUStats``, since libvirt 0.9.3; 1 round trip, 2 for the first reading.
        """
        return self.stats(CPU, int_argument(cpu, "cpu"), uint_argument(flags, "flags"), out)

    def per_cpu_stats(self, *, StatsTable out=None):
        """Return the time that each online CPU has spent in each mode since the host booted.

        Parameters
        ----------
        out : StatsTable, optional
            An earlier reading of the same CPUs, to overwrite instead of making a new one.

        Returns
        -------
        StatsTable
            In ns, shape ``(CPUs online, fields)``, dtype uint64; `out` if given.

        Raises
        ------
        ValueError
            `out` has other CPUs or fields; it is unchanged.

        Notes
        -----
        ``virNodeGetCPUMap``, since libvirt 1.0.0, and ``virNodeGetCPUStats``, since libvirt 0.9.3,
        for each CPU; 1 round trip and 1 for each CPU, and 1 more for the first reading.
        """
        cdef lib.virConnectPtr handle = self.enter()
        cdef OnlineCPUs cpus
        cdef Table table
        cdef int outcome
        cpus.bits = NULL
        new_table(&table, self.learned.field_count(CPU))
        try:
            with nogil:
                outcome = read_online_cpus(handle, &cpus, &table)
            if outcome != READ:
                raise outcome_error(handle, outcome, table.function)
            return self.table(CPU, &table, out)
        finally:
            free(cpus.bits)
            free_table(&table)
            self.leave()

    # ---- memory ----

    def memory_stats(self, cell=-1, flags=0, *, MemoryStats out=None):
        """Return how the memory of the host or of a NUMA cell is used.

        Parameters
        ----------
        cell : int, default ALL_CELLS
            The number of one NUMA cell, or `ALL_CELLS` for the host.
        flags : int, default 0
            libvirt defines none yet.
        out : MemoryStats, optional
            An earlier reading of the same fields, to overwrite instead of making a new one.

        Returns
        -------
        MemoryStats
            In KiB, shape ``(fields,)``, dtype uint64; `out` if given. A cell has fewer fields than
            the host.

        Raises
        ------
        InvalidArgumentError
            The cell does not exist.
        ValueError
            `out` has other fields; it is unchanged.

        Notes
        -----
        ``virNodeGetMemoryStats``, since libvirt 0.9.3; 1 round trip, 2 for the first reading of
        the host and of a cell.
        """
        cdef int number = int_argument(cell, "cell")
        return self.stats(source_of_cell(number), number, uint_argument(flags, "flags"), out)

    def per_cell_memory_stats(self, *, StatsTable out=None):
        """Return how the memory of each NUMA cell is used.

        Parameters
        ----------
        out : StatsTable, optional
            An earlier reading, to overwrite instead of making a new one.

        Returns
        -------
        StatsTable
            In KiB, shape ``(cells, fields)``, dtype uint64; `out` if given.

        Raises
        ------
        ValueError
            `out` has other cells or fields; it is unchanged.

        Notes
        -----
        ``virNodeGetMemoryStats``, since libvirt 0.9.3, for each cell; 1 round trip for each cell,
        and 2 more for the first reading.
        """
        cdef lib.virConnectPtr handle = self.enter()
        cdef Table table
        cdef int outcome
        cdef int cells = self.learned.cells()
        new_table(&table, self.learned.field_count(CELL_MEMORY))
        try:
            with nogil:
                outcome = read_cells(handle, &cells, &table)
            if outcome != READ:
                raise outcome_error(handle, outcome, table.function)
            self.learned.learn_cells(cells)
            return self.table(CELL_MEMORY, &table, out)
        finally:
            free_table(&table)
            self.leave()

    def free_memory(self):
        """Return the host's free memory.

        Returns
        -------
        int
            In bytes.

        Notes
        -----
        ``virNodeGetFreeMemory``, since libvirt 0.3.3; 1 round trip.
        """
        cdef lib.virConnectPtr handle = self.enter()
        cdef unsigned long long result
        try:
            with nogil:
                result = lib.virNodeGetFreeMemory(handle)
            if result == 0:
                error = last_error(handle, "virNodeGetFreeMemory")
                if not says_none_left(error):
                    raise error
            return result
        finally:
            self.leave()

    def cells_free_memory(self, start_cell=0, max_cells=None):
        """Return the free memory of each NUMA cell.

        Parameters
        ----------
        start_cell : int, default 0
            The first cell.
        max_cells : int, optional
            The most cells to return; by default all from the first on.

        Returns
        -------
        CellsFreeMemory
            In bytes, shape ``(cells,)``, dtype uint64.

        Raises
        ------
        InvalidArgumentError
            The cell does not exist.

        Notes
        -----
        ``virNodeGetCellsFreeMemory``, since libvirt 0.3.3; 1 round trip.
        """
        cdef int start = int_argument(start_cell, "start_cell")
        cdef int most = MAX_CELLS if max_cells is None else int_argument(max_cells, "max_cells")
        cdef unsigned long long values[MAX_CELLS]
        cdef lib.virConnectPtr handle = self.enter()
        cdef int result
        most = min(most, <int>MAX_CELLS)
        try:
            with nogil:
                result = lib.virNodeGetCellsFreeMemory(handle, values, start, most)
            if result < 0:
                raise self.cell_error(last_error(handle, "virNodeGetCellsFreeMemory"), start)
            return new_cells_free_memory(start, result, values)
        finally:
            self.leave()

    # ---- pages ----

    def free_pages(self, page_sizes=None, start_cell=0, cell_count=None, flags=0):
        """Return how many pages of each size are free in each NUMA cell.

        Parameters
        ----------
        page_sizes : list of int, optional
            In KiB, such as ``[4, 2048, 1048576]``; by default those that the host has; its
            capabilities are read the first time.
        start_cell : int, default 0
            The first cell; for some drivers, QEMU's among them, -1 is the whole host.
        cell_count : int, optional
            The most cells to return; by default all from the first on.
        flags : int, default 0
            libvirt defines none yet.

        Returns
        -------
        PageCounts
            Shape ``(cells, page sizes)``, dtype uint64.

        Raises
        ------
        ValueError
            A page size is 0, or more counts are asked for than libvirt's protocol carries.
        InvalidArgumentError
            The cell does not exist.
        NotSupportedError
            The driver can't count pages, or does not say which sizes the host has.
        LibvirtError
            A cell has no pages of such a size.

        Notes
        -----
        ``virNodeGetFreePages``, since libvirt 1.2.6; 1 round trip, 1 more for the first without
        `page_sizes` and for the first without a `cell_count`.
        """
        cdef tuple sizes = None if page_sizes is None else page_sizes_argument(page_sizes)
        cdef int start = int_argument(start_cell, "start_cell")
        cdef unsigned int count = 0 if cell_count is None else uint_argument(
            cell_count, "cell_count")
        cdef unsigned int c_flags = uint_argument(flags, "flags")
        cdef bint learned = sizes is None and self.learned.page_sizes() is not None
        if sizes is None:
            sizes = self.known_page_sizes()
        if cell_count is None:
            count = max(self.cells() - max(start, -1), 1)
        try:
            return self.page_counts(sizes, start, count, c_flags)
        except LibvirtError as error:
            if not learned or not is_of_page_sizes(error.code):
                raise
        # The host may have other sizes by now.
        self.learned.learn_page_sizes(None)
        return self.page_counts(self.known_page_sizes(), start, count, c_flags)

    cdef PageCounts page_counts(self, tuple sizes, int start, unsigned int count,
                                unsigned int flags):
        cdef unsigned int c_sizes[MAX_CELLS]
        cdef unsigned long long counts[MAX_CELLS]
        cdef unsigned int size_count = min(len(sizes), <int>MAX_CELLS)
        cdef unsigned int i
        cdef lib.virConnectPtr handle
        cdef int outcome
        if len(sizes) * <unsigned long long>count > <unsigned long long>MAX_CELLS:
            raise ValueError(f"page_sizes times cell_count must be at most {MAX_CELLS}, "
                             f"not {len(sizes)} times {count}")
        for i in range(size_count):
            c_sizes[i] = sizes[i]
        handle = self.enter()
        try:
            with nogil:
                outcome = read_pages(handle, c_sizes, size_count, start, &count, counts, flags)
            if outcome != READ:
                raise self.cell_error(last_error(handle, "virNodeGetFreePages"), start)
        finally:
            self.leave()
        return new_page_counts(sizes, start, count, counts)

    def alloc_pages(self, pages, start_cell=-1, cell_count=1, flags=0):
        """Reserve huge pages, or set how many are reserved.

        A kernel that finds no room for all of them keeps those that it found.

        Parameters
        ----------
        pages : mapping of int to int
            The number of pages by their size in KiB, such as ``{2048: 64}``.
        start_cell : int, default -1
            The first NUMA cell; -1 leaves the choice to the kernel.
        cell_count : int, default 1
            The number of cells, each of which gets that many pages.
        flags : AllocPagesFlags or int, default 0
            `AllocPagesFlags.ADD` adds to what is reserved, `AllocPagesFlags.SET` sets the number.

        Returns
        -------
        int
            The number of cells in which pages were reserved.

        Raises
        ------
        ValueError
            A page size is 0, or `pages` is empty.
        InvalidArgumentError
            The cell does not exist.
        AccessDeniedError
            The connection is read-only.

        Notes
        -----
        ``virNodeAllocPages``, since libvirt 1.2.9; 1 round trip.
        """
        cdef list wanted = pairs_argument(pages, "pages")
        cdef int start = int_argument(start_cell, "start_cell")
        cdef unsigned int cells = uint_argument(cell_count, "cell_count")
        cdef unsigned int c_flags = uint_argument(flags, "flags")
        cdef unsigned int sizes[MAX_CELLS]
        cdef unsigned long long counts[MAX_CELLS]
        cdef unsigned int size_count = len(wanted)
        cdef unsigned int i
        cdef lib.virConnectPtr handle
        cdef int result
        if len(wanted) > <int>MAX_CELLS:
            raise ValueError(f"pages must have at most {MAX_CELLS} sizes, not {len(wanted)}")
        for i in range(size_count):
            size, count = wanted[i]
            sizes[i] = page_size_argument(size, "pages")
            counts[i] = ullong_argument(count, f"pages[{size}]")
        handle = self.enter()
        try:
            with nogil:
                result = lib.virNodeAllocPages(
                    handle, size_count, sizes, counts, start, cells, c_flags)
            if result < 0:
                raise self.cell_error(last_error(handle, "virNodeAllocPages"), start)
            return result
        finally:
            self.leave()

    # ---- parameters ----

    def memory_parameters(self, flags=0):
        """Return the settings and counters of kernel samepage merging (KSM).

        Parameters
        ----------
        flags : int, default 0
            libvirt defines none yet.

        Returns
        -------
        TypedParameters
            ``VIR_NODE_MEMORY_SHARED_...``, as far as the host's kernel has them.

        Notes
        -----
        ``virNodeGetMemoryParameters``, since libvirt 0.10.2; 2 round trips.
        """
        cdef unsigned int c_flags = uint_argument(flags, "flags")
        cdef lib.virTypedParameter parameters[MAX_PARAMETERS]
        cdef int count = MAX_PARAMETERS
        cdef lib.virConnectPtr handle = self.enter()
        cdef int result
        try:
            memset(parameters, 0, sizeof(parameters))
            with nogil:
                result = lib.virNodeGetMemoryParameters(handle, parameters, &count, c_flags)
            if result < 0:
                raise last_error(handle, "virNodeGetMemoryParameters")
            try:
                return new_typed_parameters(parameters, count)
            finally:
                lib.virTypedParamsClear(parameters, count)
        finally:
            self.leave()

    def set_memory_parameters(self, parameters, flags=0):
        """Change settings of kernel samepage merging (KSM).

        Parameters
        ----------
        parameters : mapping of str to int
            New values of ``VIR_NODE_MEMORY_SHARED_PAGES_TO_SCAN``,
            ``VIR_NODE_MEMORY_SHARED_SLEEP_MILLISECS`` or
            ``VIR_NODE_MEMORY_SHARED_MERGE_ACROSS_NODES``. What `memory_parameters` returned
            restores the settings of that time; its counters are skipped.
        flags : int, default 0
            libvirt defines none yet.

        Raises
        ------
        ValueError
            A parameter is unknown or read-only, or there is none; nothing is set.
        TypeError, OverflowError
            A value does not fit its parameter's type; nothing is set.
        AccessDeniedError
            The connection is read-only.

        Notes
        -----
        ``virNodeSetMemoryParameters``, since libvirt 0.10.2; 2 round trips.
        """
        self.set_parameters(lib.virNodeSetMemoryParameters, "virNodeSetMemoryParameters",
                            memory_settings(parameters), flags)

    def sev_info(self, flags=0):
        """Return what the host offers of AMD's Secure Encrypted Virtualization (SEV).

        Parameters
        ----------
        flags : int, default 0
            libvirt defines none yet.

        Returns
        -------
        TypedParameters
            ``VIR_NODE_SEV_...``, as far as the host has them.

        Raises
        ------
        NotSupportedError
            The host has no SEV.
        AccessDeniedError
            The connection is read-only.

        Notes
        -----
        ``virNodeGetSEVInfo``, since libvirt 4.5.0; 2 round trips.
        """
        cdef unsigned int c_flags = uint_argument(flags, "flags")
        cdef lib.virTypedParameterPtr parameters = NULL
        cdef int count = 0
        cdef lib.virConnectPtr handle = self.enter()
        cdef int result
        try:
            with nogil:
                result = lib.virNodeGetSEVInfo(handle, &parameters, &count, c_flags)
            if result < 0:
                raise last_error(handle, "virNodeGetSEVInfo")
            try:
                return new_typed_parameters(parameters, count)
            finally:
                lib.virTypedParamsFree(parameters, count)
        finally:
            self.leave()

    # ---- all of it ----

    def snapshot(self, fields=None, *, page_sizes=None, HostSnapshot out=None):
        """Read many fields in one go, without Python in between.

        The GIL is released once for all of them. A field that fails affects no other: it is None,
        and `HostSnapshot.errors` has the exception. The same goes for the fields that are left when
        the connection dies in between.

        Parameters
        ----------
        fields : iterable of str, optional
            Names from `ALL_FIELDS`; by default `PRIORITY_FIELDS`, which a daemon answers even when
            all its ordinary workers are stuck.
        page_sizes : list of int, optional
            In KiB: also read ``free_pages``, for these sizes. By default ``free_pages`` has the
            sizes that the host has; its capabilities are read the first time.
        out : HostSnapshot, optional
            An earlier snapshot of this connection with the same fields, to overwrite together with
            its arrays instead of making a new one. Threads that share it may see it half written.

        Returns
        -------
        HostSnapshot
            `out` if given.

        Raises
        ------
        ValueError
            A field is unknown, there is none, or `out` is of another connection or has other fields
            or page sizes; it is unchanged.

        Notes
        -----
        ``virNodeGetInfo``, since libvirt 0.1.0, ``virNodeGetCPUStats``, since libvirt 0.9.3,
        ``virNodeGetCPUMap``, since libvirt 1.0.0, ``virNodeGetMemoryStats``, since libvirt 0.9.3,
        ``virNodeGetFreeMemory``, since libvirt 0.3.3, ``virNodeGetCellsFreeMemory``, since libvirt
        0.3.3, ``virNodeGetFreePages``, since libvirt 1.2.6, ``virNodeGetMemoryParameters``, since
        libvirt 0.10.2. As many round trips as reading each field alone, but the CPU map only once:
        1 round trip for each field, 1 for each CPU or cell, 2 for the memory parameters; a few more
        for the first snapshot.

        Examples
        --------
        >>> snapshot = connection.snapshot(["cpu_stats", "free_memory"])
        >>> snapshot.free_memory, snapshot.errors
        (3145728, {})
        """
        cdef Readings readings
        cdef lib.virConnectPtr handle
        cdef unsigned int wanted = field_bits(
            _results.PRIORITY_FIELDS if fields is None else items_argument(fields, "fields", "str"))
        cdef tuple sizes = None
        if page_sizes is not None:
            wanted |= PAGES_BIT
            sizes = few_page_sizes_argument(page_sizes)
        check_out(out, self.learned, wanted, sizes)
        handle = self.enter()
        begin_readings(&readings)
        try:
            failures = self.read(handle, &readings, wanted, sizes)
            if sizes is None and has_stale_page_sizes(&readings):
                self.learned.learn_page_sizes(None)
                failures |= self.read(handle, &readings, PAGES_BIT, None)
            readings.wanted = wanted
            result = new_snapshot(self.learned, self.known_uri(), wanted) if out is None else out
            fill_snapshot(result, &readings, failures)
            return result
        finally:
            free_readings(&readings)
            self.leave()

    cdef dict read(self, lib.virConnectPtr handle, Readings *readings, unsigned int wanted,
                   tuple page_sizes):
        # Returns why some of it could not be read, where that is not in the readings.
        cdef dict failures = {}
        cdef Py_ssize_t i
        if wanted & PAGES_BIT:
            try:
                page_sizes = self.known_page_sizes() if page_sizes is None else page_sizes
            except LibvirtError as error:
                failures["free_pages"] = error
                wanted &= ~<unsigned int>PAGES_BIT
            else:
                readings.pages.size_count = len(page_sizes)
                for i in range(len(page_sizes)):
                    readings.pages.sizes[i] = page_sizes[i]
        readings.wanted = wanted
        self.learned.prepare(readings)
        with nogil:
            read_all(handle, readings)
        if readings.cells >= 0:
            self.learned.learn_cells(readings.cells)
        return failures

    # ---- the rest ----

    def security_model(self):
        """Return the security driver that confines the host's guests.

        Returns
        -------
        SecurityModel

        Notes
        -----
        ``virNodeGetSecurityModel``, since libvirt 0.6.1; 1 round trip.
        """
        cdef lib.virSecurityModel model
        cdef lib.virConnectPtr handle = self.enter()
        cdef int result
        try:
            memset(&model, 0, sizeof(model))
            with nogil:
                result = lib.virNodeGetSecurityModel(handle, &model)
            if result < 0:
                raise last_error(handle, "virNodeGetSecurityModel")
            return new_security_model(&model)
        finally:
            self.leave()

    def suspend_for_duration(self, target, duration, flags=0):
        """Suspend the whole host, and wake it up after a while.

        Parameters
        ----------
        target : NodeSuspendTarget or int
            To memory, to disk, or both.
        duration : int
            In seconds; libvirt requires at least 60.
        flags : int, default 0
            libvirt defines none yet.

        Raises
        ------
        AccessDeniedError
            The connection is read-only.
        NotSupportedError
            The host can't be suspended like that.

        Notes
        -----
        ``virNodeSuspendForDuration``, since libvirt 0.9.8; 1 round trip.
        """
        cdef unsigned int c_target = uint_argument(target, "target")
        cdef unsigned long long c_duration = ullong_argument(duration, "duration")
        cdef unsigned int c_flags = uint_argument(flags, "flags")
        cdef lib.virConnectPtr handle = self.enter()
        cdef int result
        try:
            with nogil:
                result = lib.virNodeSuspendForDuration(handle, c_target, c_duration, c_flags)
            if result < 0:
                raise last_error(handle, "virNodeSuspendForDuration")
        finally:
            self.leave()

    # ---- statistics and cells, learned once ----

    cdef Stats stats(self, Source source, int number, unsigned int flags, Stats out):
        cdef lib.virNodeCPUStats reading[MAX_FIELDS]
        cdef int count = self.learned.field_count(source)
        cdef lib.virConnectPtr handle = self.enter()
        cdef int outcome
        try:
            with nogil:
                outcome = read_stats(handle, source, number, reading, &count, flags)
            if outcome != READ:
                raise last_error(
                    handle, "virNodeGetCPUStats" if source == CPU else "virNodeGetMemoryStats")
        finally:
            self.leave()
        return new_stats(self.learned.layout(source, reading, count), reading, out)

    cdef StatsTable table(self, Source source, const Table *table, StatsTable out):
        return new_stats_table(
            self.learned.layout(source, table.first, table.count), table, out)

    cdef str known_uri(self):
        cdef str uri = self.learned.uri()
        if uri is None:
            uri = self.uri()
            self.learned.learn_uri(uri)
        return uri

    cdef tuple known_page_sizes(self):
        cdef tuple sizes = self.learned.page_sizes()
        if sizes is None:
            sizes = page_sizes_of(self.capabilities())
            if not sizes:
                raise NotSupportedError(
                    "the host does not say which page sizes it has; name them: page_sizes=[4]",
                    function="virConnectGetCapabilities")
            self.learned.learn_page_sizes(sizes)
        return sizes

    cdef int cells(self) except -1:
        # How many NUMA cells there are, asked once.
        cdef lib.virConnectPtr handle
        cdef int outcome
        cdef int cells = self.learned.cells()
        if cells < 0:
            handle = self.enter()
            try:
                with nogil:
                    outcome = count_cells(handle, &cells)
                if outcome != READ:
                    raise outcome_error(handle, outcome, "virNodeGetInfo")
                self.learned.learn_cells(cells)
            finally:
                self.leave()
        return cells

    cdef object cell_error(self, object error, int start):
        # Drivers report a cell that does not exist as an internal error of their own.
        if type(error) is not LibvirtError:
            return error
        try:
            exists = -1 <= start < self.cells()
        except LibvirtError:
            return error
        return error if exists else recast(error, InvalidArgumentError)


# ---- the oldest libvirt that this module works with ---------------------------------------------

OLDEST_LIBVIRT = new_version(7_000_000)

if lib_version() < OLDEST_LIBVIRT:
    raise NotSupportedError(
        f"pyvirhost needs libvirt {OLDEST_LIBVIRT} or newer, this is {lib_version()}")
