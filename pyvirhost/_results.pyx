"""libvirt's structs as immutable Python objects that own what they hold.

Every type here is a copy that needs no connection, pickles, compares and, where it holds an array,
speaks the buffer protocol.
"""

cimport cython
cimport libvirt as lib
from cpython.buffer cimport (PyBUF_F_CONTIGUOUS, PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES,
                             PyBUF_WRITABLE)
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.number cimport PyNumber_Index
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.limits cimport LLONG_MAX, LLONG_MIN
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy
from posix.time cimport timespec

from pyvirhost._arguments cimport (int_argument, integer_argument, text_argument, uint_argument,
                                   ullong_argument)
from pyvirhost._errors cimport last_error, reading_error
from pyvirhost._readings cimport (
    CELL_MEMORY, CELLS_FREE_MEMORY, CPU, CPU_MAP, CPU_STATS, FIELD_COUNT, FREE_MEMORY, FREE_PAGES,
    HOST_MEMORY, MAX_FIELDS, MEMORY_PARAMETERS, MEMORY_STATS, NODE_INFO, PER_CELL_MEMORY_STATS,
    PER_CPU_STATS, Field, OnlineCPUs, Readings, Source, Table)

# collections.abc without the rest of collections, a fifth of the time that a first reading takes.
from _collections_abc import ItemsView, KeysView, Mapping, Set, ValuesView
from bisect import bisect_left

from pyvirhost._errors import LibvirtError

GenericAlias = type(list[int])  # of types, without loading it


cdef extern from "<string.h>" nogil:
    size_t strnlen(const char *text, size_t most)


cdef extern from *:
    """
    #define match_as_mapping(type) (((PyTypeObject *)(type))->tp_flags |= Py_TPFLAGS_MAPPING)
    """
    void match_as_mapping(object type)


# ---- what the types share -----------------------------------------------------------------------

cdef Py_ssize_t UINT64_SIZE = sizeof(unsigned long long)
cdef Py_ssize_t BYTE_SIZE = 1


cdef bytes raw_text(const char *field, size_t size):
    # libvirt's fixed char fields need not end in a NUL.
    return field[:strnlen(field, size)]


cdef str bounded_text(const char *field, size_t size):
    return raw_text(field, size).decode("utf-8", "replace")


cdef unsigned long long *new_values(Py_ssize_t count) except NULL:
    cdef unsigned long long *values = <unsigned long long *>PyMem_Malloc(
        max(count, 1) * UINT64_SIZE)
    if values is NULL:
        raise MemoryError
    return values


cdef unsigned long long *copied_values(const unsigned long long *values,
                                       Py_ssize_t count) except NULL:
    cdef unsigned long long *copy = new_values(count)
    memcpy(copy, values, count * UINT64_SIZE)
    return copy


cdef int fill_pickled(unsigned long long *values, tuple numbers) except -1:
    cdef Py_ssize_t i
    for i in range(len(numbers)):
        values[i] = PyNumber_Index(numbers[i])
    return 0


cdef unsigned long long *pickled_values(tuple numbers) except NULL:
    cdef unsigned long long *values = new_values(len(numbers))
    try:
        fill_pickled(values, numbers)
    except BaseException:
        PyMem_Free(values)
        raise
    return values


cdef tuple python_numbers(const unsigned long long *values, Py_ssize_t count):
    return tuple([values[i] for i in range(count)])


cdef int export_buffer(object owner, Py_buffer *view, int flags, const void *data,
                       const char *format, Py_ssize_t itemsize, int ndim,
                       Py_ssize_t *shape, Py_ssize_t *strides) except -1:
    # Fill a consumer's view of a C-contiguous array with what its flags ask for.
    cdef Py_ssize_t length = itemsize
    cdef bint fortran = ndim == 1
    cdef int i
    for i in range(ndim):
        length *= shape[i]
        fortran |= shape[i] <= 1
    if flags & PyBUF_WRITABLE:
        raise BufferError(f"{type(owner).__name__} is read-only")
    if not fortran and (flags & PyBUF_F_CONTIGUOUS) == PyBUF_F_CONTIGUOUS:
        raise BufferError(f"{type(owner).__name__} is C-contiguous, not Fortran-contiguous")
    view.obj = owner
    view.buf = <void *>data
    view.len = length
    view.itemsize = itemsize
    view.readonly = 1
    view.ndim = ndim if flags & PyBUF_ND else 1
    view.format = <char *>format if flags & PyBUF_FORMAT else NULL
    view.shape = shape if flags & PyBUF_ND else NULL
    view.strides = strides if (flags & PyBUF_STRIDES) == PyBUF_STRIDES else NULL
    view.suboffsets = NULL
    view.internal = NULL
    return 0


cdef object made_elsewhere(object self, str maker):
    return TypeError(f"{type(self).__name__} can't be created directly; {maker} returns it")


cdef tuple UNITS = ("ns", "KiB", "KiB")  # by `Source`


@cython.final
@cython.no_gc
cdef class FieldLayout:
    # The field names of one kind of reading, shared by all readings of that kind.

    def __cinit__(self):
        self.names = ()
        self.positions = {}
        self.unit = ""
        self.count = 0

    def __dealloc__(self):
        PyMem_Free(self.c_names)

    cdef bint matches(self, const lib.virNodeCPUStats *reading,
                      Py_ssize_t count) noexcept nogil:
        cdef Py_ssize_t i
        if count != self.count:
            return False
        for i in range(count):
            if memcmp(self.c_names[i].text, reading[i].field, self.c_names[i].size) != 0:
                return False
        return True


cdef FieldLayout layout_of(tuple names, str unit):
    cdef FieldLayout layout = FieldLayout.__new__(FieldLayout)
    cdef Py_ssize_t i
    cdef Py_ssize_t size = 0
    if unit not in UNITS:
        raise ValueError(f"no unit of a reading: {unit!r}")
    if len(names) > MAX_FIELDS:
        raise ValueError(f"a reading has at most {MAX_FIELDS} fields, not {len(names)}")
    layout.c_names = <FieldName *>PyMem_Malloc(max(len(names), 1) * sizeof(FieldName))
    if layout.c_names is NULL:
        raise MemoryError
    for i in range(len(names)):
        if type(names[i]) is not str:
            raise TypeError(f"a field's name is a str, not {type(names[i]).__name__}")
        # Points into the str, which the tuple keeps alive.
        layout.c_names[i].text = PyUnicode_AsUTF8AndSize(names[i], &size)
        layout.c_names[i].size = min(
            <size_t>size + 1, <size_t>lib.VIR_NODE_CPU_STATS_FIELD_LENGTH)
        layout.positions[names[i]] = i
    layout.names = names
    layout.unit = unit
    layout.of_cpus = unit == "ns"
    layout.count = len(names)
    return layout


cdef FieldLayout new_layout(const lib.virNodeCPUStats *reading, Py_ssize_t count, str unit):
    return layout_of(
        tuple([bounded_text(reading[i].field, sizeof(reading[i].field)) for i in range(count)]),
        unit)


