"""What the system runs out of: descriptors, files, threads. Each is an exception, no signal."""

import os
import subprocess
import sys
import textwrap

import pytest

# A process that may have `limit` descriptors while it does something.
LIMITED = """
import ctypes, errno, os, resource, sys, threading
import pyvirhost
from daemon import wait_until

HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[0]

def limited(limit, function):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, HARD))
    try:
        return function()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, HARD))

def attempt(function):
    # What it returns, or the error that there is no room.
    try:
        return function()
    except OSError as error:
        assert error.errno == errno.EMFILE and type(error) is OSError, repr(error)
        assert "ulimit -n" in str(error), str(error)
        return error

def used():
    return len(os.listdir("/proc/self/fd")) - 1

def works(connection):
    return not isinstance(connection, OSError) and connection.node_info().cpus == 16
"""


def run(program, *arguments, before="", **environment):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED + before + textwrap.dedent(program), *arguments],
        capture_output=True, text=True, timeout=80,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("options", [{}, {"keepalive": (5, 3)}, {"timeout": 20}])
@pytest.mark.parametrize("driver", ["in this process", "unix", "tcp"])
def test_opening_with_any_number_of_free_descriptors(daemon, driver, options):
    uri = {"in this process": "test:///default", "unix": daemon.test_uri,
           "tcp": daemon.tcp_uri}[driver]
    assert run("""
        uri, options = sys.argv[1], eval(sys.argv[2])
        if "keepalive" in options:
            pyvirhost.EventLoop().start()
        before = used()
        pyvirhost.open(uri, **options).close()  # once, so that what is loaded once is
        wait_until(lambda: used() == before, "the connection to close")
        outcomes = []
        for limit in range(201):
            connection = limited(limit, lambda: attempt(lambda: pyvirhost.open(uri, **options)))
            outcomes.append(works(connection))
            if outcomes[-1]:
                assert limited(limit, lambda: works(connection))
                connection.close()
                wait_until(lambda: used() == before, "the connection to close")
        first = outcomes.index(True)
        assert outcomes == [False] * first + [True] * (201 - first)
        assert 2 <= first - before <= 12, (first, before)
        print("end")
    """, uri, repr(options)) == "end\n"


@pytest.mark.parametrize("free", range(13))
def test_the_loop_starts_with_any_number_of_free_descriptors(daemon, free):
    assert run("""
        pyvirhost.initialize()
        loop = pyvirhost.EventLoop()
        limit = used() + int(sys.argv[2])
        error = limited(limit, lambda: attempt(loop.start))
        assert loop.running == (error is None)
        # Without a loop this opens as ever.
        with pyvirhost.open(sys.argv[1]) as connection:
            assert works(connection)
        with pyvirhost.open(sys.argv[1], keepalive=(5, 3)) as connection:
            assert works(connection)
            assert loop.running
        print(error is None)
    """, daemon.test_uri, str(free)) == f"{free >= 10}\n"


def test_the_loop_starts_under_any_limit(daemon):
    assert run("""
        pyvirhost.initialize()
        loop = pyvirhost.EventLoop()
        outcomes = []
        for limit in range(3, 201):
            if os.fork() == 0:
                error = limited(limit, lambda: attempt(loop.start))
                assert loop.running == (error is None)
                os._exit(7 if error is None else 8)
            outcomes.append(os.waitstatus_to_exitcode(os.wait()[1]))
        first = outcomes.index(7)
        assert outcomes == [8] * first + [7] * (198 - first), outcomes
        print("end")
    """) == "end\n"


