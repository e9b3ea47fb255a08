"""libvirt's event loop: its default implementation, on one thread of this process."""

import atexit
import os
from _thread import RLock, get_ident

cimport libvirt as lib


cdef extern from *:
    """
    #include <stdatomic.h>

    static atomic_int wanted;   /* whether the loop's thread is to go on */
    static atomic_int fired;    /* how many wake-up timers have fired */
    /* What is registered with libvirt: nothing yet, our choice of its default implementation, or
       what some other library chose before. libvirt keeps the first for as long as the process
       lives. Written under the lock, read without. */
    static atomic_int registered;
    """
    int atomic_load(int *value) nogil
    void atomic_store(int *value, int new_value) nogil
    int atomic_fetch_add(int *value, int more) nogil
    int wanted
    int fired
    int registered


# All below is guarded by this lock.
lock = RLock()
# Not a cdef, which without the GIL could be freed under those who read it without the lock.
thread = None
loop_thread = None

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


def run():
    global loop_thread
    loop_thread = get_ident()
    with nogil:
        while atomic_load(&wanted) and lib.virEventRunDefaultImpl() == 0:
            pass
        run_pending()
    # The system may give another thread the same number.
    loop_thread = None


cdef void register() noexcept:
    cdef int timer
    if atomic_load(&registered) == NOTHING:
        # Without an implementation libvirt takes no timer.
        with nogil:
            timer = lib.virEventAddTimeout(-1, do_nothing, NULL, NULL)
            if timer >= 0:
                lib.virEventRemoveTimeout(timer)
            else:
                lib.virEventRegisterDefaultImpl()
        atomic_store(&registered, OURS if timer < 0 else FOREIGN)


cdef bint is_running():
    present = thread
    return present is not None and present.is_alive()


cdef object start_thread():
    global thread
    if atomic_load(&registered) == OURS and not is_running():
        from threading import Thread  # costs as much as all the rest of a first reading

        atomic_store(&wanted, 1)
        thread = Thread(target=run, name="pyvirhost-events", daemon=True)
        thread.start()


cdef object stop_thread(timeout):
    # Wakes the thread by a timer that is due at once.
    global thread
    stopped = thread
    thread = None
    if stopped is not None:
        atomic_store(&wanted, 0)
        with nogil:
            lib.virEventAddTimeout(0, wake_up, NULL, NULL)
        if stopped.ident != get_ident():
            stopped.join(timeout)


cdef bint in_loop():
    # A close callback may open and close connections, and must not wait for the lock: whoever
    # holds it may be waiting for the loop's thread.
    return get_ident() == loop_thread


cdef object keep_running():
    if atomic_load(&registered) == OURS and not is_running() and not in_loop():
        with lock:
            start_thread()


cdef void settle() noexcept:
    if atomic_load(&registered) == OURS and not is_running() and not in_loop():
        with lock:
            if not is_running():
                with nogil:
                    run_pending()


class EventLoop:
    """libvirt's event loop, on a daemon thread of this process.

    It answers the servers' keepalive messages, sends this side's, and notices at once that a
    connection was lost, when it calls the connection's close callback. It serves connections that
    were opened after its first start. There is one for a process: all objects of this class are
    the same loop. ``open(keepalive=...)`` starts it, it ends with the interpreter, and
    works as a context manager, too.

    A loop that another library of the process has registered with libvirt first is used in its
    place, and left to that library to run.
    """

    __module__ = "pyvirhost"
    __slots__ = ()

    def start(self):
        """Start the loop; where it runs, do nothing.

        Notes
        -----
        ``virEventRegisterDefaultImpl`` and ``virEventRunDefaultImpl``, since libvirt 0.9.0; no
        round trip.
        """
        if in_loop():
            return
        with lock:
            register()
            start_thread()

    def stop(self):
        """Stop the loop at once; where it does not run, do nothing.

        Connections that it served go on without keepalive until it is started again, which the
        next `open` does.
        """
        if in_loop():
            atomic_store(&wanted, 0)
            return
        with lock:
            stop_thread(None)

    @property
    def running(self):
        """Whether this loop runs, or another library's is registered: bool."""
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
    paused = is_running() and thread.ident != get_ident()
    if paused:
        stop_thread(None)


def resume():
    global paused
    try:
        if paused:
            start_thread()
    finally:
        paused = False
        lock.release()


def leave_to_parent():
    # The child inherits the watches of its parent's sockets, and must not read from those.
    global thread, paused
    cdef int watch, timer, last_watch, last_timer
    thread = None
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
        stop_thread(2)


atexit.register(end)