cdef FieldLayout NO_FIELDS = layout_of((), "ns")


@cython.final
@cython.no_gc
cdef class Learned:
    # What a server has told once for all; what it has not told yet is None, 0 or -1.

    def __cinit__(self):
        self.cell_count = -1

    cdef FieldLayout known_layout(self, Source source):
        cdef FieldLayout layout
        with cython.critical_section(self):
            if source == CPU:
                layout = self.cpu
            elif source == HOST_MEMORY:
                layout = self.host_memory
            else:
                layout = self.cell_memory
        return layout

    cdef int field_count(self, Source source) noexcept:
        cdef int count
        with cython.critical_section(self):
            count = self.counts[<int>source]
        return count

    cdef void prepare(self, Readings *readings) noexcept:
        # With what need not be asked again.
        with cython.critical_section(self):
            readings.cells = self.cell_count
            memcpy(readings.counts, self.counts, sizeof(self.counts))

    cdef FieldLayout layout(self, Source source, const lib.virNodeCPUStats *reading, int count):
        # The layout of a reading, which is learned.
        cdef FieldLayout layout = self.known_layout(source)
        if layout is not None and layout.matches(reading, count):
            return layout
        layout = new_layout(reading, count, UNITS[source])
        with cython.critical_section(self):
            self.counts[<int>source] = count
            if source == CPU:
                self.cpu = layout
            elif source == HOST_MEMORY:
                self.host_memory = layout
            else:
                self.cell_memory = layout
        return layout

    cdef int cells(self) noexcept:
        cdef int cells
        with cython.critical_section(self):
            cells = self.cell_count
        return cells

    cdef void learn_cells(self, int cells) noexcept:
        with cython.critical_section(self):
            self.cell_count = cells

    cdef tuple page_sizes(self):
        cdef tuple sizes
        with cython.critical_section(self):
            sizes = self.host_page_sizes
        return sizes

    cdef void learn_page_sizes(self, tuple sizes) noexcept:
        with cython.critical_section(self):
            self.host_page_sizes = sizes

    cdef str uri(self):
        cdef str uri
        with cython.critical_section(self):
            uri = self.host_uri
        return uri

    cdef void learn_uri(self, str uri) noexcept:
        with cython.critical_section(self):
            self.host_uri = uri


cdef class ReadOnlyMapping:
    """The methods of a mapping, over a subclass's keys and values."""

    def __contains__(self, key):
        try:
            self[key]
        except KeyError:
            return False
        return True

    def get(self, key, default=None):
        """Return the value of `key`, or `default` if there is none."""
        try:
            return self[key]
        except KeyError:
            return default

    def keys(self):
        """Return a view of the keys."""
        return KeysView(self)

    def values(self):
        """Return a view of the values."""
        return ValuesView(self)

    def items(self):
        """Return a view of the (key, value) pairs."""
        return ItemsView(self)

    def to_dict(self):
        """Return the same as a dict."""
        return dict(self.items())


Mapping.register(ReadOnlyMapping)


# ---- node information ---------------------------------------------------------------------------

@cython.final
@cython.no_gc
cdef class NodeInfo:
    """The host's CPUs and memory: ``virNodeInfo``.

    `Connection.node_info` returns it.
    """

    def __init__(self, *args, **kwargs):
        raise made_elsewhere(self, "Connection.node_info()")

    def __repr__(self):
        fields = ", ".join([f"{name}={value!r}" for name, value in self.to_dict().items()])
        return f"NodeInfo({fields})"

    def __eq__(self, other):
        if not isinstance(other, NodeInfo):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __hash__(self):
        return hash(tuple(self.to_dict().values()))

    def __reduce__(self):
        # The model as bytes, since it need not be UTF-8.
        _, *numbers = self.to_dict().values()
        return _restore_node_info, (raw_text(self.info.model, sizeof(self.info.model)), *numbers)

    def to_dict(self):
        """Return the fields as a dict, by their names and in their order in C."""
        return {
            "model": self.model, "memory": self.memory, "cpus": self.cpus, "mhz": self.mhz,
            "nodes": self.nodes, "sockets": self.sockets, "cores": self.cores,
            "threads": self.threads,
        }

    @property
    def model(self):
        """The CPU's model or architecture, such as ``x86_64``: str."""
        return bounded_text(self.info.model, sizeof(self.info.model))

    @property
    def memory(self):
        """The host's memory in KiB: int."""
        return self.info.memory

    @property
    def cpus(self):
        """The number of online CPUs: int."""
        return self.info.cpus

    @property
    def mhz(self):
        """The CPUs' nominal frequency in MHz, 0 if unknown: int."""
        return self.info.mhz

    @property
    def nodes(self):
        """The number of NUMA cells, 1 on a host with none or with an unusual layout: int."""
        return self.info.nodes

    @property
    def sockets(self):
        """The number of CPU sockets in a NUMA cell: int."""
        return self.info.sockets

    @property
    def cores(self):
        """The number of cores in a socket: int."""
        return self.info.cores

    @property
    def threads(self):
        """The number of threads in a core: int."""
        return self.info.threads

    @property
    def memory_bytes(self):
        """The host's memory in bytes: int."""
        return self.memory * 1024

    @property
    def max_cpus(self):
        """The most CPUs that the layout has room for: int (``VIR_NODEINFO_MAXCPUS``)."""
        return self.nodes * self.sockets * self.cores * self.threads


cdef NodeInfo new_node_info(const lib.virNodeInfo *info):
    cdef NodeInfo result = NodeInfo.__new__(NodeInfo)
    result.info = info[0]
    return result


# What a pickle holds may be anything, of which Cython would take a float for an int.

def _restore_node_info(bytes model not None, memory, cpus, mhz, nodes, sockets, cores, threads):
    cdef NodeInfo result = NodeInfo.__new__(NodeInfo)
    if len(model) > <Py_ssize_t>sizeof(result.info.model):
        raise ValueError(f"a model of {len(model)} bytes")
    memcpy(result.info.model, <const char *>model, len(model))
    result.info.memory = PyNumber_Index(memory)
    result.info.cpus = PyNumber_Index(cpus)
    result.info.mhz = PyNumber_Index(mhz)
    result.info.nodes = PyNumber_Index(nodes)
    result.info.sockets = PyNumber_Index(sockets)
    result.info.cores = PyNumber_Index(cores)
    result.info.threads = PyNumber_Index(threads)
    return result


# ---- statistics ---------------------------------------------------------------------------------