# Each asks twenty hosts of one daemon, and returns what each said, or its error.
MANY = """
uri = sys.argv[1]
hosts = [pyvirhost.Host(name=str(number), uri=uri, keepalive=eval(sys.argv[3]))
         for number in range(20)]

def poll():
    outcomes = {}
    with pyvirhost.Poller(hosts, interval=0.02, timeout=20, fields=["node_info"]) as poller:
        for sample in poller:
            outcomes.setdefault(sample.host, sample.error or sample.snapshot)
            if len(outcomes) == len(hosts):
                return outcomes

def poll_once():
    samples = pyvirhost.poll_once(hosts, timeout=20, fields=["node_info"])
    return {name: sample.error or sample.snapshot for name, sample in samples.items()}

def ask():
    with pyvirhost.Fleet(hosts) as fleet:
        return {answer.host.name: answer.error or answer.result
                for answer in fleet.ask(pyvirhost.Connection.node_info, timeout=20)}

sweep = globals()[sys.argv[2]]
"""


@pytest.mark.parametrize(("way", "keepalive"), [
    ("poll", (5, 3)), ("poll_once", None), ("ask", None)])
def test_each_of_many_hosts_has_a_sample_or_an_error_under_any_limit(daemon, way, keepalive):
    assert run("""
        pyvirhost.EventLoop().start()
        before = used()
        sweep()  # once, so that what is loaded once is
        wait_until(lambda: used() <= before, "the connections to close")
        good = {}
        for limit in range(3, 201):
            outcomes = limited(limit, sweep)
            assert len(outcomes) == 20, outcomes
            errors = [error for error in outcomes.values() if isinstance(error, BaseException)]
            for error in errors:
                assert type(error) is OSError and error.errno == errno.EMFILE, repr(error)
                assert "ulimit -n" in str(error), error
            good[limit] = 20 - len(errors)
            wait_until(lambda: used() <= before, "the connections to close")
        assert all(good[limit] == 0 for limit in range(3, before + 9)), good
        # Two for each connection, those of opening it, and those that stay free.
        assert all(good[limit] == 20 for limit in range(before + 130, 201)), good
        assert 0 < sum(0 < count < 20 for count in good.values()), good
        print("end")
    """, daemon.test_uri, way, repr(keepalive), before=MANY) == "end\n"


@pytest.mark.parametrize("way", ["poll", "poll_once", "ask"])
def test_many_hosts_where_no_thread_can_be_started(daemon, way):
    assert run("""
        threading.stack_size(2**47)
        try:
            sweep()
        except RuntimeError as error:
            assert "RLIMIT_NPROC" in str(error), error
            print("refused")
        threading.stack_size(0)
        outcomes = sweep()
        assert all(not isinstance(outcome, BaseException) for outcome in outcomes.values())
        # It has its own thread, and can't get one for its hosts.
        start_clock = pyvirhost.poll.clock.Clock.start
        def start(clock):
            threading.stack_size(0)
            start_clock(clock)
            threading.stack_size(2**47)
        pyvirhost.poll.clock.Clock.start = start
        outcomes = sweep()
        assert len(outcomes) == 20
        for error in outcomes.values():
            assert type(error) is RuntimeError and "RLIMIT_NPROC" in str(error), repr(error)
        print("end")
    """, daemon.test_uri, way, "None", before=MANY) == "refused\nend\n"


def test_fifty_threads_open_at_once_near_the_limit(daemon):
    assert run("""
        pyvirhost.open(sys.argv[1]).close()
        connections, failures = [], []
        start = threading.Barrier(50)

        def work():
            start.wait()
            for _ in range(4):
                try:
                    connection = attempt(lambda: pyvirhost.open(sys.argv[1]))
                except BaseException as error:
                    failures.append(repr(error))
                else:
                    connections.append(connection)

        def together():
            threads = [threading.Thread(target=work) for _ in range(50)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        for room in (30, 100, 150):
            limited(used() + room, together)
            made = [connection for connection in connections if works(connection)]
            assert not failures, failures
            assert len(connections) == 200
            assert 0 < len(made) < room / 2
            for connection in made:
                connection.close()
            connections.clear()
        assert works(pyvirhost.open(sys.argv[1]))
        os._exit(0)
    """, daemon.test_uri) == ""


