# What is read from a host, by C calls alone: everything here runs without the GIL and touches no
# Python object. One struct per kind of reading, and `read_all` for many in one go.

cimport libvirt as lib
from libc.limits cimport ULLONG_MAX
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset, strncmp
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec


cdef extern from "<malloc.h>" nogil:
    size_t malloc_usable_size(void *memory)


cdef enum:
    # The most that a server can make this side hold. libvirt writes all that a server sends into
    # the caller's array, even where it was asked for less, so each array has room for the most that
    # libvirt's protocol carries: 16 fields of one reading, 1024 cells, 1024 page counts, 64 typed
    # parameters. Of CPU model names, 8192, and texts, 4 MiB, libvirt makes the memory by itself.
    MAX_FIELDS = 64
    MAX_CELLS = 1024
    MAX_PARAMETERS = 64
    MAX_PAGE_SIZES = 64
    # What the protocol's largest CPU map has room for, twice as many as Linux can have.
    MAX_CPUS = 16384
    # How many there are of `Source` and of `Field`.
    SOURCES = 3
    FIELD_COUNT = 10

cdef enum Source:
    # What a statistics reading is of; a server may report other fields for each.
    CPU
    HOST_MEMORY
    CELL_MEMORY

cdef enum Outcome:
    READ = 0
    # libvirt refused; its error record says why.
    REFUSED = -1
    NO_MEMORY = -2
    # The server's answer makes no sense.
    SHORT_MAP = -3
    OTHER_FIELDS = -4
    NO_ROWS = -5
    TOO_MANY_CELLS = -6
    TOO_MANY_CPUS = -7

cdef enum Field:
    # The parts of a snapshot, in the order in which they are read. `ALL_FIELDS` has their names.
    NODE_INFO
    CPU_STATS
    CPU_MAP
    PER_CPU_STATS
    MEMORY_STATS
    FREE_MEMORY
    CELLS_FREE_MEMORY
    PER_CELL_MEMORY_STATS
    FREE_PAGES
    MEMORY_PARAMETERS


# ---- statistics ---------------------------------------------------------------------------------

cdef inline int call_stats(lib.virConnectPtr handle, Source source, int number,
                           lib.virNodeCPUStats *reading, int *count,
                           unsigned int flags) noexcept nogil:
    if source == CPU:
        return lib.virNodeGetCPUStats(handle, number, reading, count, flags)
    # virNodeMemoryStats has the members of virNodeCPUStats.
    return lib.virNodeGetMemoryStats(handle, number, <lib.virNodeMemoryStatsPtr>reading, count,
                                     flags)


cdef inline int read_stats(lib.virConnectPtr handle, Source source, int number,
                           lib.virNodeCPUStats *reading, int *count,
                           unsigned int flags) noexcept nogil:
    # Servers demand exactly as many entries as they have fields, and asking how many is a round
    # trip. `count` is what an earlier reading had, or 0, and becomes what this one has.
    if count[0] > 0:
        if call_stats(handle, source, number, reading, count, flags) == 0:
            return READ
        if lib.virGetLastErrorCode() != lib.VIR_ERR_INVALID_ARG:
            return REFUSED
    count[0] = 0
    if call_stats(handle, source, number, NULL, count, flags) < 0:
        return REFUSED
    if count[0] == 0:
        return READ
    # libvirt itself refuses the call where a server has more fields than that.
    count[0] = min(count[0], <int>MAX_FIELDS)
    return call_stats(handle, source, number, reading, count, flags)


cdef struct Table:
    # A statistics reading of each of some CPUs or cells, for free_table. The C function is that
    # which failed, if one did.
    const char *function
    int *numbers
    Py_ssize_t rows
    int count
    lib.virNodeCPUStats first[MAX_FIELDS]
    unsigned long long *values


cdef inline void new_table(Table *table, int known_count) noexcept nogil:
    table.function = NULL
    table.numbers = NULL
    table.rows = 0
    table.count = known_count
    table.values = NULL


cdef inline void free_table(Table *table) noexcept nogil:
    free(table.numbers)
    free(table.values)
    table.numbers = NULL
    table.values = NULL


cdef inline bint same_fields(const lib.virNodeCPUStats *one, const lib.virNodeCPUStats *other,
                             int count) noexcept nogil:
    cdef int i
    for i in range(count):
        if strncmp(one[i].field, other[i].field, sizeof(one[i].field)) != 0:
            return False
    return True