@cython.no_gc
cdef class Stats(ReadOnlyMapping):
    """One reading of a host's counters; its kinds are `CPUStats` and `MemoryStats`."""

    def __cinit__(self):
        self.layout = NO_FIELDS

    def __dealloc__(self):
        PyMem_Free(self.values)

    def __len__(self):
        return self.layout.count

    def __iter__(self):
        return iter(self.layout.names)

    def __getitem__(self, field):
        return self.values[<Py_ssize_t>self.layout.positions[field]]

    def __getattr__(self, name):
        # A field that a newer server reports and no property here names. Names of Python's own
        # protocols are never a server's to give.
        try:
            if name.startswith("__"):
                raise KeyError
            return self[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no field or attribute {name!r}; the "
                                 f"server reports {', '.join(self.layout.names)}") from None

    def __eq__(self, other):
        if isinstance(other, Stats):
            return type(self) is type(other) and self.fields == other.fields and same_values(
                self.values, (<Stats>other).values, self.layout.count)
        if isinstance(other, dict):
            return self.to_dict() == other
        return NotImplemented

    def __repr__(self):
        fields = ", ".join([f"{name}={value}" for name, value in self.items()])
        return f"<{type(self).__name__} in {self.unit}: {fields}>"

    def __getbuffer__(self, Py_buffer *view, int flags):
        export_buffer(self, view, flags, self.values, "Q", UINT64_SIZE, 1,
                      &self.layout.count, &UINT64_SIZE)

    @property
    def fields(self):
        """The names of the fields, in the server's order: tuple of str."""
        return self.layout.names


@cython.final
@cython.no_gc
cdef class CPUStats(Stats):
    """The time that CPUs spent in each mode since boot: a mapping of field to ns, and a buffer.

    `Connection.cpu_stats` returns it. The fields are those that the server reports, in its order;
    each is an attribute, too. As a buffer: read-only, shape ``(fields,)``, dtype uint64.

    A reading that is passed as ``out=`` again changes in place, also under its buffers; it is
    therefore not hashable.
    """

    def __init__(self, *args, **kwargs):
        raise made_elsewhere(self, "Connection.cpu_stats()")

    def __reduce__(self):
        return _restore_cpu_stats, (
            self.fields, python_numbers(self.values, self.layout.count))

    def in_seconds(self):
        """Return a dict of field to seconds, without `utilization`, which is no time."""
        return {field: time / 1e9 for field, time in self.items() if field != "utilization"}

    @property
    def unit(self):
        """The unit of the values, ``"ns"`` (but `utilization` is in percent): str."""
        return "ns"

    @property
    def kernel(self):
        """Time in the kernel, in ns: int, or None if not reported."""
        return self.get("kernel")

    @property
    def user(self):
        """Time in user space, guests included, in ns: int, or None if not reported."""
        return self.get("user")

    @property
    def idle(self):
        """Idle time, in ns: int, or None if not reported."""
        return self.get("idle")

    @property
    def iowait(self):
        """Time spent waiting for I/O, in ns: int, or None if not reported."""
        return self.get("iowait")

    @property
    def intr(self):
        """Time spent handling interrupts, in ns: int, or None if not reported."""
        return self.get("intr")

    @property
    def guest(self):
        """Time running guests, in ns: int, or None if not reported."""
        return self.get("guest")

    @property
    def utilization(self):
        """How busy the CPUs are, in percent: int, or None if not reported."""
        return self.get("utilization")


@cython.final
@cython.no_gc
cdef class MemoryStats(Stats):
    """The use of memory: a mapping of field to KiB, and a buffer.

    `Connection.memory_stats` returns it. The fields are those that the server reports, in its
    order; each is an attribute, too. As a buffer: read-only, shape ``(fields,)``, dtype uint64.

    A reading that is passed as ``out=`` again changes in place, also under its buffers; it is
    therefore not hashable.
    """

    def __init__(self, *args, **kwargs):
        raise made_elsewhere(self, "Connection.memory_stats()")

    def __reduce__(self):
        return _restore_memory_stats, (
            self.fields, python_numbers(self.values, self.layout.count))

    def in_bytes(self):
        """Return a dict of field to bytes."""
        return {field: size * 1024 for field, size in self.items()}

    @property
    def unit(self):
        """The unit of the values, ``"KiB"``: str."""
        return "KiB"

    @property
    def total(self):
        """All memory, in KiB: int, or None if not reported."""
        return self.get("total")

    @property
    def free(self):
        """Unused memory, in KiB: int, or None if not reported."""
        return self.get("free")

    @property
    def buffers(self):
        """Memory in kernel buffers, in KiB: int, or None if not reported."""
        return self.get("buffers")

    @property
    def cached(self):
        """Memory in the page cache, in KiB: int, or None if not reported."""
        return self.get("cached")

    @property
    def available(self):
        """Memory that programs can get without swapping, in KiB: int, or None if not reported."""
        return self.get("available")


cdef bint same_values(const unsigned long long *one, const unsigned long long *other,
                      Py_ssize_t count) noexcept:
    return count == 0 or memcmp(one, other, count * UINT64_SIZE) == 0


cdef inline Stats empty_stats(FieldLayout layout):
    cdef Stats result
    if layout.of_cpus:
        result = CPUStats.__new__(CPUStats)
    else:
        result = MemoryStats.__new__(MemoryStats)
    result.values = new_values(layout.count)
    result.layout = layout
    return result


cdef Stats new_stats(FieldLayout layout, const lib.virNodeCPUStats *reading, Stats out):
    # `out` where there is one.
    cdef Py_ssize_t i
    if out is None:
        out = empty_stats(layout)
    else:
        check_same_fields(out.layout, layout)
    for i in range(layout.count):
        out.values[i] = reading[i].value
    return out


cdef Stats stats_like(Stats out, FieldLayout layout, const lib.virNodeCPUStats *reading):
    # `out` where it fits.
    return new_stats(layout, reading, out if (
        out is not None and out.layout is layout) else None)


cdef Stats stats_row(FieldLayout layout, const unsigned long long *values):
    cdef Stats result = empty_stats(layout)
    memcpy(result.values, values, layout.count * UINT64_SIZE)
    return result


cdef int check_same_fields(FieldLayout out, FieldLayout layout) except -1:
    if out is not layout and (out.names, out.unit) != (layout.names, layout.unit):
        raise ValueError(f"out has the fields {out.names} in {out.unit}, the reading has "
                         f"{layout.names} in {layout.unit}")
    return 0


cdef Stats restored_stats(FieldLayout layout, tuple values):
    cdef Stats result = empty_stats(layout)
    if len(values) != layout.count:
        raise ValueError(f"{len(values)} values for {layout.count} fields")
    fill_pickled(result.values, values)
    return result


def _restore_cpu_stats(tuple fields not None, tuple values not None):
    return restored_stats(layout_of(fields, "ns"), values)


def _restore_memory_stats(tuple fields not None, tuple values not None):
    return restored_stats(layout_of(fields, "KiB"), values)


