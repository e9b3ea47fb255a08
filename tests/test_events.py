"""The event loop, keepalive, close callbacks and timeouts, against daemons that stop and die."""

import contextlib
import functools
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
from daemon import Daemon, threads_named, wait_until
from test_faults import together

import pyvirhost
from pyvirhost import CloseReason, EventLoop


@pytest.fixture
def loop():
    with EventLoop() as loop:
        yield loop


def loop_threads():
    return threads_named("pyvirhost-loop")


def test_starting_and_stopping_are_idempotent():
    loop = EventLoop()
    for _ in range(20):
        loop.start()
        loop.start()
        assert loop.running
        assert EventLoop().running
        assert repr(loop) == "<EventLoop running>"
        wait_until(lambda: loop_threads() == 1, "the thread to have its name")
        loop.stop()
        loop.stop()
        assert not loop.running
        assert repr(loop) == "<EventLoop stopped>"
        wait_until(lambda: not loop_threads(), "the thread to end")


def test_many_threads_start_and_stop_it():
    start = threading.Barrier(8)

    def work():
        start.wait()
        for _ in range(30):
            EventLoop().start()
            EventLoop().stop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    EventLoop().stop()
    wait_until(lambda: not loop_threads(), "the thread to end")


def test_the_loop_may_be_asked_while_others_start_and_stop_it():
    ended = threading.Event()

    def start_and_stop():
        try:
            for _ in range(30):
                EventLoop().start()
                EventLoop().stop()
        finally:
            ended.set()

    def ask():
        while not ended.is_set():
            assert repr(EventLoop()) in ("<EventLoop running>", "<EventLoop stopped>")
            with pyvirhost.open("test:///default"):
                assert EventLoop().running in (True, False)

    together(start_and_stop, ask, ask, ask)
    EventLoop().stop()
    wait_until(lambda: not loop_threads(), "the thread to end")


def test_a_thread_that_gets_the_number_of_the_loops_starts_it():
    # The system gives it to the next thread, as a rule.
    for _ in range(5):
        EventLoop().start()
        EventLoop().stop()
        together(EventLoop().start)
        assert EventLoop().running
        EventLoop().stop()


def test_no_caller_takes_a_lock_in_python(daemon):
    # The exception of a signal handler can leave one locked, once and for all.
    assert run("""
        import _thread, asyncio, sys, threading
        import pyvirhost, pyvirhost.aio

        taken = []
        main = threading.get_ident()

        def watched(kind):
            def make(*arguments):
                lock = kind(*arguments)

                class Watched:
                    def __enter__(self):
                        if threading.get_ident() == main:
                            taken.append(kind)
                        return lock.__enter__()

                    def __exit__(self, *exception):
                        return lock.__exit__(*exception)

                    def __getattr__(self, name):
                        return getattr(lock, name)

                return Watched()

            return make

        async def main_task():
            async with pyvirhost.aio.open(sys.argv[1]) as host:
                await host.node_info()

        with asyncio.Runner() as runner:
            runner.get_loop().slow_callback_duration = 60  # or it warns on a slow machine
            threading.Lock = watched(threading.Lock)
            threading.RLock = watched(threading.RLock)
            threading._allocate_lock = watched(threading._allocate_lock)
            threading.Condition()  # takes the new ones
            with threading.Condition():
                assert len(taken) == 1
            taken.clear()
            loop = pyvirhost.EventLoop()
            for timeout in (None, 20):
                loop.start()
                pyvirhost.open(sys.argv[1], timeout=timeout, keepalive=(5, 3)).close()
                loop.stop()
            runner.run(main_task())
            assert not taken, taken
        print("end")
    """, daemon.test_uri) == "end\n"


def test_opening_starts_a_loop_that_was_stopped(daemon, loop):
    loop.stop()
    with pyvirhost.open(daemon.test_uri):
        assert loop.running


