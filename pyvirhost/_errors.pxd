cimport libvirt as lib

# The exception for the call to libvirt that has just failed on this thread. Nothing that can run
# Python code may stand between that call and this one.
cdef object last_error(lib.virConnectPtr connection, str function)

# The same error, where it is the caller's argument that libvirt did not say it refused.
cdef object invalid_argument(object error)

cdef object closed_error(str reason)