@cython.final
@cython.no_gc
cdef class StatsTable(ReadOnlyMapping):
    """A reading for each CPU or NUMA cell: a mapping of its number to `CPUStats` or `MemoryStats`.

    `Connection.per_cpu_stats` and `Connection.per_cell_memory_stats` return it. As a buffer:
    read-only, C-contiguous, shape ``(len(index), len(fields))``, dtype uint64.

    A table that is passed as ``out=`` again changes in place, also under its buffers; it is
    therefore not hashable.
    """

    @classmethod
    def __class_getitem__(cls, row):
        # For annotations: StatsTable[CPUStats].
        return GenericAlias(cls, row)

    def __cinit__(self):
        self.layout = NO_FIELDS
        self.numbers = ()

    def __init__(self, *args, **kwargs):
        raise made_elsewhere(self, "Connection.per_cpu_stats() or per_cell_memory_stats()")

    def __dealloc__(self):
        PyMem_Free(self.values)

    def __len__(self):
        return len(self.numbers)

    def __iter__(self):
        return iter(self.numbers)

    def __getitem__(self, number):
        cdef Py_ssize_t row
        try:
            row = bisect_left(self.numbers, number)
        except TypeError:
            raise KeyError(number) from None
        if row >= len(self.numbers) or self.numbers[row] != number:
            raise KeyError(number)
        return stats_row(self.layout, self.values + row * self.layout.count)

    def __eq__(self, other):
        if isinstance(other, StatsTable):
            return (self.index, self.fields, self.unit) == (
                other.index, other.fields, other.unit) and same_values(
                self.values, (<StatsTable>other).values, self.shape[0] * self.shape[1])
        if isinstance(other, dict):
            return self.to_dict() == other
        return NotImplemented

    def __repr__(self):
        rows = "".join([f"\n  {number}: {dict(row)}" for number, row in self.items()])
        return f"<StatsTable in {self.unit}:{rows}>"

    def __reduce__(self):
        return _restore_stats_table, (
            self.numbers, self.fields, self.unit,
            python_numbers(self.values, self.shape[0] * self.shape[1]))

    def __getbuffer__(self, Py_buffer *view, int flags):
        export_buffer(self, view, flags, self.values, "Q", UINT64_SIZE, 2,
                      self.shape, self.strides)

    @property
    def index(self):
        """The CPU or cell of each row: tuple of int."""
        return self.numbers

    @property
    def fields(self):
        """The names of the columns, in the server's order: tuple of str."""
        return self.layout.names

    @property
    def unit(self):
        """The unit of the values, ``"ns"`` or ``"KiB"``: str."""
        return self.layout.unit

    def to_dict(self):
        """Return the rows as a dict of number to dict."""
        return {number: row.to_dict() for number, row in self.items()}


cdef StatsTable shaped_table(FieldLayout layout, tuple index):
    cdef StatsTable result = StatsTable.__new__(StatsTable)
    result.layout = layout
    result.numbers = index
    result.shape[:] = [len(index), layout.count]
    result.strides[:] = [layout.count * UINT64_SIZE, UINT64_SIZE]
    return result


cdef StatsTable new_stats_table(FieldLayout layout, const Table *table, StatsTable out):
    # `out` where there is one.
    cdef tuple index = tuple([table.numbers[row] for row in range(table.rows)])
    cdef Py_ssize_t count = table.rows * layout.count
    if out is None:
        out = shaped_table(layout, index)
        out.values = copied_values(table.values, count)
        return out
    check_same_fields(out.layout, layout)
    if out.numbers != index:
        raise ValueError(f"out has the rows {out.numbers}, the reading has {index}")
    memcpy(out.values, table.values, count * UINT64_SIZE)
    return out


cdef StatsTable table_like(StatsTable out, FieldLayout layout, const Table *table):
    # `out` where it fits.
    return new_stats_table(layout, table, out if (
        out is not None and out.layout is layout and has_rows(out.numbers, table)) else None)


cdef bint has_rows(tuple index, const Table *table) except -1:
    cdef Py_ssize_t row
    if len(index) != table.rows:
        return False
    for row in range(table.rows):
        if <int>index[row] != table.numbers[row]:
            return False
    return True


def _restore_stats_table(tuple index not None, tuple fields not None, str unit not None,
                         tuple values not None):
    cdef StatsTable result = shaped_table(
        layout_of(fields, unit), tuple([int_argument(number, "index") for number in index]))
    if any([number >= following for number, following in zip(result.numbers, result.numbers[1:])]):
        raise ValueError("rows out of order")
    if len(values) != len(index) * len(fields):
        raise ValueError(f"{len(values)} values for {len(index)} rows of {len(fields)} fields")
    result.values = pickled_values(values)
    return result


# ---- CPU map ------------------------------------------------------------------------------------

@cython.final
@cython.no_gc
cdef class CPUMap:
    """The numbers of the host's online CPUs: a set of int, and libvirt's bitmap as a buffer.

    `Connection.cpu_map` returns it. It has the operators of a set, whose results are frozensets. As
    a buffer: read-only, shape ``((present + 7) // 8,)``, dtype uint8, CPU `i` being bit
    ``i % 8`` of byte ``i // 8``.
    """

    def __init__(self, *args, **kwargs):
        raise made_elsewhere(self, "Connection.cpu_map()")

    def __dealloc__(self):
        free(self.bits)

    def __len__(self):
        return sum([self.is_online(cpu) for cpu in range(self.cpus)])

    def __contains__(self, cpu):
        if not isinstance(cpu, int):
            return False
        # An exact int, since a subclass may compare as it likes.
        number = PyNumber_Index(cpu)
        return 0 <= number < self.cpus and self.is_online(number)

    def __iter__(self):
        cdef int cpu
        for cpu in range(self.cpus):
            if self.is_online(cpu):
                yield cpu

    def __eq__(self, other):
        if isinstance(other, CPUMap):
            return self.__reduce__() == other.__reduce__()
        if isinstance(other, Set):
            return frozenset(self) == other
        return NotImplemented

    def __hash__(self):
        return hash(frozenset(self))

    def __lt__(self, other):
        return frozenset(self) < other

    def __le__(self, other):
        return frozenset(self) <= other

    def __gt__(self, other):
        return frozenset(self) > other

    def __ge__(self, other):
        return frozenset(self) >= other

    def __and__(self, other):
        return frozenset(self) & other

    def __rand__(self, other):
        return other & frozenset(self)

    def __or__(self, other):
        return frozenset(self) | other

    def __ror__(self, other):
        return other | frozenset(self)

    def __sub__(self, other):
        return frozenset(self) - other

    def __rsub__(self, other):
        return other - frozenset(self)

    def __xor__(self, other):
        return frozenset(self) ^ other

    def __rxor__(self, other):
        return other ^ frozenset(self)

    def __bytes__(self):
        return self.bits[:self.size] if self.size else b""

    def __repr__(self):
        return f"<CPUMap: {self.online_count} of {self.cpus} CPUs online: {list(self)}>"

    def __reduce__(self):
        return _restore_cpu_map, (bytes(self), self.cpus, self.online_count)

    def __getbuffer__(self, Py_buffer *view, int flags):
        export_buffer(self, view, flags, self.bits, "B", BYTE_SIZE, 1, &self.size, &BYTE_SIZE)

    cdef bint is_online(self, int cpu) noexcept:
        return lib.VIR_CPU_USED(self.bits, cpu) != 0

    def isdisjoint(self, other):
        """Return whether `other` has none of these CPUs."""
        return frozenset(self).isdisjoint(other)

    @property
    def present(self):
        """The number of CPUs present, as libvirt counts them: int."""
        return self.cpus

    @property
    def online(self):
        """The number of CPUs online, as libvirt counts them: int."""
        return self.online_count

    def to_dict(self):
        """Return a dict of CPU number to bool, for every CPU present."""
        return {cpu: self.is_online(cpu) for cpu in range(self.cpus)}