def test_keepalive_is_the_drivers_to_have(daemon, loop):
    with pyvirhost.open(daemon.test_uri, keepalive=(5, 3)) as connection:
        assert loop.running
        assert connection.set_keepalive(7, 2) is True
        assert connection.set_keepalive(0, 0) is True
    with (pyvirhost.open("test:///default", keepalive=(5, 3)) as connection,
          pytest.raises(pyvirhost.NotSupportedError)):
        connection.set_keepalive(5, 3)


@pytest.mark.parametrize(("keepalive", "error"), [
    (5, TypeError), ([5, 3], TypeError), ((5,), TypeError), ((5, 3, 1), TypeError),
    (("5", 3), TypeError), ((5, 1.5), TypeError), ((0, 3), ValueError), ((-1, 3), ValueError),
    ((5, -1), OverflowError), ((2**31, 3), OverflowError), ((5, 2**32), OverflowError),
])
def test_keepalive_out_of_range_is_refused(keepalive, error):
    with pytest.raises(error, match=r"^keepalive"):
        pyvirhost.open("test:///default", keepalive=keepalive)


def test_a_stopped_daemon_is_noticed_by_keepalive():
    lost = threading.Event()
    reasons = []

    def note(connection, reason):
        reasons.append((connection, reason))
        lost.set()

    with Daemon() as daemon:
        connection = pyvirhost.open(daemon.test_uri, keepalive=(1, 2))
        connection.register_close_callback(note)
        daemon.process.send_signal(signal.SIGSTOP)
        # Without keepalive the call would wait for ever.
        with pytest.raises(pyvirhost.ConnectionLostError):
            connection.node_info()
        assert lost.wait(10)
        assert reasons == [(connection, CloseReason.KEEPALIVE)]
        assert not connection.is_alive()
        connection.close()


def test_a_stopped_daemon_does_not_block_other_connections(daemon):
    with Daemon() as other, pyvirhost.open(daemon.test_uri) as free:
        stuck = pyvirhost.open(other.test_uri)
        other.process.send_signal(signal.SIGSTOP)
        thread = threading.Thread(target=stuck.node_info)
        thread.start()
        for _ in range(100):
            assert free.node_info().cpus == 16
        assert thread.is_alive()
        other.process.send_signal(signal.SIGCONT)
        thread.join(20)
        stuck.close()


def test_a_killed_daemon_is_noticed_at_once_with_a_loop(loop):
    lost = threading.Event()
    reasons = []
    with Daemon() as daemon, pyvirhost.open(daemon.test_uri) as connection:
        connection.register_close_callback(lambda _, reason: (reasons.append(reason), lost.set()))
        daemon.process.kill()
        assert lost.wait(10)
        assert reasons == [CloseReason.EOF]
        assert not connection.is_alive()
        with pytest.raises(pyvirhost.ConnectionLostError):
            connection.node_info()
        # It was called: there is nothing left to unregister, and that is fine.
        connection.unregister_close_callback()
        with pytest.raises(ValueError, match="no close callback is registered"):
            connection.unregister_close_callback()


@pytest.mark.parametrize("what", ["call", "unregister", "close", "raise", "drop", "reopen"])
def test_a_callback_may_do_anything(loop, daemon, what, monkeypatch):
    done = threading.Event()
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: unraisable.append(args.exc_type))
    connections = []

    def callback(connection, reason):
        try:
            assert reason is CloseReason.EOF
            if what == "call":
                with pytest.raises(pyvirhost.ConnectionLostError):
                    connection.node_info()
            elif what == "unregister":
                connection.unregister_close_callback()
            elif what == "close":
                connection.close()
            elif what == "raise":
                raise ZeroDivisionError
            elif what == "drop":
                connections.clear()
                connection.close()
                del connection
                gc.collect()
            else:
                with pyvirhost.open(daemon.test_uri) as another:
                    assert another.node_info().cpus == 16
        finally:
            done.set()

    with Daemon() as dying:
        connections.append(pyvirhost.open(dying.test_uri))
        connections[0].register_close_callback(callback)
        dying.process.kill()
        assert done.wait(20)
        for connection in connections:
            connection.close()
    wait_until(lambda: unraisable == ([ZeroDivisionError] if what == "raise" else []),
               "the hook to be called or not")
    assert loop.running


