cimport libvirt as lib


from pyvirhost._readings cimport MAX_FIELDS


cdef struct FieldName:
    const char *text
    size_t size  # with the NUL that ends it, where libvirt's field has room for one


cdef class FieldLayout:
    cdef tuple names
    cdef str unit
    cdef dict positions
    cdef FieldName *c_names
    cdef Py_ssize_t count

    cdef bint matches(self, const lib.virNodeCPUStats *reading,
                      Py_ssize_t count) noexcept nogil


cdef class ReadOnlyMapping:
    pass


cdef class NodeInfo:
    cdef lib.virNodeInfo info


cdef class StatsArray(ReadOnlyMapping):
    cdef FieldLayout layout
    cdef unsigned long long *values


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


cdef class CellsFreeMemory:
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
    # Of which connection it is, by what that one was taught; None after a pickle.
    cdef list source
    cdef str host_uri
    # Which fields were asked for, and which of them were read, as bits.
    cdef unsigned int wanted
    cdef unsigned int read
    cdef NodeInfo info
    cdef StatsArray cpu
    cdef CPUMap cpus
    cdef StatsTable cpu_table
    cdef StatsArray memory
    cdef unsigned long long free
    cdef CellsFreeMemory cells_free
    cdef StatsTable cell_table
    cdef PageCounts pages
    cdef TypedParameters parameters
    cdef dict failures
    cdef double began
    cdef long long began_ns
    cdef long long took_ns


cdef FieldLayout new_layout(const lib.virNodeCPUStats *reading, Py_ssize_t count, str unit)
cdef NodeInfo new_node_info(const lib.virNodeInfo *info)
cdef StatsArray new_stats_array(FieldLayout layout, const lib.virNodeCPUStats *reading)
cdef StatsArray refill_stats_array(StatsArray out, FieldLayout layout,
                                   const lib.virNodeCPUStats *reading)
cdef StatsTable new_stats_table(FieldLayout layout, tuple index, const unsigned long long *values)
cdef StatsTable refill_stats_table(StatsTable out, FieldLayout layout, tuple index,
                                   const unsigned long long *values)
cdef CPUMap new_cpu_map(unsigned char *bits, int cpus, unsigned int online)
cdef HostSnapshot new_snapshot(list source, str uri, unsigned int wanted)
cdef unsigned int field_bits(object fields) except? 0xffffffff
cdef CellsFreeMemory new_cells_free_memory(int start_cell, Py_ssize_t cells,
                                           const unsigned long long *values)
cdef PageCounts new_page_counts(tuple page_sizes, int start_cell, Py_ssize_t cells,
                                const unsigned long long *values)
cdef TypedParameters new_typed_parameters(const lib.virTypedParameter *parameters, int count)
cdef int add_typed_parameter(lib.virTypedParameterPtr *parameters, int *count, int *room,
                             object name, str type_name, object value, str argument) except -1
cdef object new_version(unsigned long number)
cdef object new_security_model(const lib.virSecurityModel *model)