Set.register(CPUMap)


cdef CPUMap new_cpu_map(OnlineCPUs *cpus):
    # Takes over the bitmap.
    cdef CPUMap result = CPUMap.__new__(CPUMap)
    result.bits, cpus.bits = cpus.bits, NULL
    result.cpus = cpus.present
    result.size = (<size_t>cpus.present + 7) // 8
    result.online_count = cpus.online
    return result


def _restore_cpu_map(bytes bits not None, present, online):
    cdef OnlineCPUs cpus
    cpus.present = PyNumber_Index(present)
    cpus.online = PyNumber_Index(online)
    if cpus.present < 0 or len(bits) != (<Py_ssize_t>cpus.present + 7) // 8:
        raise ValueError(f"{len(bits)} bytes for {cpus.present} CPUs")
    cpus.bits = <unsigned char *>malloc(max(len(bits), 1))
    if cpus.bits is NULL:
        raise MemoryError
    memcpy(cpus.bits, <const unsigned char *>bits, len(bits))
    try:
        return new_cpu_map(&cpus)
    finally:
        free(cpus.bits)


# ---- memory of NUMA cells and pages -------------------------------------------------------------

@cython.final
@cython.no_gc
cdef class CellsFreeMemory(ReadOnlyMapping):
    """The free memory of each NUMA cell: a mapping of its number to bytes, and a buffer.

    `Connection.cells_free_memory` returns it. As a buffer: read-only, shape ``(cells,)``, dtype
    uint64.
    """

    def __init__(self, *args, **kwargs):
        raise made_elsewhere(self, "Connection.cells_free_memory()")

    def __dealloc__(self):
        PyMem_Free(self.values)

    def __len__(self):
        return self.cells

    def __iter__(self):
        return iter(range(self.first_cell, self.first_cell + self.cells))

    def __getitem__(self, cell):
        try:
            position = range(self.first_cell, self.first_cell + self.cells).index(cell)
        except ValueError:
            raise KeyError(cell) from None
        return self.values[<Py_ssize_t>position]

    def __eq__(self, other):
        if isinstance(other, (CellsFreeMemory, dict)):
            return self.to_dict() == dict(other)
        return NotImplemented

    def __repr__(self):
        cells = ", ".join([f"{cell}: {size}" for cell, size in self.items()])
        return f"<CellsFreeMemory in bytes: {cells}>"

    def __reduce__(self):
        return _restore_cells_free_memory, (
            self.first_cell, python_numbers(self.values, self.cells))

    def __getbuffer__(self, Py_buffer *view, int flags):
        export_buffer(self, view, flags, self.values, "Q", UINT64_SIZE, 1,
                      &self.cells, &UINT64_SIZE)

    @property
    def start_cell(self):
        """The number of the first cell: int."""
        return self.first_cell


cdef CellsFreeMemory new_cells_free_memory(int start_cell, Py_ssize_t cells,
                                           const unsigned long long *values):
    cdef CellsFreeMemory result = CellsFreeMemory.__new__(CellsFreeMemory)
    result.values = copied_values(values, cells)
    result.first_cell = start_cell
    result.cells = cells
    return result


def _restore_cells_free_memory(start_cell, tuple values not None):
    cdef CellsFreeMemory result = CellsFreeMemory.__new__(CellsFreeMemory)
    result.values = pickled_values(values)
    result.first_cell = PyNumber_Index(start_cell)
    result.cells = len(values)
    return result


@cython.final
@cython.no_gc
cdef class PageCounts:
    """The number of free pages of each size in each NUMA cell.

    `Connection.free_pages` returns it. ``counts[cell, page_size]`` is an int, with the page size in
    KiB. As a buffer: read-only, C-contiguous, shape ``(len(cells), len(page_sizes))``, dtype
    uint64.
    """

    def __cinit__(self):
        self.sizes = ()

    def __init__(self, *args, **kwargs):
        raise made_elsewhere(self, "Connection.free_pages()")

    def __dealloc__(self):
        PyMem_Free(self.values)

    def __getitem__(self, key):
        if not isinstance(key, tuple) or len(key) != 2:
            raise TypeError("PageCounts takes two keys: counts[cell, page_size]")
        cell, page_size = key
        if cell not in self.cells or page_size not in self.sizes:
            raise KeyError(key)
        return self.values[
            <Py_ssize_t>self.cells.index(cell) * self.shape[1]
            + <Py_ssize_t>self.sizes.index(page_size)]

    def __eq__(self, other):
        if not isinstance(other, PageCounts):
            return NotImplemented
        return self.__reduce__() == other.__reduce__()

    def __hash__(self):
        return hash(self.__reduce__())

    def __repr__(self):
        cells = "".join([f"\n  {cell}: {counts}" for cell, counts in self.to_dict().items()])
        return f"<PageCounts by cell and KiB:{cells}>"

    def __reduce__(self):
        return _restore_page_counts, (
            self.sizes, self.first_cell, self.shape[0],
            python_numbers(self.values, self.shape[0] * self.shape[1]))

    def __getbuffer__(self, Py_buffer *view, int flags):
        export_buffer(self, view, flags, self.values, "Q", UINT64_SIZE, 2,
                      self.shape, self.strides)

    @property
    def page_sizes(self):
        """The page size of each column, in KiB: tuple of int."""
        return self.sizes

    @property
    def start_cell(self):
        """The cell of the first row: int."""
        return self.first_cell

    @property
    def cells(self):
        """The cell of each row: range."""
        return range(self.first_cell, self.first_cell + self.shape[0])

    def to_dict(self):
        """Return a dict of cell to a dict of page size in KiB to count."""
        return {cell: {size: self[cell, size] for size in self.sizes} for cell in self.cells}


cdef PageCounts shaped_page_counts(tuple page_sizes, int start_cell, Py_ssize_t cells):
    cdef PageCounts result = PageCounts.__new__(PageCounts)
    result.sizes = page_sizes
    result.first_cell = start_cell
    result.shape[:] = [cells, len(page_sizes)]
    result.strides[:] = [len(page_sizes) * UINT64_SIZE, UINT64_SIZE]
    return result


cdef PageCounts new_page_counts(tuple page_sizes, int start_cell, Py_ssize_t cells,
                                const unsigned long long *values):
    cdef PageCounts result = shaped_page_counts(page_sizes, start_cell, cells)
    result.values = copied_values(values, cells * len(page_sizes))
    return result