def test_a_callback_opens_and_closes_while_the_loop_is_being_stopped(daemon):
    loop = EventLoop()
    entered, done = threading.Event(), threading.Event()

    def callback(connection, reason):
        entered.set()
        wait_until(lambda: not loop.running, "the loop to stop")
        connection.close()
        with pyvirhost.open(daemon.test_uri, keepalive=(5, 3)) as another:
            assert another.node_info().cpus == 16
        loop.stop()
        done.set()

    with Daemon() as dying:
        loop.start()
        connection = pyvirhost.open(dying.test_uri)
        connection.register_close_callback(callback)
        dying.process.kill()
        assert entered.wait(10)
        loop.stop()
        assert done.wait(20)
        connection.close()


def test_a_callback_is_not_called_after_close_or_when_nobody_holds_the_connection(loop):
    called = []
    with Daemon() as daemon:
        closed = pyvirhost.open(daemon.test_uri)
        closed.register_close_callback(lambda *_: called.append("closed"))
        closed.close()
        unregistered = pyvirhost.open(daemon.test_uri)
        unregistered.register_close_callback(lambda *_: called.append("unregistered"))
        unregistered.unregister_close_callback()
        dropped = [pyvirhost.open(daemon.test_uri)]
        dropped[0].register_close_callback(lambda *_: called.append("dropped"))
        with pytest.warns(ResourceWarning):
            drop(dropped)
        witness = pyvirhost.open(daemon.test_uri)
        seen = threading.Event()
        witness.register_close_callback(lambda *_: seen.set())
        daemon.process.kill()
        assert seen.wait(10)
        witness.close()
        unregistered.close()
    assert called == []


def drop(connections):
    connections.clear()
    gc.collect()


def test_callbacks_that_make_no_sense_change_nothing(daemon):
    with pyvirhost.open(daemon.test_uri) as connection:
        for callback in (None, 5, "name"):
            with pytest.raises(TypeError, match=r"^callback must be callable"):
                connection.register_close_callback(callback)
        for callback in (lambda: None, lambda _: None, lambda _, __, ___: None):
            with pytest.raises(TypeError, match=r"^callback must take 2 arguments"):
                connection.register_close_callback(callback)
        with pytest.raises(ValueError, match="no close callback is registered"):
            connection.unregister_close_callback()
        connection.register_close_callback(lambda *_: None)
        with pytest.raises(ValueError, match="already registered"):
            connection.register_close_callback(lambda *_: None)
        connection.unregister_close_callback()
        connection.register_close_callback(lambda *_: None)


def ignore(connection, reason):
    pass


def test_threads_register_callbacks_of_connections_of_their_own():
    def work():
        with pyvirhost.open("test:///default") as connection:
            for _ in range(1000):
                connection.register_close_callback(ignore)
                connection.unregister_close_callback()

    together(*(work,) * 4)


def test_of_the_threads_that_register_a_callback_one_succeeds(connection):
    turn = threading.Barrier(4, timeout=20)
    registered = []

    def work():
        for number in range(500):
            turn.wait()
            try:
                connection.register_close_callback(ignore)
                registered.append(number)
            except pyvirhost.LibvirtError:
                raise  # libvirt has been asked for a second one
            except ValueError:
                pass
            if turn.wait() == 0:
                connection.unregister_close_callback()

    together(*(work,) * 4)
    assert registered == list(range(500))


@pytest.mark.parametrize("with_loop", [False, True])
def test_opening_and_closing_with_a_callback_keeps_descriptors(daemon, with_loop):
    # The first rounds are not counted: they load what is loaded once.
    with EventLoop() if with_loop else contextlib.nullcontext():
        counts = []
        for turn in range(300):
            with pyvirhost.open(daemon.test_uri) as connection:
                connection.register_close_callback(lambda *_: None)
            if turn in (50, 299):
                gc.collect()
                counts.append(len(os.listdir("/proc/self/fd")))
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= counts[0], "descriptors to close")


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_connection_that_only_its_callback_holds_is_closed(daemon):
    # The collector takes from it what it refers to before it is finalised.
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        connection = pyvirhost.open(daemon.test_uri)
        connection.register_close_callback(functools.partial(print, connection))
        del connection
    gc.collect()
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "descriptors to close")


