/* What starting costs without Python: open a connection, read once, end. */

#include <stddef.h>

#include <libvirt/libvirt.h>

int
main(int count, char **arguments)
{
    virNodeInfo info;
    virConnectPtr connection = virConnectOpen(count > 1 ? arguments[1] : NULL);

    if (connection == NULL || virNodeGetInfo(connection, &info) < 0)
        return 1;
    virConnectClose(connection);
    return 0;
}
