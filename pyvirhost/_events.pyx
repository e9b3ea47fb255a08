"""What libvirt's client needs from the process: an event loop, threads and file descriptors."""

import atexit
import os
from _thread import start_new_thread

cimport libvirt as lib
from libc.errno cimport EAGAIN, EMFILE, ENFILE


cdef extern from *:
    """
    #include <errno.h>
    #include <limits.h>
    #include <poll.h>
    #include <stdatomic.h>
    #include <sys/eventfd.h>
    #include <sys/resource.h>
    #include <unistd.h>

    /* What is registered with libvirt: nothing yet, our implementation, or what some other library
       chose before. libvirt keeps the first for as long as the process lives. */
    static atomic_int registered;
    static atomic_int promised; /* the descriptors that take_room has promised */

    static long descriptor_limit(void)
    {
        struct rlimit limit = {0};
        getrlimit(RLIMIT_NOFILE, &limit);
        return limit.rlim_cur > INT_MAX ? INT_MAX : (long)limit.rlim_cur;
    }

    /* Whether so many descriptors are free, counted from the highest down, where most are. Nothing
       is opened for it: that would take the descriptors that others were promised. */
    static int are_free(int count)
    {
        struct pollfd window[64];
        long top = descriptor_limit();
        while (count > 0 && top > 0) {
            int size = top < 64 ? (int)top : 64, i;
            for (i = 0; i < size; i++) {
                window[i].fd = (int)(top - size) + i;
                window[i].events = 0;
            }
            if (poll(window, size, 0) < 0 && errno != EINTR)
                return 0;
            for (i = 0; i < size; i++)
                count -= (window[i].revents & POLLNVAL) != 0;
            top -= size;
        }
        return count <= 0;
    }

    /* 0, or why the system as a whole has no room for so many. */
    static int system_room(int count)
    {
        int made[4], i, error = 0;
        for (i = 0; i < count && i < 4; i++) {
            made[i] = eventfd(0, EFD_CLOEXEC);
            if (made[i] < 0) {
                error = errno;
                break;
            }
        }
        while (i-- > 0)
            close(made[i]);
        return error;
    }
    """
    int atomic_load(int *value) nogil
    void atomic_store(int *value, int new_value) nogil
    int atomic_fetch_add(int *value, int more) nogil
    int atomic_fetch_sub(int *value, int less) nogil
    int registered
    int promised
    long descriptor_limit() nogil
    bint are_free(int count) nogil
    int system_room(int count) nogil


# ---- file descriptors ---------------------------------------------------------------------------

cdef enum:
    # For what else runs in the process, and to load what an error needs.
    SPARE = 8


cdef int take_room(int descriptors, str purpose) except -1:
    # GLib aborts the process where it gets no descriptor to wake up a loop by. Whoever is promised
    # some tries no more than those, so that no other is robbed. An open that hangs counts to its
    # end, for nobody can tell how far it is. What can't be excluded: that the rest of the program
    # takes more than the spare ones in the meantime.
    cdef int problem = 0
    with nogil:
        if not are_free(atomic_fetch_add(&promised, descriptors) + descriptors + SPARE):
            problem = EMFILE
        else:
            problem = system_room(descriptors)
    if problem == 0:
        return 0
    give_room(descriptors)
    if problem == EMFILE:
        raise OSError(EMFILE, f"{purpose} takes {descriptors} file descriptors, but too few of the "
                      f"{descriptor_limit()} that this process may have are free; raise the limit "
                      "(ulimit -n, RLIMIT_NOFILE)")
    if problem == ENFILE:
        raise OSError(ENFILE, f"{purpose} takes {descriptors} file descriptors, but the system has "
                      "too few left; raise fs.file-max")
    raise OSError(problem, f"{purpose}: {os.strerror(problem)}")


cdef void give_room(int descriptors) noexcept nogil:
    atomic_fetch_sub(&promised, descriptors)


# ---- threads ------------------------------------------------------------------------------------

cdef str MORE_THREADS = ("raise the limit of threads (ulimit -u, RLIMIT_NPROC, the cgroup's "
                         "pids.max) or of memory (ulimit -v)")


def start_thread(name, function, *arguments):
    # Not by threading.Thread, whose start takes locks in Python, where the exception of a signal
    # handler can leave one locked.
    try:
        start_new_thread(run_named, (name.encode(), function, arguments))
    except RuntimeError as error:
        if type(error) is not RuntimeError:
            raise  # the interpreter ends
        raise RuntimeError(f"{error}: {MORE_THREADS}") from error


