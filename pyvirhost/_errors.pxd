cimport libvirt as lib

# The exception for the call to libvirt that has just failed on this thread. Nothing that can run
# Python code may stand between that call and this one.
cdef object last_error(lib.virConnectPtr connection, str function)

# The exception for a record that virSaveLastError gave earlier, of a connection to `uri`.
cdef object recorded_error(lib.virErrorPtr record, bint lost, str uri, str function)

# The same error as one of another class, where more is known than libvirt said.
cdef object recast(object error, object error_class)

cdef object closed_error(str reason)

# The member of an enum, or the number where no member has it.
cdef object member(object enum, int value)

# For an answer that no sound server gives.
cpdef object server_error(str function, str problem)
