cimport libvirt as lib

from pyvirhost._readings cimport Readings

# The exception for the call to libvirt that has just failed on this thread. Nothing that can run
# Python code may stand between that call and this one.
cdef object last_error(lib.virConnectPtr connection, str function)

# The exception for a record that virSaveLastError gave earlier, of a connection to `uri`.
cdef object recorded_error(lib.virErrorPtr record, bint lost, str uri, str function)

# The same error as one of another class, where more is known than libvirt said.
cdef object recast(object error, object error_class)

cdef object closed_error(str reason)

# The member of an enum of pyvirhost.constants, or the number where no member has it.
cdef object member(str enum, int number)

# For an answer that no sound server gives.
cpdef object server_error(str function, str problem)

# For the outcome of a reading that has just failed on this thread.
cdef object outcome_error(lib.virConnectPtr handle, int outcome, const char *function)

# Why a field of a snapshot could not be read, or None.
cdef object reading_error(const Readings *readings, int field, str uri)

# Whether libvirt's error for 0 bytes of free memory is none.
cdef bint says_none_left(object error) except -1