def _restore_page_counts(tuple page_sizes not None, start_cell, cells, tuple values not None):
    cdef PageCounts result
    cdef Py_ssize_t count = PyNumber_Index(cells)
    # Not as a product, which may overflow.
    if divmod(len(values), len(page_sizes) or 1) != (count, 0) or (values and not page_sizes):
        raise ValueError(f"{len(values)} counts for {count} cells of {len(page_sizes)} sizes")
    result = shaped_page_counts(
        tuple([uint_argument(size, "page_sizes") for size in page_sizes]),
        PyNumber_Index(start_cell), count)
    result.values = pickled_values(values)
    return result


# ---- typed parameters ---------------------------------------------------------------------------

cdef dict TYPE_NAMES = {
    lib.VIR_TYPED_PARAM_INT: "int",
    lib.VIR_TYPED_PARAM_UINT: "uint",
    lib.VIR_TYPED_PARAM_LLONG: "llong",
    lib.VIR_TYPED_PARAM_ULLONG: "ullong",
    lib.VIR_TYPED_PARAM_DOUBLE: "double",
    lib.VIR_TYPED_PARAM_BOOLEAN: "boolean",
    lib.VIR_TYPED_PARAM_STRING: "string",
}


@cython.final
@cython.no_gc
cdef class TypedParameters(ReadOnlyMapping):
    """Named values that remember their C types: a mapping of name to int, float, bool or str.

    `Connection.memory_parameters` and `Connection.sev_info` return it, in libvirt's order.
    """

    def __cinit__(self):
        self.contents = {}
        self.c_types = {}

    def __init__(self, *args, **kwargs):
        raise made_elsewhere(self, "Connection.memory_parameters() or sev_info()")

    def __len__(self):
        return len(self.contents)

    def __iter__(self):
        return iter(self.contents)

    def __getitem__(self, name):
        return self.contents[name]

    def __eq__(self, other):
        if isinstance(other, TypedParameters):
            return self.to_dict() == other.to_dict() and self.types == other.types
        if isinstance(other, dict):
            return self.to_dict() == other
        return NotImplemented

    def __repr__(self):
        values = ", ".join(
            [f"{name}={value!r} ({self.c_types[name]})" for name, value in self.items()])
        return f"<TypedParameters: {values}>"

    def __reduce__(self):
        return _restore_typed_parameters, (self.to_dict(), self.types)

    @property
    def types(self):
        """The C type of each value, such as ``"uint"`` or ``"ullong"``: dict of str to str."""
        return dict(self.c_types)


cdef object parameter_value(const lib.virTypedParameter *parameter):
    if parameter.type == lib.VIR_TYPED_PARAM_INT:
        return parameter.value.i
    if parameter.type == lib.VIR_TYPED_PARAM_UINT:
        return parameter.value.ui
    if parameter.type == lib.VIR_TYPED_PARAM_LLONG:
        return parameter.value.l
    if parameter.type == lib.VIR_TYPED_PARAM_ULLONG:
        return parameter.value.ul
    if parameter.type == lib.VIR_TYPED_PARAM_DOUBLE:
        return parameter.value.d
    if parameter.type == lib.VIR_TYPED_PARAM_BOOLEAN:
        return parameter.value.b != 0
    return "" if parameter.value.s is NULL else parameter.value.s.decode("utf-8", "replace")


cdef TypedParameters new_typed_parameters(const lib.virTypedParameter *parameters, int count):
    cdef TypedParameters result = TypedParameters.__new__(TypedParameters)
    cdef int i
    for i in range(count):
        # Servers leave entries of type 0 where they have fewer parameters than was asked for, and
        # a type that libvirt does not know yet can't be read.
        if parameters[i].type in TYPE_NAMES:
            name = bounded_text(parameters[i].field, sizeof(parameters[i].field))
            result.contents[name] = parameter_value(&parameters[i])
            result.c_types[name] = TYPE_NAMES[parameters[i].type]
    return result


cdef object pickled_parameter(str name, object value, str type_name):
    cdef str whole_name = f"parameters[{name!r}]"
    if type_name == "int":
        return int_argument(value, whole_name)
    if type_name == "uint":
        return uint_argument(value, whole_name)
    if type_name == "llong":
        return <long long>integer_argument(value, whole_name, LLONG_MIN, LLONG_MAX)
    if type_name == "ullong":
        return ullong_argument(value, whole_name)
    if type_name not in TYPE_NAMES.values():
        raise ValueError(f"no type of libvirt for {name!r}")
    if type(value) is not {"double": float, "boolean": bool, "string": str}[type_name]:
        raise TypeError(f"{name!r} can't be of type {type(value).__name__}")
    return value


def _restore_typed_parameters(dict contents not None, dict types not None):
    cdef TypedParameters result = TypedParameters.__new__(TypedParameters)
    for name, value in list(contents.items()):
        type_name = types.get(name)
        if type(name) is not str or type(type_name) is not str:
            raise ValueError(f"no type of libvirt for {name!r}")
        result.contents[name] = pickled_parameter(name, value, type_name)
        result.c_types[name] = type_name
    if len(contents) != len(types):
        raise ValueError("types of other parameters")
    return result


cdef int add_typed_parameter(lib.virTypedParameterPtr *parameters, int *count, int *room,
                             object name, str type_name, object value, str argument) except -1:
    # Append to an array that virTypedParamsFree frees.
    cdef const char *c_name = text_argument(name, argument)
    cdef str whole_name = f"{argument}[{name!r}]"
    cdef int result
    if type_name == "int":
        result = lib.virTypedParamsAddInt(
            parameters, count, room, c_name, int_argument(value, whole_name))
    elif type_name == "uint":
        result = lib.virTypedParamsAddUInt(
            parameters, count, room, c_name, uint_argument(value, whole_name))
    elif type_name == "llong":
        result = lib.virTypedParamsAddLLong(
            parameters, count, room, c_name,
            integer_argument(value, whole_name, LLONG_MIN, LLONG_MAX))
    elif type_name == "ullong":
        result = lib.virTypedParamsAddULLong(
            parameters, count, room, c_name, ullong_argument(value, whole_name))
    elif type_name == "double":
        result = lib.virTypedParamsAddDouble(parameters, count, room, c_name, value)
    elif type_name == "boolean":
        result = lib.virTypedParamsAddBoolean(parameters, count, room, c_name, bool(value))
    else:
        result = lib.virTypedParamsAddString(
            parameters, count, room, c_name, text_argument(value, whole_name))
    if result < 0:
        raise last_error(NULL, "virTypedParamsAdd")
    return 0


# The patterns of `match` go by this flag, which Cython 3.2 has no directive for.
match_as_mapping(ReadOnlyMapping)
match_as_mapping(Stats)
match_as_mapping(CPUStats)
match_as_mapping(MemoryStats)
match_as_mapping(StatsTable)
match_as_mapping(CellsFreeMemory)
match_as_mapping(TypedParameters)


# ---- snapshots ----------------------------------------------------------------------------------

