cimport libvirt as lib

from pyvirhost._readings cimport SOURCES, OnlineCPUs, Readings, Source, Table


cdef struct FieldName:
    const char *text
    size_t size  # with the NUL that ends it, where libvirt's field has room for one


cdef class FieldLayout:
    cdef tuple names
    cdef str unit
    cdef bint of_cpus
    cdef dict positions
    cdef FieldName *c_names
    cdef Py_ssize_t count

    cdef bint matches(self, const lib.virNodeCPUStats *reading,
                      Py_ssize_t count) noexcept nogil


cdef class Learned:
    cdef FieldLayout cpu
    cdef FieldLayout host_memory
    cdef FieldLayout cell_memory
    cdef int counts[SOURCES]  # of the fields of each
    cdef int cell_count
    cdef tuple host_page_sizes
    cdef str host_uri

    cdef FieldLayout known_layout(self, Source source)
    cdef int field_count(self, Source source) noexcept
    cdef void prepare(self, Readings *readings) noexcept
    cdef FieldLayout layout(self, Source source, const lib.virNodeCPUStats *reading, int count)
    cdef int cells(self) noexcept
    cdef void learn_cells(self, int cells) noexcept
    cdef tuple page_sizes(self)
    cdef void learn_page_sizes(self, tuple sizes) noexcept
    cdef str uri(self)
    cdef void learn_uri(self, str uri) noexcept


cdef class ReadOnlyMapping:
    pass


cdef class NodeInfo:
    cdef lib.virNodeInfo info


cdef class Stats(ReadOnlyMapping):
    cdef FieldLayout layout
    cdef unsigned long long *values


cdef class CPUStats(Stats):
    pass


cdef class MemoryStats(Stats):
    pass


cdef class StatsTable(ReadOnlyMapping):
    cdef FieldLayout layout
    cdef tuple numbers
    cdef unsigned long long *values
    cdef Py_ssize_t shape[2]
    cdef Py_ssize_t strides[2]


cdef class CPUMap:
    cdef unsigned char *bits
    cdef Py_ssize_t size
    cdef int cpus
    cdef unsigned int online_count

    cdef bint is_online(self, int cpu) noexcept


cdef class CellsFreeMemory(ReadOnlyMapping):
    cdef int first_cell
    cdef unsigned long long *values
    cdef Py_ssize_t cells


cdef class PageCounts:
    cdef tuple sizes
    cdef int first_cell
    cdef unsigned long long *values
    cdef Py_ssize_t shape[2]
    cdef Py_ssize_t strides[2]


cdef class TypedParameters(ReadOnlyMapping):
    cdef dict contents
    cdef dict c_types


cdef class HostSnapshot:
    # Of which connection it is, by what that one has learned; None after a pickle.
    cdef Learned source
    cdef str host_uri
    # Which fields were asked for, and which of them were read, as bits.
    cdef unsigned int wanted
    cdef unsigned int read
    cdef NodeInfo info
    cdef CPUStats cpu
    cdef CPUMap cpus
    cdef StatsTable cpu_table
    cdef MemoryStats memory
    cdef unsigned long long free
    cdef CellsFreeMemory cells_free
    cdef StatsTable cell_table
    cdef PageCounts pages
    cdef TypedParameters parameters
    cdef dict failures
    cdef double began
    cdef long long began_ns
    cdef long long took_ns


cdef NodeInfo new_node_info(const lib.virNodeInfo *info)
cdef Stats new_stats(FieldLayout layout, const lib.virNodeCPUStats *reading, Stats out)
cdef StatsTable new_stats_table(FieldLayout layout, const Table *table, StatsTable out)
cdef CPUMap new_cpu_map(OnlineCPUs *cpus)
cdef unsigned int field_bits(object fields) except? 0xffffffff
cdef int check_out(HostSnapshot out, Learned source, unsigned int wanted,
                   tuple page_sizes) except -1
cdef HostSnapshot new_snapshot(Learned source, str uri, unsigned int wanted)
cdef int fill_snapshot(HostSnapshot snapshot, Readings *readings, dict failures) except -1
cdef CellsFreeMemory new_cells_free_memory(int start_cell, Py_ssize_t cells,
                                           const unsigned long long *values)
cdef PageCounts new_page_counts(tuple page_sizes, int start_cell, Py_ssize_t cells,
                                const unsigned long long *values)
cdef TypedParameters new_typed_parameters(const lib.virTypedParameter *parameters, int count)
cdef int add_typed_parameter(lib.virTypedParameterPtr *parameters, int *count, int *room,
                             object name, str type_name, object value, str argument) except -1
cdef object new_version(unsigned long number)
cdef object new_security_model(const lib.virSecurityModel *model)
