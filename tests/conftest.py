import os
import signal

import pytest
from daemon import Daemon
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