ALL_FIELDS = ("node_info", "cpu_stats", "cpu_map", "per_cpu_stats", "memory_stats", "free_memory",
              "cells_free_memory", "per_cell_memory_stats", "free_pages", "memory_parameters")
# What a daemon answers from its priority workers, so also when all ordinary ones are stuck.
PRIORITY_FIELDS = ("node_info", "cpu_stats", "memory_stats", "free_memory", "cells_free_memory",
                   "per_cell_memory_stats")

cdef dict FIELD_NUMBERS = {name: number for number, name in enumerate(ALL_FIELDS)}


cdef unsigned int field_bits(object fields) except? 0xffffffff:
    cdef unsigned int bits = 0
    for name in fields:
        number = FIELD_NUMBERS.get(name) if isinstance(name, str) else None
        if number is None:
            raise ValueError(f"fields has {name!r}, which is none of {', '.join(ALL_FIELDS)}")
        bits |= 1u << <unsigned int>number
    return bits


cdef object plain(object value):
    return value.to_dict() if hasattr(value, "to_dict") else value


@cython.final
cdef class HostSnapshot:
    """Many readings of a host, taken in one go.

    `Connection.snapshot` returns it. Each reading is an attribute named like the method that reads
    it alone. One that was not requested or failed is None, and `errors` says why it failed.

    A snapshot that is passed as ``out=`` again changes in place; it is therefore not hashable.
    """

    def __init__(self, *args, **kwargs):
        raise made_elsewhere(self, "Connection.snapshot()")

    def __eq__(self, other):
        if not isinstance(other, HostSnapshot):
            return NotImplemented
        *state, errors = snapshot_state(self)
        *other_state, other_errors = snapshot_state(other)
        return state == other_state and said(errors) == said(other_errors)

    def __repr__(self):
        values = "".join([f"\n  {name}: {getattr(self, name)!r}" for name in self.fields])
        return f"<HostSnapshot of {self.host_uri} at {self.began:.3f}:{values}>"

    def __reduce__(self):
        return _restore_snapshot, snapshot_state(self)

    def rates(self, earlier):
        """Return how busy the CPUs have been since an earlier snapshot of the same host.

        Parameters
        ----------
        earlier : HostSnapshot or None
            With the same fields.

        Returns
        -------
        HostRates or None
            None if `earlier` is None, as for the first sample.

        Raises
        ------
        ValueError
            `earlier` is of another host.
        """
        from pyvirhost.rates import rates

        return rates(earlier, self)

    def to_dict(self):
        """Return it all as a dict, in C's units; an error is its type and message."""
        return {
            "uri": self.uri,
            "started_at": self.started_at,
            "monotonic_ns": self.monotonic_ns,
            "duration_ns": self.duration_ns,
            **{name: plain(getattr(self, name)) for name in self.fields},
            "errors": {name: {"type": type(error).__name__, "message": error.message}
                       for name, error in self.errors.items()},
        }

    @property
    def uri(self):
        """The URI of the connection: str."""
        return self.host_uri

    @property
    def fields(self):
        """The fields that were requested, in the order of reading: tuple of str."""
        return tuple([name for number, name in enumerate(ALL_FIELDS)
                      if self.wanted >> <unsigned int>number & 1])

    @property
    def started_at(self):
        """When it began, by the wall clock, in seconds since the epoch: float."""
        return self.began

    @property
    def monotonic_ns(self):
        """When it began, before the first call, by the clock of `time.monotonic_ns`: int."""
        return self.began_ns

    @property
    def duration_ns(self):
        """How long it took, in ns: int."""
        return self.took_ns

    @property
    @cython.critical_section
    def errors(self):
        """Why fields could not be read, by name: dict of str to `LibvirtError`."""
        return {} if self.failures is None else dict(self.failures)

    @property
    @cython.critical_section
    def node_info(self):
        """The CPUs and memory: `NodeInfo` or None."""
        return self.info

    @property
    @cython.critical_section
    def cpu_stats(self):
        """The time that all CPUs together have spent in each mode, in ns: `CPUStats` or None."""
        return self.cpu

    @property
    @cython.critical_section
    def per_cpu_stats(self):
        """The time that each online CPU has spent in each mode, in ns: `StatsTable` or None."""
        return self.cpu_table

    @property
    @cython.critical_section
    def cpu_map(self):
        """Which CPUs are online: `CPUMap` or None."""
        return self.cpus

    @property
    @cython.critical_section
    def memory_stats(self):
        """How the host's memory is used, in KiB: `MemoryStats` or None."""
        return self.memory

    @property
    @cython.critical_section
    def per_cell_memory_stats(self):
        """How the memory of each NUMA cell is used, in KiB: `StatsTable` or None."""
        return self.cell_table

    @property
    def free_memory(self):
        """The free memory in bytes: int or None."""
        return self.free if self.read >> <unsigned int>FREE_MEMORY & 1 else None

    @property
    @cython.critical_section
    def cells_free_memory(self):
        """The free memory of each NUMA cell in bytes: `CellsFreeMemory` or None."""
        return self.cells_free

    @property
    @cython.critical_section
    def free_pages(self):
        """The free pages of each size in each NUMA cell: `PageCounts` or None."""
        return self.pages

    @property
    @cython.critical_section
    def memory_parameters(self):
        """The settings and counters of KSM: `TypedParameters` or None."""
        return self.parameters


cdef tuple snapshot_state(HostSnapshot snapshot):
    return (snapshot.uri, snapshot.wanted, snapshot.read, snapshot.started_at,
            snapshot.monotonic_ns, snapshot.duration_ns, snapshot.free_memory,
            (snapshot.node_info, snapshot.cpu_stats, snapshot.cpu_map, snapshot.per_cpu_stats,
             snapshot.memory_stats, snapshot.cells_free_memory, snapshot.per_cell_memory_stats,
             snapshot.free_pages, snapshot.memory_parameters),
            snapshot.errors)


cdef dict said(dict errors):
    # Errors don't compare; what they say does.
    return {name: (type(error), vars(error)) for name, error in errors.items()}


cdef HostSnapshot new_snapshot(Learned source, str uri, unsigned int wanted):
    cdef HostSnapshot result = HostSnapshot.__new__(HostSnapshot)
    result.source = source
    result.host_uri = uri
    result.wanted = wanted
    return result


cdef int check_out(HostSnapshot out, Learned source, unsigned int wanted,
                   tuple page_sizes) except -1:
    if out is None:
        return 0
    if out.source is not source:
        raise ValueError("out is a snapshot of another connection")
    if out.wanted != wanted:
        raise ValueError(f"out has the fields {', '.join(out.fields)}")
    counts = out.free_pages
    if page_sizes is not None and counts is not None and counts.page_sizes != page_sizes:
        raise ValueError(f"out has the page sizes {counts.page_sizes}, not {page_sizes}")
    return 0


