/* The limit: what the readings cost a C program that uses the same libvirt.
 *
 * Compiled into a shared library, so that Python can let it take turns with the bindings in one
 * process. The clock is read here, so nothing of Python's is in its times.
 */

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#define MAX_FIELDS 16 /* libvirt's protocol carries no more */
#define MAX_CELLS 1024
#define MAX_READINGS 16

struct twin {
    virConnectPtr connection;
    int cpu_fields;
    int memory_fields;
    int cell_fields;
    int cells;
};

typedef int (*reading)(struct twin *);

static int
node_info(struct twin *twin)
{
    virNodeInfo info;

    return virNodeGetInfo(twin->connection, &info);
}

static int
cpu_stats_of(struct twin *twin, int cpu)
{
    virNodeCPUStats stats[MAX_FIELDS];
    int count = twin->cpu_fields;

    return virNodeGetCPUStats(twin->connection, cpu, stats, &count, 0);
}

static int
cpu_stats(struct twin *twin)
{
    return cpu_stats_of(twin, VIR_NODE_CPU_STATS_ALL_CPUS);
}

static int
cpu_map(struct twin *twin)
{
    unsigned char *map = NULL;
    int result = virNodeGetCPUMap(twin->connection, &map, NULL, 0);

    free(map);
    return result;
}

static int
per_cpu_stats(struct twin *twin)
{
    unsigned char *map = NULL;
    int cpu, cpus = virNodeGetCPUMap(twin->connection, &map, NULL, 0);
    int result = cpus < 0 ? -1 : 0;

    for (cpu = 0; cpu < cpus && result == 0; cpu++)
        if (VIR_CPU_USED(map, cpu))
            result = cpu_stats_of(twin, cpu);
    free(map);
    return result;
}

static int
memory_stats(struct twin *twin)
{
    virNodeMemoryStats stats[MAX_FIELDS];
    int count = twin->memory_fields;

    return virNodeGetMemoryStats(twin->connection, VIR_NODE_MEMORY_STATS_ALL_CELLS, stats, &count,
                                 0);
}

static int
per_cell_memory_stats(struct twin *twin)
{
    virNodeMemoryStats stats[MAX_FIELDS];
    int cell;

    for (cell = 0; cell < twin->cells; cell++) {
        int count = twin->cell_fields;

        if (virNodeGetMemoryStats(twin->connection, cell, stats, &count, 0) < 0)
            return -1;
    }
    return 0;
}

static int
free_memory(struct twin *twin)
{
    /* 0 is its error. */
    return virNodeGetFreeMemory(twin->connection) == 0 ? -1 : 0;
}

static int
cells_free_memory(struct twin *twin)
{
    unsigned long long free[MAX_CELLS];

    return virNodeGetCellsFreeMemory(twin->connection, free, 0, twin->cells);
}

static int
free_pages(struct twin *twin)
{
    unsigned int sizes[] = {4, 2048};
    unsigned long long counts[4];

    return virNodeGetFreePages(twin->connection, 2, sizes, 0, 2, counts, 0);
}

static int
is_alive(struct twin *twin)
{
    return virConnectIsAlive(twin->connection);
}

static const struct {
    const char *name;
    reading read;
} readings[] = {
    {"node_info", node_info},
    {"cpu_stats", cpu_stats},
    {"cpu_map", cpu_map},
    {"per_cpu_stats", per_cpu_stats},
    {"memory_stats", memory_stats},
    {"per_cell_memory_stats", per_cell_memory_stats},
    {"free_memory", free_memory},
    {"cells_free_memory", cells_free_memory},
    {"free_pages", free_pages},
    {"is_alive", is_alive},
};

static reading
find(const char *name)
{
    size_t i;

    for (i = 0; i < sizeof(readings) / sizeof(*readings); i++)
        if (strcmp(readings[i].name, name) == 0)
            return readings[i].read;
    return NULL;
}

static void
ignore_error(void *data, virErrorPtr error)
{
    (void)data;
    (void)error;
}

void
twin_close(struct twin *twin)
{
    if (twin != NULL && twin->connection != NULL)
        virConnectClose(twin->connection);
    free(twin);
}

/* Open a connection and learn once what a C program would: how many fields and cells there are. */
struct twin *
twin_open(const char *uri)
{
    struct twin *twin = calloc(1, sizeof(*twin));
    virNodeInfo info;

    virSetErrorFunc(NULL, ignore_error);
    if (twin == NULL || (twin->connection = virConnectOpen(uri)) == NULL ||
        virNodeGetInfo(twin->connection, &info) < 0 ||
        virNodeGetCPUStats(twin->connection, VIR_NODE_CPU_STATS_ALL_CPUS, NULL, &twin->cpu_fields,
                           0) < 0) {
        twin_close(twin);
        return NULL;
    }
    twin->cells = info.nodes;
    /* The test driver has none of these two. */
    if (virNodeGetMemoryStats(twin->connection, VIR_NODE_MEMORY_STATS_ALL_CELLS, NULL,
                              &twin->memory_fields, 0) < 0 ||
        virNodeGetMemoryStats(twin->connection, 0, NULL, &twin->cell_fields, 0) < 0)
        virResetLastError();
    return twin;
}

/* Return the seconds that `loops` times all of these readings take, or a negative number. */
double
twin_time(struct twin *twin, const char **names, int count, long loops)
{
    reading chosen[MAX_READINGS];
    struct timespec start, end;
    long loop;
    int i;

    if (count > MAX_READINGS)
        return -1;
    for (i = 0; i < count; i++)
        if ((chosen[i] = find(names[i])) == NULL)
            return -1;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (loop = 0; loop < loops; loop++)
        for (i = 0; i < count; i++)
            if (chosen[i](twin) < 0)
                return -1;
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (end.tv_sec - start.tv_sec) + (end.tv_nsec - start.tv_nsec) / 1e9;
}