def test_connections_that_outlive_the_loop_leave_no_descriptor(daemon):
    loop = EventLoop()
    loop.start()
    before = len(os.listdir("/proc/self/fd"))
    connections = [pyvirhost.open(daemon.test_uri) for _ in range(10)]
    loop.stop()
    for connection in connections:
        assert connection.node_info().cpus == 16
        connection.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_restarted_daemon_is_opened_again(loop):
    with Daemon() as daemon:
        opened = len(os.listdir("/proc/self/fd"))
        connections = [pyvirhost.open(daemon.test_uri) for _ in range(20)]
        daemon.process.kill()
        daemon.process.wait(10)
        for connection in connections:
            with pytest.raises(pyvirhost.ConnectionLostError):
                connection.node_info()
            connection.close()
        daemon.start()
        again = [pyvirhost.open(daemon.test_uri) for _ in range(20)]
        assert {connection.node_info().cpus for connection in again} == {16}
        for connection in again:
            connection.close()
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= opened, "descriptors to close")


def run(program, *arguments):
    # From 3.12 on Python warns of a fork beside threads, also of the loop's, which waits meanwhile.
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore:This process:DeprecationWarning",
         "-c", textwrap.dedent(program), *arguments],
        capture_output=True, text=True, timeout=80,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("how", ["os.fork", "multiprocessing"])
def test_a_process_forks_with_connections_and_a_running_loop(daemon, how):
    # Both sides go on with a loop and connections of their own, and both end cleanly.
    assert run("""
        import multiprocessing, os, sys, time
        import pyvirhost

        uri, how = sys.argv[1:]
        loop = pyvirhost.EventLoop()
        loop.start()
        connection = pyvirhost.open(uri, keepalive=(1, 3))
        connection.register_close_callback(lambda *_: print("lost", flush=True))

        def child():
            assert not loop.running
            try:
                connection.node_info()
            except pyvirhost.ConnectionClosedError:
                pass
            else:
                os._exit(1)
            with pyvirhost.open(uri, keepalive=(1, 3)) as own:
                assert loop.running
                assert own.node_info().cpus == 16
            print("child", flush=True)

        for _ in range(5):
            if how == "os.fork":
                pid = os.fork()
                if pid == 0:
                    child()
                    sys.exit(0)
                assert os.waitpid(pid, 0)[1] == 0
            else:
                process = multiprocessing.get_context("fork").Process(target=child)
                process.start()
                process.join(30)
                assert process.exitcode == 0
            assert loop.running
            assert connection.node_info().cpus == 16
        connection.close()
        print("parent", flush=True)
    """, daemon.test_uri, how) == "child\n" * 5 + "parent\n"


@pytest.mark.parametrize("keepalive", ["None", "(1, 3)"])
def test_the_interpreter_ends_with_calls_in_flight(own_daemon, keepalive):
    own_daemon.process.send_signal(signal.SIGSTOP)
    assert run("""
        import os, pathlib, signal, sys, threading
        import pyvirhost

        pid, uri, keepalive = int(sys.argv[1]), sys.argv[2], eval(sys.argv[3])
        os.kill(pid, signal.SIGCONT)
        connections = [pyvirhost.open(uri, keepalive=keepalive) for _ in range(4)]
        for connection in connections:
            connection.register_close_callback(lambda *_: None)
        os.kill(pid, signal.SIGSTOP)
        calls = [threading.Thread(target=connection.node_info, daemon=True)
                 for connection in connections]
        for call in calls:
            call.start()

        def sleeps(thread):
            # Behind the thread's name, which may have spaces and parentheses itself.
            stat = pathlib.Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
            return stat.rpartition(")")[2].split()[0] == "S"

        waiting = threading.Event()
        while not all(map(sleeps, calls)):
            waiting.wait(0.01)
        print("end")
    """, str(own_daemon.process.pid), own_daemon.test_uri, keepalive) == "end\n"


