import contextlib
import gc
import os
import signal
from multiprocessing import resource_tracker

import pytest
from daemon import Daemon, wait_until
from fleets import threads
from hostile import Answers
from proxy import Proxy

import pyvirhost


@pytest.fixture
def connection():
    """A connection to the test driver, in this process."""
    with pyvirhost.open("test:///default") as connection:
        yield connection


@pytest.fixture(scope="session")
def daemon():
    """A private daemon without privileges."""
    with Daemon() as daemon:
        yield daemon


@pytest.fixture
def own_daemon():
    """A private daemon for one test, which may stop or kill it."""
    with Daemon() as daemon:
        yield daemon


@pytest.fixture(scope="session")
def root_daemon():
    """A private daemon that may change the host's settings."""
    if os.geteuid() != 0:
        pytest.skip("only root may change the host's settings")
    with Daemon(privileged=True) as daemon:
        yield daemon


@pytest.fixture(params=["unix", "tcp"])
def remote(request, daemon):
    """A connection to the test driver in a daemon."""
    uri = daemon.test_uri if request.param == "unix" else daemon.tcp_uri
    with pyvirhost.open(uri) as connection:
        yield connection


@pytest.fixture
def qemu(daemon):
    """A connection to the QEMU driver, which reads this very host."""
    with pyvirhost.open(daemon.qemu_uri) as connection:
        yield connection


@pytest.fixture
def proxy(daemon):
    """A proxy between clients and the private daemon that counts round trips."""
    with Proxy(daemon) as proxy:
        yield proxy


@pytest.fixture
def uri(daemon):
    """The QEMU driver in a daemon, which reads this very host."""
    return daemon.qemu_uri


@pytest.fixture
def test_uri(daemon):
    """The test driver in a daemon, whose numbers are fixed."""
    return daemon.test_uri


@pytest.fixture
def answers(daemon):
    """A server between clients and the daemon that gives answers of its own."""
    with Answers(daemon) as answers:
        yield answers


@pytest.fixture
def plain_environment(monkeypatch):
    """Leave out what a CI or a person tells rich about colours and Python about buffers."""
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "PYTHONUNBUFFERED", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def open_node(tmp_path):
    """A function that opens a test driver whose host is the given XML."""
    opened = []

    def open_node(xml):
        path = tmp_path / f"node{len(opened)}.xml"
        path.write_text(f"<node>{xml}</node>")
        opened.append(pyvirhost.open(f"test://{path}"))
        return opened[-1]

    yield open_node
    for connection in opened:
        connection.close()


@pytest.fixture
def interruptible():
    """Undo what a shell does to the jobs that it runs in the background."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(scope="module")
def daemons():
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Daemon()) for _ in range(6)]


@pytest.fixture
def fleet(daemons):
    """Six private daemons, also where the test before failed with one of them dead."""
    for daemon in daemons:
        if daemon.process.poll() is not None:
            daemon.start()
    return daemons


@pytest.fixture
def loose_ends():
    """Fail when a thread of a poller, or a descriptor, is left behind."""
    # The loop, the thread that calls back, and what starts processes stay once they have begun.
    with pyvirhost.EventLoop():
        pass
    pyvirhost.EventLoop().start()
    with pyvirhost.open("test:///default") as connection:
        connection.register_close_callback(lambda *_: None)
    resource_tracker.ensure_running()
    before, tasks = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    yield
    wait_until(lambda: not threads(), "the poller's threads to end")
    wait_until(lambda: len(os.listdir("/proc/self/task")) <= tasks, "its clock to end")
    gc.collect()
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "the connections to close")
