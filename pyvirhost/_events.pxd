# Make sure that a loop which this process has registered also runs: libvirt hands every new
# connection to it, and one that nobody serves is dropped by its server.
cdef object keep_running()

# Let a loop that does not run do what closing a connection left to it.
cdef void settle() noexcept
