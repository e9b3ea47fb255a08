"""The event loop itself, through libvirt, with real descriptors and timers.

libvirt's own implementation passes the same tests, which proves them right: the last one runs them
so, all but those of what only this package promises.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from daemon import Daemon, wait_until
from test_faults import together

import pyvirhost
from pyvirhost import EventLoop

OWN = os.environ.get("PYVIRHOST_TEST_LOOP") != "libvirt"
only_ours = pytest.mark.skipif(not OWN, reason="libvirt's own loop does not promise it")

READABLE, WRITABLE, ERROR, HANGUP = 1, 2, 4, 8
HOUR = 3_600_000

libvirt = ctypes.CDLL("libvirt.so.0")
Release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
OnHandle = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
OnTimer = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)
# libvirt may call them for as long as the process lives.
forever = []


@pytest.fixture(scope="module", autouse=True)
def loop():
    if OWN:
        EventLoop().start()
        yield
        EventLoop().stop()
        return
    libvirt.virEventRegisterDefaultImpl()

    def run():
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, daemon=True).start()
    yield


class Source:
    """A watch or a timer: how often it was called and released, and by which threads."""

    def __init__(self, act=None):
        self.calls, self.releases, self.threads = [], [], set()
        self.called, self.released = threading.Semaphore(0), threading.Semaphore(0)
        self.act = act or (lambda source: None)
        self.release = Release(self._release)
        forever.append(self)

    def _release(self, opaque):
        self.releases.append(opaque)
        self.threads.add(threading.get_native_id())
        self.released.release()

    def note(self, number, call):
        self.number = number  # it may be called before whoever adds it knows
        self.calls.append(call)
        self.threads.add(threading.get_native_id())
        self.act(self)
        self.called.release()

    def remove(self):
        raise NotImplementedError

    def await_call(self):
        assert self.called.acquire(timeout=20)

    def await_release(self):
        assert self.released.acquire(timeout=20)

    def await_more_than(self, count):
        while len(self.calls) <= count:
            self.await_call()

    def end(self):
        assert self.remove() == 0
        self.await_release()


class Watch(Source):
    def __init__(self, fd, events, act=None):
        super().__init__(act)
        self.call = OnHandle(
            lambda watch, fd, events, _: self.note(watch, (watch, fd, events)))
        self.number = libvirt.virEventAddHandle(fd, events, self.call, None, self.release)

    def update(self, events):
        libvirt.virEventUpdateHandle(self.number, events)

    def remove(self):
        return libvirt.virEventRemoveHandle(self.number)


class Timer(Source):
    def __init__(self, timeout, act=None):
        super().__init__(act)
        self.call = OnTimer(lambda timer, _: self.note(timer, timer))
        self.number = libvirt.virEventAddTimeout(timeout, self.call, None, self.release)

    def update(self, timeout):
        libvirt.virEventUpdateTimeout(self.number, timeout)

    def remove(self):
        return libvirt.virEventRemoveTimeout(self.number)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def calls_until_now(source):
    """Return how often it was called, which it is not any more."""
    pass_turns()
    before = len(source.calls)
    pass_turns()
    assert len(source.calls) == before
    return before


def pass_turns():
    # What was due before this has been called after it.
    for _ in range(3):
        timer = Timer(0, lambda timer: timer.remove())
        timer.await_release()


# ---- descriptors ----

def test_what_is_ready_is_told_until_it_is_read(pair):
    ours, theirs = pair
    watch = Watch(ours.fileno(), READABLE)
    pass_turns()
    assert watch.calls == []
    theirs.send(b"x")
    for _ in range(3):
        watch.await_call()
    assert set(watch.calls) == {(watch.number, ours.fileno(), READABLE)}
    ours.recv(1)
    calls_until_now(watch)
    watch.end()
    assert len(watch.threads) == 1
    assert threading.get_native_id() not in watch.threads


@pytest.mark.parametrize(("asked", "told"), [
    (READABLE, READABLE), (WRITABLE, WRITABLE), (READABLE | WRITABLE, READABLE | WRITABLE)])
def test_only_what_is_asked_for_is_told(pair, asked, told):
    ours, theirs = pair
    theirs.send(b"x")
    watch = Watch(ours.fileno(), asked)
    watch.await_call()
    watch.end()
    assert {events for _, _, events in watch.calls} == {told}


@pytest.mark.parametrize("asked", [READABLE, ERROR, HANGUP])
def test_a_hang_up_is_told_although_nobody_asked(asked):
    read, write = os.pipe()
    watch = Watch(read, asked)
    os.close(write)
    watch.await_call()
    assert watch.calls[0][2] & HANGUP
    watch.end()
    os.close(read)


def test_an_error_is_told_although_nobody_asked():
    read, write = os.pipe()
    watch = Watch(write, HANGUP)
    os.close(read)
    watch.await_call()
    assert watch.calls[0][2] & ERROR
    watch.end()
    os.close(write)


def test_a_watch_is_switched_off_and_on(pair):
    ours, theirs = pair
    watch = Watch(ours.fileno(), 0)
    theirs.send(b"x")
    theirs.close()  # a hang-up is not told either
    pass_turns()
    assert watch.calls == []
    watch.update(READABLE)
    watch.await_call()
    watch.update(0)
    before = calls_until_now(watch)
    watch.update(READABLE)
    watch.await_more_than(before)
    watch.end()


def test_a_descriptor_may_be_watched_twice(pair):
    ours, theirs = pair
    reads, writes = Watch(ours.fileno(), READABLE), Watch(ours.fileno(), WRITABLE)
    writes.await_call()
    assert reads.calls == []
    theirs.send(b"x")
    reads.await_call()
    writes.end()
    reads.await_more_than(len(reads.calls) + 2)
    assert {events for _, _, events in reads.calls} == {READABLE}
    assert {events for _, _, events in writes.calls} == {WRITABLE}
    reads.end()


def test_a_file_is_always_ready(tmp_path):
    with (tmp_path / "file").open("w+b") as file:
        watch = Watch(file.fileno(), READABLE)
        for _ in range(3):
            watch.await_call()
        watch.update(0)
        before = calls_until_now(watch)
        watch.update(WRITABLE)
        watch.await_more_than(before)
        watch.end()
    assert {events for _, _, events in watch.calls[:before]} == {READABLE}
    assert {events for _, _, events in watch.calls[before:]} == {WRITABLE}


@pytest.mark.parametrize("fd", [-1, -2**31, 987_654, 2**31 - 1])
def test_a_descriptor_that_is_none(fd):
    watch = Watch(fd, READABLE)
    assert watch.number > 0
    watch.update(WRITABLE)
    pass_turns()
    assert watch.calls == []
    watch.end()


def test_a_descriptor_that_is_closed_while_it_is_watched(pair):
    ours, _ = pair
    fd = ours.fileno()
    watch = Watch(fd, READABLE)
    ours.close()
    pass_turns()
    watch.update(0)
    watch.update(READABLE)
    pass_turns()
    # The number is another's now.
    other, others_peer = socket.socketpair()
    with other, others_peer:
        if other.fileno() != fd:
            os.dup2(other.fileno(), fd)
        new = Watch(fd, READABLE)
        others_peer.send(b"x")
        new.await_call()
        watch.end()
        new.end()
        if other.fileno() != fd:
            os.close(fd)


# ---- timers ----

def test_a_timer_of_no_time_is_called_again_and_again():
    timer = Timer(0)
    for _ in range(5):
        timer.await_call()
    assert set(timer.calls) == {timer.number}
    timer.end()
    before = len(timer.calls)
    pass_turns()
    assert len(timer.calls) == before
    assert threading.get_native_id() not in timer.threads


def test_timers_of_no_time_leave_room_for_others(pair):
    ours, theirs = pair
    busy = [Timer(0) for _ in range(3)]
    watch, timer = Watch(ours.fileno(), READABLE), Timer(1)
    theirs.send(b"x")
    watch.await_call()
    timer.await_call()
    sources = (*busy, watch, timer)
    for source in sources:
        source.await_call()
        source.remove()
    for source in sources:  # libvirt's own does it when nothing else is due
        source.await_release()


@only_ours
def test_timers_are_called_in_their_order():
    called = []
    timers = [Timer(timeout, lambda timer: (called.append(timer), timer.update(-1)))
              for timeout in (90, 30, 60, 10)]
    for timer in timers:
        timer.await_call()
    assert called == [timers[3], timers[1], timers[2], timers[0]]
    for timer in timers:
        timer.end()


def test_a_timer_is_called_again_after_its_time():
    timer = Timer(5)
    for _ in range(3):
        timer.await_call()
    timer.end()


def test_a_timer_that_is_off_or_moved_is_not_called():
    off, later, switched_off = Timer(-1), Timer(20), Timer(20)
    later.update(HOUR)
    switched_off.update(-1)
    witness = Timer(60)
    witness.await_call()
    assert off.calls == later.calls == switched_off.calls == []
    for timer in (off, later, switched_off):  # sooner than the loop sleeps
        timer.update(1)
        timer.await_call()
    for timer in (off, later, switched_off, witness):
        timer.end()


def test_thousands_of_timers():
    count = 3000
    timers = [Timer((number * 7919) % count // 20 + 1, lambda timer: timer.update(-1))
              for number in range(count)]
    for timer in timers[::3]:
        timer.update(HOUR)
    for number, timer in enumerate(timers):
        if number % 3:
            timer.await_call()
    assert {len(timer.calls) for timer in timers[1::3] + timers[2::3]} == {1}
    for timer in timers[::3]:
        timer.update(0)
    for timer in timers[::3]:
        timer.await_call()
    for timer in timers:
        assert timer.remove() == 0
    for timer in timers:
        timer.await_release()


# ---- in callbacks, and what makes no sense ----

def test_a_watch_removes_itself(pair):
    ours, theirs = pair
    watch = Watch(ours.fileno(), READABLE, lambda watch: watch.remove())
    theirs.send(b"x")
    watch.await_release()
    pass_turns()
    assert len(watch.calls) == len(watch.releases) == 1


def test_what_another_callback_removes_is_not_called():
    # Both are ready in one turn, and the first one called removes the other.
    pairs = [socket.socketpair() for _ in range(2)]

    def remove_others(watch):
        for other in watches:
            other.remove()

    watches = []
    blocked, block = threading.Event(), threading.Event()
    blocker = Timer(0, lambda timer: (timer.remove(), blocked.set(), block.wait(20)))
    assert blocked.wait(20)
    watches += [Watch(ours.fileno(), READABLE, remove_others) for ours, _ in pairs]
    for _, theirs in pairs:
        theirs.send(b"x")
    block.set()
    for source in (*watches, blocker):
        source.await_release()
    assert sum(len(watch.calls) for watch in watches) == 1
    for sockets in pairs:
        for end in sockets:
            end.close()


def test_a_second_watch_of_a_descriptor_that_the_first_removes_is_not_called(pair):
    ours, theirs = pair
    watches = []

    def remove_all(watch):
        for other in watches:
            other.remove()

    watches += [Watch(ours.fileno(), 0, remove_all) for _ in range(2)]
    theirs.send(b"x")
    blocked, block = threading.Event(), threading.Event()
    blocker = Timer(0, lambda timer: (timer.remove(), blocked.set(), block.wait(20)))
    assert blocked.wait(20)
    for watch in watches:
        watch.update(READABLE)
    block.set()
    for source in (*watches, blocker):
        source.await_release()
    assert sum(len(watch.calls) for watch in watches) == 1


def test_timers_that_other_timers_remove_or_move_are_not_called():
    blocked, block = threading.Event(), threading.Event()
    timers = []
    called = []

    def act(timer):
        called.append(timer)
        for other in timers:
            if other is not timer:
                other.remove() if other is timers[-1] else other.update(HOUR)
        timer.update(HOUR)

    blocker = Timer(0, lambda timer: (timer.remove(), blocked.set(), block.wait(20)))
    assert blocked.wait(20)
    timers += [Timer(0, act) for _ in range(3)]
    block.set()
    wait_until(lambda: called, "one to be called")
    pass_turns()
    assert len(called) == 1
    for timer in timers:
        timer.remove()  # one is already
        timer.await_release()
    blocker.await_release()


def test_callbacks_add_change_and_remove(pair):
    theirs = pair[1]
    made = []

    def act(timer):
        made.append(Watch(theirs.fileno(), WRITABLE, lambda watch: watch.update(0)))
        made.append(Timer(0, lambda other: other.remove()))
        timer.update(-1)

    timer = Timer(0, act)
    timer.await_call()
    watch, other = made
    watch.await_call()
    other.await_release()
    watch.end()
    timer.end()
    assert len(timer.calls) == len(watch.calls) == len(other.calls) == 1


def test_what_does_not_exist():
    watch, timer = Watch(0, 0), Timer(-1)
    assert watch.remove() == timer.remove() == 0
    watch.await_release()
    timer.await_release()
    for number in (watch.number, timer.number, 0, -1, -2**31, 2**31 - 1):
        libvirt.virEventUpdateHandle(number, READABLE)
        libvirt.virEventUpdateTimeout(number, 0)
        assert libvirt.virEventRemoveHandle(number) == -1
        assert libvirt.virEventRemoveTimeout(number) == -1
    pass_turns()
    assert len(watch.releases) == len(timer.releases) == 1
    assert Watch(0, 0).number != watch.number
    assert Timer(-1).number != timer.number


def test_many_threads_at_once():
    def work():
        sources = []
        for round_number in range(60):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                watch = Watch(ours.fileno(), READABLE)
                timer = Timer(HOUR)
                theirs.send(b"x")
                watch.await_call()
                for _ in range(20):
                    watch.update(0)
                    watch.update(READABLE)
                    timer.update(HOUR + round_number)
                timer.update(0)
                timer.await_call()
                assert watch.remove() == timer.remove() == 0
                watch.await_release()
                timer.await_release()
            sources += [watch, timer]
        assert {len(source.releases) for source in sources} == {1}

    together(*(work,) * 6)


# ---- what only this loop promises ----

def loop_thread():
    return next(task for task in Path("/proc/self/task").iterdir()
                if (task / "comm").read_text() == "pyvirhost-loop\n")


def await_sleep():
    def is_asleep():
        return (loop_thread() / "stat").read_text().rpartition(")")[2].split()[0] == "S"

    wait_until(lambda: all(is_asleep() for _ in range(20)), "the loop to sleep")


def wake_ups():
    status = (loop_thread() / "status").read_text()
    return int(status.rpartition("\nvoluntary_ctxt_switches:")[2].split()[0])


@only_ours
def test_what_a_call_changes_wakes_nobody(pair):
    ours, theirs = pair
    watch, timer = Watch(ours.fileno(), READABLE), Timer(HOUR)
    pass_turns()
    await_sleep()
    before = wake_ups()
    for number in range(1000):
        watch.update(0)
        theirs.send(b"x")
        ours.recv(1)
        watch.update(READABLE)
        timer.update(HOUR + number)
    assert wake_ups() == before
    for source in (watch, timer):
        source.end()


@only_ours
def test_timers_as_long_as_keepalives_are_due_together():
    nothing = ctypes.cast(ctypes.CDLL(None).abs, OnTimer)  # it takes no GIL to wait for
    pass_turns()
    await_sleep()
    before = wake_ups()
    numbers = [libvirt.virEventAddTimeout(1000 + number, nothing, None, Release())
               for number in range(100)]
    last = Timer(1200)
    last.await_call()
    assert wake_ups() - before < 25
    last.remove()
    for number in numbers:
        libvirt.virEventRemoveTimeout(number)
    last.await_release()


@only_ours
def test_a_descriptor_that_is_closed_here_and_open_elsewhere(pair):
    # epoll goes on telling of it, and can't be told not to.
    ours, theirs = pair
    watch = Watch(ours.fileno(), READABLE)
    elsewhere = os.dup(ours.fileno())
    ours.close()
    theirs.send(b"x")
    watch.await_call()
    watch.end()
    await_sleep()
    other, others_peer = socket.socketpair()
    with other, others_peer:
        watch = Watch(other.fileno(), READABLE)
        others_peer.send(b"x")
        watch.await_call()
        watch.end()
    os.close(elsewhere)


@only_ours
def test_signals_are_left_to_other_threads():
    status = dict(line.split(":", 1) for line in (
        loop_thread() / "status").read_text().splitlines())
    blocked = int(status["SigBlk"], 16)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        assert bool(blocked >> (number - 1) & 1) == (number not in (
            signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP,
            signal.SIGSYS, signal.SIGABRT)), number


@only_ours
def test_a_slow_close_callback_holds_up_no_other_connection():
    entered, go_on, lost = threading.Event(), threading.Event(), threading.Semaphore(0)

    def wait(connection, reason):
        entered.set()
        assert go_on.wait(20)
        lost.release()

    with Daemon() as daemon, Daemon() as other:
        connections = [pyvirhost.open(daemon.test_uri) for _ in range(20)]
        for connection in connections:
            connection.register_close_callback(wait)
        with pyvirhost.open(other.test_uri, keepalive=(1, 3)) as alive:
            daemon.process.kill()
            assert entered.wait(20)
            pass_turns()
            assert alive.node_info().cpus == 16
            go_on.set()
            for _ in connections:
                assert lost.acquire(timeout=20)
        for connection in connections:
            connection.close()


@only_ours
def test_the_interpreter_need_not_run_for_a_server_to_be_answered():
    # Its servers probe their clients, and drop who does not answer for three seconds.
    with Daemon(settings="keepalive_interval = 1\nkeepalive_count = 2\n") as daemon, pyvirhost.open(
            daemon.test_uri) as connection:
        # This call keeps the GIL.
        ctypes.PyDLL(None).poll(None, ctypes.c_ulong(0), 6000)
        assert connection.node_info().cpus == 16


def run(program, *arguments, **environment):
    # From 3.12 on Python warns of a fork beside threads.
    done = subprocess.run(
        [sys.executable, "-W", "ignore:This process:DeprecationWarning",
         "-c", "import os, sys\nfrom test_loop import *\nEventLoop().start()\n"
         + textwrap.dedent(program), *arguments],
        capture_output=True, text=True, timeout=80,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@only_ours
def test_a_program_that_closes_all_descriptors():
    assert run("""
        timer = Timer(1)
        timer.await_call()
        os.closerange(3, 1000)
        pass_turns()
        ours, theirs = socket.socketpair()
        watch = Watch(ours.fileno(), READABLE)
        theirs.send(b"x")
        watch.await_call()
        print("end")
    """) == "end\n"


@only_ours
def test_a_program_that_uses_the_numbers_of_closed_descriptors_at_once():
    assert run("""
        blocked, block = threading.Event(), threading.Event()
        Timer(0, lambda timer: (timer.remove(), blocked.set(), block.wait(20)))
        assert blocked.wait(20)
        os.closerange(3, 1000)
        ours, theirs = socket.socketpair()
        theirs.send(b"x")
        watch = Watch(ours.fileno(), READABLE)
        block.set()
        watch.await_call()
        print("end")
    """) == "end\n"


@only_ours
def test_a_descriptor_that_the_system_refuses(tmp_path):
    source, shim = tmp_path / "full.c", tmp_path / "full.so"
    source.write_text("""
        #include <errno.h>
        #include <stdlib.h>
        #include <sys/epoll.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        int epoll_ctl(int set, int how, int fd, struct epoll_event *event)
        {
            if (getenv("FULL") && how == EPOLL_CTL_ADD) {
                errno = ENOSPC;
                return -1;
            }
            return syscall(SYS_epoll_ctl, set, how, fd, event);
        }
    """)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, source], check=True)
    assert run("""
        ours, theirs = socket.socketpair()
        theirs.send(b"x")
        os.putenv("FULL", "1")
        refused = Watch(ours.fileno(), READABLE)
        assert refused.number == -1
        os.unsetenv("FULL")
        watch = Watch(ours.fileno(), READABLE)
        watch.await_call()
        watch.end()
        assert refused.calls == refused.releases == []
        print("end")
    """, LD_PRELOAD=f"{os.environ.get('LD_PRELOAD', '')}:{shim}") == "end\n"


@only_ours
def test_a_forked_child_leaves_its_parents_watches_alone():
    assert run("""
        ours, theirs = socket.socketpair()
        watch, timer = Watch(ours.fileno(), READABLE), Timer(HOUR)
        pid = os.fork()
        if pid == 0:
            assert not EventLoop().running
            assert watch.remove() == timer.remove() == -1
            EventLoop().start()
            own = Watch(ours.fileno(), READABLE)
            theirs.send(b"x")
            own.await_call()
            own.end()
            assert watch.calls == watch.releases == timer.releases == []
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        watch.await_call()
        assert watch.remove() == timer.remove() == 0
        watch.await_release()
        timer.await_release()
        print("end")
    """) == "end\n"


@only_ours
def test_a_callback_forks_and_the_child_returns_from_it():
    # The child's copy of the thread then ends, and with it the child.
    assert run("""
        ours, theirs = socket.socketpair()
        blocked, block = threading.Event(), threading.Event()
        blocker = Timer(0, lambda timer: (timer.remove(), blocked.set(), block.wait(20)))
        assert blocked.wait(20)
        parent, statuses = os.getpid(), []

        def fork(source):
            if os.getpid() == parent and not statuses:
                pid = os.fork()
                if pid:
                    statuses.append(os.waitpid(pid, 0)[1])
            elif os.getpid() != parent:
                os._exit(1)

        sources = [*(Watch(ours.fileno(), READABLE, fork) for _ in range(3)),
                   *(Timer(0, fork) for _ in range(3))]
        theirs.send(b"x")
        block.set()
        for source in sources:
            source.await_call()
            source.await_call()
        for source in sources:
            source.remove()
        for source in sources:
            source.await_release()
        print(statuses)
    """) == "[0]\n"


@only_ours
def test_forks_while_other_threads_change_everything():
    assert run("""
        ended = threading.Event()

        # Callbacks in Python would hang the child: at the fork the loop's thread may hold the
        # interpreter's lock for its list of threads.
        on_handle, on_timer = (ctypes.cast(ctypes.CDLL(None).abs, kind)
                               for kind in (OnHandle, OnTimer))

        def change():
            ours, theirs = socket.socketpair()
            theirs.send(b"x")
            while not ended.is_set():
                watch = libvirt.virEventAddHandle(ours.fileno(), 1, on_handle, None, Release())
                timer = libvirt.virEventAddTimeout(0, on_timer, None, Release())
                assert libvirt.virEventRemoveHandle(watch) == 0
                assert libvirt.virEventRemoveTimeout(timer) == 0
            ours.close()
            theirs.close()

        threads = [threading.Thread(target=change) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(50):
            pid = os.fork()
            if pid == 0:
                EventLoop().start()
                pass_turns()
                EventLoop().stop()
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        ended.set()
        for thread in threads:
            thread.join(20)
        print("end")
    """) == "end\n"


@only_ours
def test_libvirts_own_loop_passes_the_same_tests():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        capture_output=True, text=True, timeout=90,
        env={**os.environ, "PYVIRHOST_TEST_LOOP": "libvirt"})
    assert done.returncode == 0, done.stdout
