"""What libvirt's client needs from the process: an event loop, threads and file descriptors."""

import atexit
import os
from _thread import RLock, allocate_lock, start_new_thread

cimport libvirt as lib
from libc.errno cimport EMFILE, ENFILE


cdef extern from *:
    """
    #include <errno.h>
    #include <limits.h>
    #include <poll.h>
    #include <stdatomic.h>
    #include <sys/eventfd.h>
    #include <sys/prctl.h>
    #include <sys/resource.h>
    #include <unistd.h>

    static atomic_int wanted;   /* the number of the loop's thread that is to go on, or 0 */
    static atomic_int alive;    /* the number of the last of them until it has ended, or 0 */
    static atomic_int fired;    /* how many wake-up timers have fired */
    static _Thread_local int in_loop;   /* whether this is such a thread */
    /* What is registered with libvirt: nothing yet, our choice of its default implementation, or
       what some other library chose before. libvirt keeps the first for as long as the process
       lives. Written under the lock, read without. */
    static atomic_int registered;
    static atomic_int promised; /* the descriptors that take_room has promised */

    static void ended_alone(int number)
    {
        atomic_compare_exchange_strong(&alive, &number, 0);
    }

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
    int wanted
    int alive
    int fired
    bint in_loop
    int registered
    int promised
    void ended_alone(int number) nogil
    long descriptor_limit() nogil
    bint are_free(int count) nogil
    int system_room(int count) nogil
    int prctl(int option, const char *name) nogil
    int PR_SET_NAME


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

def start_thread(name, function, *arguments):
    # Not by threading.Thread, whose start takes locks in Python, where the exception of a signal
    # handler can leave one locked.
    try:
        start_new_thread(run_named, (name.encode(), function, arguments))
    except RuntimeError as error:
        if type(error) is not RuntimeError:
            raise  # the interpreter ends
        raise RuntimeError(f"{error}: raise the limit of threads (ulimit -u, RLIMIT_NPROC, the "
                           "cgroup's pids.max) or of memory (ulimit -v)") from error


def run_named(bytes name, function, arguments):
    # ps, top and gdb show the name. Nothing here may fail, or nobody is told that the thread ended.
    prctl(PR_SET_NAME, name)
    function(*arguments)


# ---- the loop -----------------------------------------------------------------------------------

# All below is guarded by this lock.
lock = RLock()
# Of the last thread: a lock that it holds until it has ended.
cdef object ended = None
cdef int threads = 0

# After how many seconds a thread that has not ended is woken up once more.
cdef double AGAIN = 0.1

cdef enum Registered:
    NOTHING
    OURS
    FOREIGN


cdef void wake_up(int timer, void *data) noexcept nogil:
    lib.virEventRemoveTimeout(timer)
    atomic_fetch_add(&fired, 1)


cdef void do_nothing(int timer, void *data) noexcept nogil:
    pass


cdef void do_nothing_on_handle(int watch, int fd, int events, void *data) noexcept nogil:
    pass


cdef void run_due() noexcept nogil:
    # A timer that is due comes behind all that was before it.
    cdef int before = atomic_load(&fired)
    if lib.virEventAddTimeout(0, wake_up, NULL, NULL) >= 0:
        while atomic_load(&fired) == before and lib.virEventRunDefaultImpl() == 0:
            pass


cdef void run_pending() noexcept nogil:
    # What a callback removed is freed in a later iteration than it.
    run_due()
    run_due()


def run(int number, ending):
    global in_loop
    in_loop = True
    try:
        with nogil:
            while atomic_load(&wanted) == number and lib.virEventRunDefaultImpl() == 0:
                pass
            run_pending()
    finally:
        ended_alone(number)
        ending.release()


cdef int register() except -1:
    cdef int timer
    if atomic_load(&registered) == NOTHING:
        take_room(1, "the event loop")
        with nogil:
            # Without an implementation libvirt takes no timer.
            timer = lib.virEventAddTimeout(-1, do_nothing, NULL, NULL)
            if timer < 0:
                lib.virEventRegisterDefaultImpl()
                atomic_store(&registered, OURS)
                # It takes its descriptor with the first timer.
                timer = lib.virEventAddTimeout(-1, do_nothing, NULL, NULL)
            else:
                atomic_store(&registered, FOREIGN)
            lib.virEventRemoveTimeout(timer)
            give_room(1)
    return 0


cdef bint is_running() noexcept:
    cdef int number = atomic_load(&wanted)
    return number != 0 and atomic_load(&alive) == number


cdef int start() except -1:
    global ended, threads
    if atomic_load(&registered) == OURS and not is_running():
        ending = allocate_lock()
        ending.acquire()
        threads += 1
        atomic_store(&alive, threads)
        atomic_store(&wanted, threads)
        try:
            start_thread("pyvirhost-loop", run, threads, ending)
        except BaseException:
            atomic_store(&wanted, 0)
            raise
        ended = ending
    return 0


cdef int stop(double timeout) except -1:
    # Wakes the thread by a timer that is due at once, and again: a forked process wakes its loop by
    # the same descriptor as its parent's, and either may read what was meant for the other.
    global ended
    cdef double waited = 0
    atomic_store(&wanted, 0)
    while ended is not None and not 0 <= timeout <= waited:
        with nogil:
            lib.virEventAddTimeout(0, wake_up, NULL, NULL)
        if in_loop:
            return 0
        if ended.acquire(True, AGAIN):
            ended = None
        waited += AGAIN
    return 0


# A close callback may open and close connections, and must not wait for the lock: whoever holds it
# may be waiting for the loop's thread.

cdef int keep_running() except -1:
    if atomic_load(&registered) == OURS and not is_running() and not in_loop:
        with lock:
            start()
    return 0


cdef void settle() noexcept:
    if atomic_load(&registered) == OURS and not is_running() and not in_loop:
        with lock:
            if not is_running():
                with nogil:
                    run_pending()


class EventLoop:
    """libvirt's event loop, on a daemon thread of this process.

    It answers servers' keepalive probes, sends this side's, and notices at once when a connection
    is lost, upon which it calls the connection's close callback. It serves connections opened after
    its first start. A process has one: all objects of this class are the same loop.
    ``open(keepalive=...)`` starts it, and it ends with the interpreter. It is also a context
    manager.

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
        ``virEventRegisterDefaultImpl`` and ``virEventRunDefaultImpl``, since libvirt 0.9.0; no
        round trip.
        """
        if in_loop:
            return
        with lock:
            register()
            start()

    def stop(self):
        """Stop the loop at once; do nothing if it is stopped.

        Connections that it served go on without keepalive until it is started again, which the
        next `open` does.
        """
        if in_loop:
            atomic_store(&wanted, 0)
            return
        with lock:
            stop(-1)

    @property
    def running(self):
        """Whether this loop is running, or another library's is registered: bool."""
        return atomic_load(&registered) == FOREIGN or is_running()

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

cdef bint paused = False


def pause():
    # A thread that is inside the loop while the process forks would own it in the child for ever.
    global paused
    lock.acquire()
    paused = is_running() and not in_loop
    if paused:
        stop(-1)


def resume():
    global paused
    try:
        if paused:
            start()
    finally:
        paused = False
        lock.release()


def leave_to_parent():
    # The child inherits the watches of its parent's sockets, and must not read from those.
    global ended, in_loop, paused
    cdef int watch, timer, last_watch, last_timer
    atomic_store(&wanted, 0)
    atomic_store(&promised, 0)
    in_loop = False
    ended = None
    if atomic_load(&registered) == OURS:
        last_watch = lib.virEventAddHandle(0, 0, do_nothing_on_handle, NULL, NULL)
        last_timer = lib.virEventAddTimeout(-1, do_nothing, NULL, NULL)
        for watch in range(1, last_watch + 1):
            lib.virEventRemoveHandle(watch)
        for timer in range(1, last_timer + 1):
            lib.virEventRemoveTimeout(timer)
    paused = False
    lock.release()


os.register_at_fork(before=pause, after_in_parent=resume, after_in_child=leave_to_parent)


def end():
    with lock:
        stop(2)


atexit.register(end)
