/* Preloaded: makes 16 CPUs online out of the 8 that libvirt's test driver has, of which 3 are.
 *
 * The driver's own map is still read, so that the call costs what it costs, and the driver has
 * statistics for whatever CPU it is asked.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

#include <libvirt/libvirt.h>

#define CPUS 16

int
virNodeGetCPUMap(virConnectPtr connection, unsigned char **map, unsigned int *online,
                 unsigned int flags)
{
    static int (*real)(virConnectPtr, unsigned char **, unsigned int *, unsigned int);
    unsigned char *wider;
    int result;

    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "virNodeGetCPUMap");
    result = real(connection, map, online, flags);
    if (result < 0)
        return result;
    if (map != NULL) {
        wider = realloc(*map, CPUS / 8);
        if (wider == NULL)
            abort();
        wider[0] = wider[1] = 0xff;
        *map = wider;
    }
    if (online != NULL)
        *online = CPUS;
    return CPUS;
}