def run_named(bytes name, function, arguments):
    # ps, top and gdb show the name. Nothing here may fail, or nobody is told that the thread ended.
    prctl(PR_SET_NAME, name)
    function(*arguments)


# ---- the loop -----------------------------------------------------------------------------------

include "_loop.pxi"

cdef extern from *:
    """
    static pthread_mutex_t registering = PTHREAD_MUTEX_INITIALIZER;
    static void begin_registering(void) { pthread_mutex_lock(&registering); }
    static void end_registering(void) { pthread_mutex_unlock(&registering); }
    """
    void begin_registering() nogil
    void end_registering() nogil

cdef enum Registered:
    NOTHING
    OURS
    FOREIGN


cdef void do_nothing(int timer, void *data) noexcept nogil:
    pass


cdef bint takes_timers() noexcept nogil:
    # Without an implementation libvirt takes none.
    cdef int timer = lib.virEventAddTimeout(-1, do_nothing, NULL, NULL)
    lib.virEventRemoveTimeout(timer)
    return timer >= 0


cdef void register_once() noexcept nogil:
    # Of two implementations at the same time the first wins; whose that was shows a timer's way.
    cdef int before
    begin_registering()
    if atomic_load(&registered) == NOTHING:
        if not takes_timers():
            lib.virEventRegisterImpl(add_handle, update_handle, remove_handle,
                                     add_timeout, update_timeout, remove_timeout)
        before = timers_made()
        takes_timers()
        atomic_store(&registered, OURS if timers_made() != before else FOREIGN)
    end_registering()


cdef int start() except -1:
    cdef int error = 0
    if atomic_load(&registered) != FOREIGN and not is_loop_running():
        take_room(2, "the event loop")
        with nogil:
            register_once()
            if atomic_load(&registered) == OURS:
                error = start_loop()
            give_room(2)
    if error == EAGAIN:
        raise RuntimeError(f"can't start the event loop's thread: {MORE_THREADS}")
    if error:
        raise OSError(error, f"the event loop: {os.strerror(error)}")
    return 0


# In the loop's own thread, where other libraries' callbacks run, there is nothing to wait for.

cdef int keep_running() except -1:
    if atomic_load(&registered) == OURS and not in_loop:
        start()
    return 0


cdef void settle() noexcept:
    if atomic_load(&registered) == OURS and not in_loop:
        with nogil:
            release_removed()


class EventLoop:
    """An event loop for libvirt, on a thread of its own that never needs the GIL.

    It answers servers' keepalive probes, sends this side's, and notices at once when a connection
    is lost, upon which another thread calls the close callback. A call costs the same over any
    number of connections. It serves connections opened after its first start. A process has one:
    all objects of this class are the same loop. ``open(keepalive=...)`` starts it, and it ends with
    the interpreter. It is also a context manager.

    If another library has registered its event loop with libvirt first, that one is used instead,
    and left to that library to run.
    """

    __module__ = "pyvirhost"
    __slots__ = ()

    def start(self):
        """Start the loop; do nothing if it is running.

        Raises
        ------
        OSError
            ``EMFILE``, ``ENFILE``: no file descriptor is left for the loop.
        RuntimeError
            The thread can't be started. Until it can, connections can't be opened either.

        Notes
        -----
        ``virEventRegisterImpl``, since libvirt 0.5.0; no round trip.
        """
        start()

    def stop(self):
        """Stop the loop at once; do nothing if it is stopped.

        Connections that it served go on without keepalive until it is started again, which the
        next `open` does.
        """
        with nogil:
            stop_loop(0)

    @property
    def running(self):
        """Whether this loop is running, or another library's is registered: bool."""
        return atomic_load(&registered) == FOREIGN or is_loop_running()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exception):
        self.stop()

    def __repr__(self):
        state = "of another library" if atomic_load(&registered) == FOREIGN else (
            "running" if self.running else "stopped")
        return f"<EventLoop {state}>"


# ---- forks and the interpreter's end -------------------------------------------------------------

cdef void forget_promises() noexcept nogil:
    atomic_store(&promised, 0)


pthread_atfork(begin_registering, end_registering, end_registering)
pthread_atfork(NULL, NULL, forget_promises)


def end():
    # Libraries that are being unloaded are not to be used meanwhile, but a server that hangs may
    # hang the loop.
    with nogil:
        stop_loop(2000 * MILLISECOND)


atexit.register(end)
