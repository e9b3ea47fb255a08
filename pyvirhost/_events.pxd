# Make sure that this process has room for so many file descriptors until give_room, or raise an
# OSError that says what takes them and what to raise.
cdef int take_room(int descriptors, str purpose) except -1
cdef void give_room(int descriptors) noexcept nogil

# Make sure that a loop which this process has registered also runs: libvirt hands every new
# connection to it, and one that nobody serves is dropped by its server.
cdef int keep_running() except -1

# Let a loop that does not run do what closing a connection left to it.
cdef void settle() noexcept
