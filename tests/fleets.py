"""What tests of many hosts share: fleets of private daemons, and a record of what comes."""

import os
import signal
import threading

from daemon import threads_named, wait_until

import pyvirhost

HERE = "test:///default"
CONNECT_OPEN = 1


def threads():
    """How many workers the fleets of this process have."""
    return threads_named("pyvirhost-work")


class Record:
    """Everything that a poller gives, taken by a thread; each sample is checked when it comes."""

    def __init__(self, poller):
        self.poller = poller
        self.samples = []
        self.wrong = []

    def __enter__(self):
        self.poller.__enter__()
        self.thread = threading.Thread(target=self.take)
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.poller.__exit__(*exception)
        self.thread.join(10)
        assert self.wrong == []

    def take(self):
        for sample in self.poller:
            host = self.poller.hosts.get(sample.host)
            mislabelled = sample.snapshot is not None and host is not None and (
                host.uri != sample.snapshot.uri)
            if mislabelled or (sample.snapshot is None) == (sample.error is None):
                self.wrong.append(sample)
            self.samples.append(sample)

    def now(self):
        """A mark: what came before it is not waited for."""
        return len(self.samples)

    def of(self, host, since=0):
        return [sample for sample in self.samples[since:] if sample.host == host]

    def wait(self, host, condition, what, since=None):
        """Return the host's first sample since a mark, or from now on, that meets the condition."""
        if since is None:
            since = self.now()

        def find():
            return next(filter(condition, self.of(host, since)), None)

        return wait_until(find, f"{what} of {host}", 30)

    def good(self, host, times=1, since=None):
        for _ in range(times):
            found = self.wait(host, lambda sample: sample.snapshot, "a snapshot", since)
            since = None
        return found

    def error(self, host, kind=pyvirhost.LibvirtError, since=None):
        return self.wait(
            host, lambda sample: isinstance(sample.error, kind), kind.__name__, since)


def hosts_of(uris, **settings):
    return [pyvirhost.Host(name=name, uri=uri, **settings) for name, uri in uris.items()]


def uris(daemons):
    return {f"host{number}": daemon.test_uri for number, daemon in enumerate(daemons)}


def kill(daemon):
    daemon.process.kill()
    daemon.process.wait(10)


def in_child(function):
    """Run it in a forked child and return the exit status, 0 where it returned True."""
    pid = os.fork()
    if pid == 0:
        status = 1
        signal.alarm(60)
        try:
            status = 0 if function() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
