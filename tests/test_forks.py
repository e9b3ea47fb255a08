"""Forks while other threads are inside libvirt: the child inherits no lock that nobody releases."""

import os
import subprocess
import sys
import threading

from daemon import stopped, wait_until

import pyvirhost

TIMES = 150
FORKING = """
    import os, signal, sys, threading, warnings

    # A child that hangs dies of it, also where it hangs in what pyvirhost does after a fork.
    os.register_at_fork(after_in_child=lambda: signal.alarm(10))
    import pyvirhost

    warnings.simplefilter("ignore", ResourceWarning)
    test, uri, times = "test:///default", sys.argv[1], int(sys.argv[2])

    def use():
        for each in test, uri:
            with pyvirhost.open(each) as connection:
                connection.node_info()

    def fork(child):
        pid = os.fork()
        if pid == 0:
            child()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status == 0, f"the child ended with {status}"

    def fork_beside(work, child):
        # While threads work until they are done.
        global done
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(times):
                fork(child)
        finally:
            done = True

    done = False
    use()
"""


def run(daemon, program):
    subprocess.run([sys.executable, "-X", "faulthandler", "-c",
                    "\n".join(line.removeprefix("    ") for line in
                              (FORKING + program).splitlines()),
                    daemon.test_uri, str(TIMES)], check=True, timeout=60)


def test_a_child_opens_connections_while_those_of_its_parent_are_closed(daemon):
    run(daemon, """
    for _ in range(times):
        dropped = [pyvirhost.open(uri) for _ in range(8)]
        dropped.clear()
        fork(use)
    """)


def test_a_child_opens_connections_while_its_parent_opens_some(daemon):
    run(daemon, """
    def work():
        while not done:
            pyvirhost.open(uri).close()

    fork_beside(work, use)
    """)


def test_a_child_goes_on_while_other_threads_use_the_loop(daemon):
    run(daemon, """
    def work():
        with pyvirhost.open(uri) as own:
            while not done:
                own.node_info()

    pyvirhost.EventLoop().start()
    fork_beside(work, lambda: None)  # the child needs no libvirt
    """)


def test_a_child_opens_connections_beside_a_poller_of_its_parent(daemon):
    run(daemon, """
    hosts = {str(number): (test, uri)[number % 2] for number in range(20)}
    with pyvirhost.Poller(hosts, interval=0.1) as poller:
        for _, _ in zip(range(times), poller):
            fork(use)
    """)


def test_a_fork_does_not_wait_for_an_open_that_hangs(own_daemon):
    def hang():
        try:
            pyvirhost.open(own_daemon.test_uri, timeout=60).close()
        finally:
            opened.set()

    opened = threading.Event()
    thread = threading.Thread(target=hang)
    with stopped(own_daemon):
        thread.start()
        wait_until(lambda: any(name.startswith("pyvirhost-open") for name in names()),
                   "the open to be under way")
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert not opened.is_set()
    thread.join(60)
    assert opened.is_set()


def names():
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/comm") as comm:
            yield comm.read().strip()