cdef inline int read_rows(lib.virConnectPtr handle, Source source, Table *table) noexcept nogil:
    # Of the numbers that stand in the table.
    cdef lib.virNodeCPUStats reading[MAX_FIELDS]
    cdef Py_ssize_t row
    cdef int i, count, outcome
    table.function = "virNodeGetCPUStats" if source == CPU else "virNodeGetMemoryStats"
    if table.rows == 0:
        return NO_ROWS
    outcome = read_stats(handle, source, table.numbers[0], table.first, &table.count, 0)
    if outcome != READ:
        return outcome
    free(table.values)
    table.values = <unsigned long long *>calloc(
        table.rows * max(table.count, 1), sizeof(unsigned long long))
    if table.values is NULL:
        return NO_MEMORY
    for i in range(table.count):
        table.values[i] = table.first[i].value
    for row in range(1, table.rows):
        count = table.count
        if call_stats(handle, source, table.numbers[row], reading, &count, 0) < 0:
            return REFUSED
        if count != table.count or not same_fields(table.first, reading, count):
            return OTHER_FIELDS
        for i in range(count):
            table.values[row * count + i] = reading[i].value
    return READ


# ---- CPUs ---------------------------------------------------------------------------------------

cdef struct OnlineCPUs:
    # libvirt's bitmap, for free().
    unsigned char *bits
    int present
    unsigned int online


cdef inline int read_cpu_map(lib.virConnectPtr handle, OnlineCPUs *cpus,
                             unsigned int flags) noexcept nogil:
    # What can't be read leaves a map of no CPU, which a snapshot may have read before.
    cdef int outcome = READ
    cdef int present
    free(cpus.bits)
    cpus.bits = NULL
    cpus.online = 0
    cpus.present = 0
    present = lib.virNodeGetCPUMap(handle, &cpus.bits, &cpus.online, flags)
    # libvirt does not tell the bitmap's size, nor hold what a server sent against the number of
    # CPUs.
    if present < 0:
        outcome = REFUSED
    elif present > <int>MAX_CPUS:
        outcome = TOO_MANY_CPUS
    elif (<size_t>present + 7) // 8 > malloc_usable_size(cpus.bits):
        outcome = SHORT_MAP
    if outcome == READ:
        cpus.present = present
    else:
        free(cpus.bits)
        cpus.bits = NULL
        cpus.online = 0
    return outcome


cdef inline int number_online_cpus(const OnlineCPUs *cpus, Table *table) noexcept nogil:
    cdef int cpu
    free(table.numbers)
    table.rows = 0
    table.numbers = <int *>malloc((<size_t>cpus.present + 1) * sizeof(int))
    if table.numbers is NULL:
        return NO_MEMORY
    for cpu in range(cpus.present):
        if lib.VIR_CPU_USED(cpus.bits, cpu):
            table.numbers[table.rows] = cpu
            table.rows += 1
    return READ


cdef inline int read_online_cpus(lib.virConnectPtr handle, OnlineCPUs *cpus,
                                 Table *table) noexcept nogil:
    # A row for each CPU online, by the map that `cpus` has or is given. A CPU that has gone offline
    # since has no statistics: then both are read once more.
    cdef OnlineCPUs newer
    cdef bint old = cpus.bits is not NULL
    cdef int outcome = READ
    table.function = "virNodeGetCPUMap"
    if not old:
        outcome = read_cpu_map(handle, cpus, 0)
    if outcome == READ:
        outcome = number_online_cpus(cpus, table)
    if outcome != READ:
        return outcome
    outcome = read_rows(handle, CPU, table)
    if outcome != REFUSED or lib.virGetLastErrorCode() != lib.VIR_ERR_INVALID_ARG:
        return outcome
    table.function = "virNodeGetCPUMap"
    newer.bits = NULL
    outcome = read_cpu_map(handle, &newer, 0)
    if outcome != READ:
        free(newer.bits)
        return outcome
    free(cpus.bits)
    cpus[0] = newer
    outcome = number_online_cpus(cpus, table)
    return read_rows(handle, CPU, table) if outcome == READ else outcome


# ---- NUMA cells ---------------------------------------------------------------------------------
# How many there are is asked once for a connection, and once more where libvirt refuses a reading
# of that many, after which the reading is repeated. -1 is "not known yet".

cdef inline int count_cells(lib.virConnectPtr handle, int *cells) noexcept nogil:
    # Drivers that don't tell the free memory of their cells have as many as the node information
    # says.
    cdef unsigned long long values[MAX_CELLS]
    cdef lib.virNodeInfo info
    cdef int count = lib.virNodeGetCellsFreeMemory(handle, values, 0, MAX_CELLS)
    if count < 0:
        if lib.virNodeGetInfo(handle, &info) < 0:
            return REFUSED
        if info.nodes > <unsigned int>MAX_CELLS:
            return TOO_MANY_CELLS
        count = <int>info.nodes
    cells[0] = count
    return READ