def test_the_loop_of_another_library_is_used(daemon):
    assert run("""
        import sys, threading
        import libvirt
        from daemon import threads_named

        libvirt.virEventRegisterDefaultImpl()
        stop = False

        def turn():
            while not stop:
                libvirt.virEventRunDefaultImpl()

        threading.Thread(target=turn, daemon=True).start()

        import pyvirhost

        loop = pyvirhost.EventLoop()
        loop.start()
        print(loop)
        assert not threads_named("pyvirhost-loop")
        with pyvirhost.open(sys.argv[1], keepalive=(1, 2)) as connection:
            print(connection.set_keepalive(1, 2))
        loop.stop()
        assert loop.running
    """, daemon.test_uri) == "<EventLoop of another library>\nTrue\n"


# ---- open with a timeout ----

def test_opening_a_stopped_daemon_ends_in_time_and_leaves_nothing(own_daemon):
    with pyvirhost.open(own_daemon.test_uri):
        pass
    before = len(os.listdir("/proc/self/fd"))
    own_daemon.process.send_signal(signal.SIGSTOP)
    with pytest.raises(pyvirhost.OperationTimeoutError, match=r"took longer than 0.1 s") as caught:
        pyvirhost.open(own_daemon.test_uri, timeout=0.1)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.code == pyvirhost.ErrorCode.OPERATION_TIMEOUT
    own_daemon.process.send_signal(signal.SIGCONT)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before and not threads_named(
        "pyvirhost-open"),
        "the abandoned attempt to close itself")


def test_opening_in_time_is_as_without_a_timeout(daemon):
    with pyvirhost.open(daemon.test_uri, timeout=20) as connection:
        assert connection.node_info().cpus == 16
    with pytest.raises(pyvirhost.InvalidArgumentError):
        pyvirhost.open("nonsense", timeout=20)


def test_interrupting_an_open_that_has_a_timeout(own_daemon):
    own_daemon.process.send_signal(signal.SIGSTOP)
    program = ("import sys, pyvirhost\n"
               "print('opening', flush=True)\n"
               "try:\n    pyvirhost.open(sys.argv[1], timeout=60)\n"
               "except KeyboardInterrupt:\n    print('interrupted')\n")
    with subprocess.Popen(
        [sys.executable, "-c", "import signal\n"
         "signal.signal(signal.SIGINT, signal.default_int_handler)\n" + program,
         own_daemon.test_uri],
        stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout.readline() == "opening\n"
        wait_until(lambda: len(os.listdir(f"/proc/{process.pid}/task")) > 1, "the attempt")
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert process.wait(20) == 0


@pytest.mark.parametrize(("timeout", "error"), [
    (0, ValueError), (-1, ValueError), (float("nan"), ValueError), (float("inf"), ValueError),
    ("5", TypeError), ((5,), TypeError),
])
def test_timeouts_that_make_no_sense(timeout, error):
    with pytest.raises(error, match=r"^timeout must be"):
        pyvirhost.open("test:///default", timeout=timeout)


# ---- identity ----

def test_an_identity_needs_a_trusted_client(root_daemon, daemon):
    identity = {"user-name": "her", "unix-user-id": 1000, "process-id": 7}
    with pyvirhost.open(root_daemon.test_uri) as connection:
        try:
            assert connection.set_identity(identity) is None
        except pyvirhost.AccessDeniedError:
            assert pyvirhost.lib_version() >= (5, 8, 0)


@pytest.mark.parametrize(("parameters", "error"), [
    ({"name": "her"}, ValueError), ({}, ValueError), (None, TypeError), ("her", TypeError),
    ({"user-name": 5}, TypeError), ({"unix-user-id": "5"}, TypeError),
    ({"unix-user-id": -1}, OverflowError), ({"process-id": 2**63}, OverflowError),
])
def test_identities_that_make_no_sense(connection, parameters, error):
    with pytest.raises(error, match=r"^parameters"):
        connection.set_identity(parameters)
