cimport libvirt as lib

# The exception for the call to libvirt that has just failed on this thread. Nothing that can run
# Python code may stand between that call and this one.
cdef object last_error(lib.virConnectPtr connection, str function)

cdef object closed_error(str reason)