cdef inline int number_cells(int cells, Table *table) noexcept nogil:
    cdef int cell
    free(table.numbers)
    table.rows = cells
    table.numbers = <int *>malloc((<size_t>cells + 1) * sizeof(int))
    if table.numbers is NULL:
        return NO_MEMORY
    for cell in range(cells):
        table.numbers[cell] = cell
    return READ


cdef inline int read_known_cells(lib.virConnectPtr handle, int cells,
                                 Table *table) noexcept nogil:
    cdef int outcome = number_cells(cells, table)
    return read_rows(handle, CELL_MEMORY, table) if outcome == READ else outcome


cdef inline bint stale(int outcome) noexcept nogil:
    return outcome == REFUSED and lib.virGetLastErrorCode() != lib.VIR_ERR_NO_SUPPORT


cdef inline int read_cells(lib.virConnectPtr handle, int *cells, Table *table) noexcept nogil:
    cdef bint known = cells[0] >= 0
    cdef int outcome = READ
    table.function = "virNodeGetInfo"
    if not known:
        outcome = count_cells(handle, cells)
    if outcome == READ:
        outcome = read_known_cells(handle, cells[0], table)
    if known and stale(outcome):
        table.function = "virNodeGetInfo"
        outcome = count_cells(handle, cells)
        if outcome == READ:
            outcome = read_known_cells(handle, cells[0], table)
    return outcome


# ---- pages --------------------------------------------------------------------------------------

cdef inline int read_pages(lib.virConnectPtr handle, unsigned int *sizes, unsigned int size_count,
                           int start, unsigned int *cells, unsigned long long *counts,
                           unsigned int flags) noexcept nogil:
    # `cells` is how many are asked for, and becomes how many there are.
    cdef unsigned int i
    # Old drivers return 0 and fill the array all the same, so what they wrote tells.
    for i in range(cells[0] * size_count):
        counts[i] = ULLONG_MAX
    if lib.virNodeGetFreePages(handle, size_count, sizes, start, cells[0], counts, flags) < 0:
        return REFUSED
    for i in range(cells[0]):
        if counts[(i + 1) * size_count - 1] == ULLONG_MAX:
            cells[0] = i
            break
    return READ


cdef struct Pages:
    unsigned int sizes[MAX_PAGE_SIZES]
    unsigned int size_count
    unsigned int cells
    unsigned long long *counts  # for free()


cdef inline int read_all_pages(lib.virConnectPtr handle, int cells, Pages *pages) noexcept nogil:
    # One answer of libvirt's protocol has room for MAX_CELLS counts.
    cdef unsigned int at_once = <unsigned int>MAX_CELLS // pages.size_count
    cdef unsigned int whole = <unsigned int>cells
    cdef unsigned int asked, got
    free(pages.counts)
    pages.cells = 0
    pages.counts = <unsigned long long *>malloc(
        (<size_t>whole * pages.size_count + <size_t>MAX_CELLS) * sizeof(unsigned long long))
    if pages.counts is NULL:
        return NO_MEMORY
    while pages.cells < whole:
        asked = got = min(at_once, whole - pages.cells)
        if read_pages(handle, pages.sizes, pages.size_count, <int>pages.cells, &got,
                      pages.counts + <size_t>pages.cells * pages.size_count, 0) != READ:
            return REFUSED
        pages.cells += got
        if got < asked:
            break
    return READ


cdef inline int read_cells_pages(lib.virConnectPtr handle, int *cells,
                                 Pages *pages) noexcept nogil:
    cdef bint known = cells[0] >= 0
    cdef int outcome = READ
    if not known:
        outcome = count_cells(handle, cells)
    if outcome == READ:
        outcome = read_all_pages(handle, cells[0], pages)
    if known and stale(outcome):
        outcome = count_cells(handle, cells)
        if outcome == READ:
            outcome = read_all_pages(handle, cells[0], pages)
    return outcome


# ---- many readings in one go --------------------------------------------------------------------