cdef int fill_snapshot(HostSnapshot snapshot, Readings *readings, dict failures) except -1:
    # What the snapshot has already is used again where it fits.
    cdef NodeInfo info
    cdef CPUStats cpu
    cdef MemoryStats memory
    cdef StatsTable cpu_table, cell_table
    cdef CPUMap cpus = None
    cdef CellsFreeMemory cells_free = None
    cdef PageCounts pages = None
    cdef TypedParameters parameters = None
    cdef Learned learned = snapshot.source
    cdef unsigned int good = 0
    cdef int field
    for field in range(<int>FIELD_COUNT):
        if readings.wanted >> field & 1 and ALL_FIELDS[field] not in failures:
            error = reading_error(readings, field, snapshot.host_uri)
            if error is None:
                good |= 1u << field
            else:
                failures[ALL_FIELDS[field]] = error
    with cython.critical_section(snapshot):
        info = snapshot.info
        cpu = snapshot.cpu
        memory = snapshot.memory
        cpu_table = snapshot.cpu_table
        cell_table = snapshot.cell_table
    info = node_info_like(info, &readings.info) if has(good, NODE_INFO) else None
    cpu = <CPUStats>stats_like(
        cpu, learned.layout(CPU, readings.cpu, readings.counts[<int>CPU]),
        readings.cpu) if has(good, CPU_STATS) else None
    memory = <MemoryStats>stats_like(
        memory,
        learned.layout(HOST_MEMORY, readings.memory, readings.counts[<int>HOST_MEMORY]),
        readings.memory) if has(good, MEMORY_STATS) else None
    cpu_table = table_like(
        cpu_table, learned.layout(CPU, readings.cpu_table.first, readings.cpu_table.count),
        &readings.cpu_table) if has(good, PER_CPU_STATS) else None
    cell_table = table_like(
        cell_table,
        learned.layout(CELL_MEMORY, readings.cell_table.first, readings.cell_table.count),
        &readings.cell_table) if has(good, PER_CELL_MEMORY_STATS) else None
    if has(good, CPU_MAP):
        cpus = new_cpu_map(&readings.cpus)
    if has(good, CELLS_FREE_MEMORY):
        cells_free = new_cells_free_memory(
            0, readings.cells_read, readings.cells_free_memory)
    if has(good, FREE_PAGES):
        pages = new_page_counts(
            tuple([readings.pages.sizes[i] for i in range(readings.pages.size_count)]), 0,
            readings.pages.cells, readings.pages.counts)
    if has(good, MEMORY_PARAMETERS):
        parameters = new_typed_parameters(readings.parameters, readings.parameter_count)
    with cython.critical_section(snapshot):
        snapshot.read = good
        snapshot.info = info
        snapshot.cpu = cpu
        snapshot.memory = memory
        snapshot.cpu_table = cpu_table
        snapshot.cell_table = cell_table
        snapshot.cpus = cpus
        snapshot.cells_free = cells_free
        snapshot.pages = pages
        snapshot.parameters = parameters
        snapshot.free = readings.free_memory if has(good, FREE_MEMORY) else 0
        snapshot.failures = failures or None
        snapshot.began = readings.wall.tv_sec + readings.wall.tv_nsec / 1e9
        snapshot.began_ns = nanoseconds(&readings.began)
        snapshot.took_ns = nanoseconds(&readings.ended) - snapshot.began_ns
    return 0


cdef bint has(unsigned int fields, Field field) noexcept:
    return fields >> <unsigned int>field & 1


cdef NodeInfo node_info_like(NodeInfo out, const lib.virNodeInfo *info):
    if out is not None and memcmp(&out.info, info, sizeof(info[0])) == 0:
        return out
    return new_node_info(info)


cdef long long nanoseconds(const timespec *time) noexcept:
    return <long long>time.tv_sec * 1_000_000_000 + time.tv_nsec


def _restore_snapshot(str uri, wanted, read, double began, began_ns, took_ns, free_memory,
                      tuple values not None, dict errors not None):
    cdef HostSnapshot result = new_snapshot(None, uri, PyNumber_Index(wanted))
    result.read = PyNumber_Index(read)
    if result.wanted >> <int>FIELD_COUNT or result.read & ~result.wanted:
        raise ValueError(f"fields {wanted:#b} of which {read:#b} were read")
    for name, error in list(errors.items()):
        if name not in FIELD_NUMBERS or not isinstance(error, LibvirtError):
            raise ValueError(f"no field of which this is the error: {name!r}")
    (result.info, result.cpu, result.cpus, result.cpu_table, result.memory, result.cells_free,
     result.cell_table, result.pages, result.parameters) = values
    result.began = began
    result.began_ns = PyNumber_Index(began_ns)
    result.took_ns = PyNumber_Index(took_ns)
    if result.read >> <unsigned int>FREE_MEMORY & 1:
        result.free = PyNumber_Index(free_memory)
    result.failures = dict(errors) or None
    return result


# ---- versions and the security model ------------------------------------------------------------

class Record(tuple):
    """A named tuple whose names are its ``__match_args__``."""

    __slots__ = ()

    def __getnewargs__(self):
        return tuple(self)

    def __repr__(self):
        parts = ", ".join([f"{name}={part!r}" for name, part in self.to_dict().items()])
        return f"{type(self).__name__}({parts})"

    def to_dict(self):
        """Return the parts as a dict."""
        return dict(zip(self.__match_args__, self))


class Version(Record):
    """A version of libvirt or of a hypervisor: a named tuple of major, minor and release.

    It compares with plain tuples, too; ``int()`` gives C's number, such as 9000000 for 9.0.0.
    """

    __slots__ = ()
    __module__ = "pyvirhost"
    __match_args__ = ("major", "minor", "release")

    def __new__(cls, major, minor, release):
        return tuple.__new__(cls, (major, minor, release))

    def __int__(self):
        return self.major * 1_000_000 + self.minor * 1_000 + self.release

    def __str__(self):
        return f"{self.major}.{self.minor}.{self.release}"

    @property
    def major(self):
        """The major version: int."""
        return self[0]

    @property
    def minor(self):
        """The minor version: int."""
        return self[1]

    @property
    def release(self):
        """The release: int."""
        return self[2]


cdef object new_version(unsigned long number):
    return Version(number // 1_000_000, number // 1_000 % 1_000, number % 1_000)


class SecurityModel(Record):
    """The host's security driver: a named tuple of model and doi.

    ``model`` is the driver's name, such as ``"selinux"`` or ``"apparmor"``, and empty if there is
    none; ``doi`` is its domain of interpretation.
    """

    __slots__ = ()
    __module__ = "pyvirhost"
    __match_args__ = ("model", "doi")

    def __new__(cls, str model, str doi):
        return tuple.__new__(cls, (model, doi))

    @property
    def model(self):
        """The driver's name: str."""
        return self[0]

    @property
    def doi(self):
        """The domain of interpretation: str."""
        return self[1]


cdef object new_security_model(const lib.virSecurityModel *model):
    return SecurityModel(bounded_text(model.model, sizeof(model.model)),
                         bounded_text(model.doi, sizeof(model.doi)))