def test_without_a_free_descriptor_errors_are_the_real_ones(own_daemon):
    # What it takes to name an error's numbers can't be loaded.
    assert run("""
        import signal
        connection = pyvirhost.open(sys.argv[1])
        assert "pyvirhost.constants" not in sys.modules

        ConnectionLostError = pyvirhost.ConnectionLostError

        def fail():
            try:
                connection.node_info()
            except ConnectionLostError as error:
                return error

        os.kill(int(sys.argv[2]), signal.SIGKILL)
        error = limited(3, fail)
        assert "is lost" in str(error), error
        assert error.code in (1, 38)
        print("end")
    """, own_daemon.test_uri, str(own_daemon.process.pid)) == "end\n"


def test_a_close_callback_gets_its_reason_without_a_free_descriptor(own_daemon):
    assert run("""
        import signal
        reasons = []
        called = threading.Event()
        connection = pyvirhost.open(sys.argv[1], keepalive=(5, 3))
        connection.register_close_callback(
            lambda _, reason: (reasons.append(reason), called.set()))

        def lose():
            os.kill(int(sys.argv[2]), signal.SIGKILL)
            assert called.wait(20)

        limited(3, lose)
        assert reasons[0] is pyvirhost.CloseReason.EOF, repr(reasons)
        print("end")
    """, own_daemon.test_uri, str(own_daemon.process.pid)) == "end\n"


def test_a_system_without_a_free_file(tmp_path, daemon):
    # It can't be made so without harm to others; this process only is told that it is.
    source, shim = tmp_path / "full.c", tmp_path / "full.so"
    source.write_text("""
        #include <errno.h>
        int eventfd(unsigned int count, int flags) { errno = ENFILE; return -1; }
    """)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, source], check=True)
    assert run("""
        for function in (lambda: pyvirhost.open(sys.argv[1]), pyvirhost.EventLoop().start):
            try:
                function()
            except OSError as error:
                assert error.errno == errno.ENFILE
                assert "fs.file-max" in str(error)
                print("refused")
    """, daemon.test_uri, LD_PRELOAD=str(shim)) == "refused\nrefused\n"


def test_where_no_thread_can_be_started_nothing_is_left_behind(daemon):
    assert run("""
        uri = sys.argv[1]
        loop = pyvirhost.EventLoop()

        def refused(function):
            try:
                function()
            except RuntimeError as error:
                assert "RLIMIT_NPROC" in str(error), error
                return True

        def open_in_asyncio():
            import asyncio, pyvirhost.aio
            asyncio.run(pyvirhost.aio.open(uri)._open())

        def make_stacks(size):
            attributes = ctypes.create_string_buffer(1024)
            libc = ctypes.CDLL(None)
            assert libc.pthread_getattr_default_np(attributes) == 0
            assert libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(size)) == 0
            assert libc.pthread_setattr_default_np(attributes) == 0

        early = pyvirhost.open("test:///default")
        # Stacks that fit into no address space.
        make_stacks(2**47)
        assert refused(lambda: early.register_close_callback(lambda *_: None))
        assert refused(lambda: pyvirhost.open(uri, timeout=20))
        assert refused(open_in_asyncio)
        assert refused(lambda: pyvirhost.open(uri, keepalive=(5, 3)))
        assert refused(loop.start)
        assert not loop.running
        loop.stop()
        # Whoever opens now would wait for a loop that nobody runs.
        assert refused(lambda: pyvirhost.open(uri))
        if os.fork() == 0:
            assert not loop.running
            loop.stop()
            make_stacks(2**20)
            with pyvirhost.open(uri, keepalive=(5, 3)) as connection:
                assert works(connection)
            sys.exit(0)
        assert os.wait()[1] == 0
        make_stacks(2**20)
        early.register_close_callback(lambda *_: None)
        early.close()
        loop.start()
        assert loop.running
        with pyvirhost.open(uri, keepalive=(5, 3), timeout=20) as connection:
            assert works(connection)
        loop.stop()
        make_stacks(2**47)
        assert refused(loop.start)
        print("end")
    """, daemon.test_uri) == "end\n"