cdef struct Readings:
    # What is asked for, and what is known already: how many fields a source has or 0, how many
    # cells there are or -1, which page sizes.
    unsigned int wanted
    int counts[SOURCES]
    int cells
    # When it began, by the wall and by the monotonic clock, and how long it took.
    timespec wall
    timespec began
    timespec ended
    # What became of each field.
    int outcomes[FIELD_COUNT]
    lib.virErrorPtr refusals[FIELD_COUNT]
    bint lost[FIELD_COUNT]
    # What was read.
    lib.virNodeInfo info
    lib.virNodeCPUStats cpu[MAX_FIELDS]
    lib.virNodeCPUStats memory[MAX_FIELDS]
    Table cpu_table
    Table cell_table
    OnlineCPUs cpus
    unsigned long long free_memory
    unsigned long long cells_free_memory[MAX_CELLS]
    int cells_read
    Pages pages
    lib.virTypedParameter parameters[MAX_PARAMETERS]
    int parameter_count


cdef inline void begin_readings(Readings *readings) noexcept nogil:
    cdef int field
    clock_gettime(CLOCK_REALTIME, &readings.wall)
    clock_gettime(CLOCK_MONOTONIC, &readings.began)
    for field in range(<int>FIELD_COUNT):
        readings.outcomes[field] = READ
        readings.refusals[field] = NULL
    new_table(&readings.cpu_table, 0)
    new_table(&readings.cell_table, 0)
    readings.cpus.bits = NULL
    readings.pages.counts = NULL
    readings.pages.size_count = 0
    readings.parameter_count = 0


cdef inline void free_readings(Readings *readings) noexcept nogil:
    cdef int field
    for field in range(<int>FIELD_COUNT):
        if readings.refusals[field] is not NULL:
            lib.virFreeError(readings.refusals[field])
    free_table(&readings.cpu_table)
    free_table(&readings.cell_table)
    free(readings.cpus.bits)
    free(readings.pages.counts)
    lib.virTypedParamsClear(readings.parameters, readings.parameter_count)


cdef inline int read_field(lib.virConnectPtr handle, Readings *readings, int field) noexcept nogil:
    if field == NODE_INFO:
        return lib.virNodeGetInfo(handle, &readings.info)
    if field == CPU_STATS:
        return read_stats(handle, CPU, lib.VIR_NODE_CPU_STATS_ALL_CPUS, readings.cpu,
                          &readings.counts[<int>CPU], 0)
    if field == CPU_MAP:
        return read_cpu_map(handle, &readings.cpus, 0)
    if field == PER_CPU_STATS:
        readings.cpu_table.count = readings.counts[<int>CPU]
        return read_online_cpus(handle, &readings.cpus, &readings.cpu_table)
    if field == MEMORY_STATS:
        return read_stats(handle, HOST_MEMORY, lib.VIR_NODE_MEMORY_STATS_ALL_CELLS,
                          readings.memory, &readings.counts[<int>HOST_MEMORY], 0)
    if field == FREE_MEMORY:
        # 0 is an answer too; libvirt's error tells.
        readings.free_memory = lib.virNodeGetFreeMemory(handle)
        return READ if readings.free_memory > 0 else REFUSED
    if field == CELLS_FREE_MEMORY:
        readings.cells_read = lib.virNodeGetCellsFreeMemory(
            handle, readings.cells_free_memory, 0, MAX_CELLS)
        if readings.cells_read < 0:
            return REFUSED
        readings.cells = readings.cells_read
        return READ
    if field == PER_CELL_MEMORY_STATS:
        readings.cell_table.count = readings.counts[<int>CELL_MEMORY]
        return read_cells(handle, &readings.cells, &readings.cell_table)
    if field == FREE_PAGES:
        return read_cells_pages(handle, &readings.cells, &readings.pages)
    memset(readings.parameters, 0, sizeof(readings.parameters))
    readings.parameter_count = MAX_PARAMETERS
    if lib.virNodeGetMemoryParameters(handle, readings.parameters, &readings.parameter_count,
                                      0) < 0:
        readings.parameter_count = 0
        return REFUSED
    return READ


cdef inline void read_all(lib.virConnectPtr handle, Readings *readings) noexcept nogil:
    cdef int field
    cdef lib.virErrorPtr refusal
    for field in range(<int>FIELD_COUNT):
        if readings.wanted >> field & 1:
            readings.outcomes[field] = read_field(handle, readings, field)
            if readings.outcomes[field] == REFUSED:
                refusal = lib.virSaveLastError()
                if readings.refusals[field] is not NULL:  # of an earlier attempt
                    lib.virFreeError(readings.refusals[field])
                readings.refusals[field] = refusal
                readings.lost[field] = lib.virConnectIsAlive(handle) == 0
    clock_gettime(CLOCK_MONOTONIC, &readings.ended)
