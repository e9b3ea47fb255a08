"""Many hosts, some in trouble: each sample is its host's, and nobody waits for another's."""

import contextlib
import math
import os
import pickle
import random
import re
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from daemon import ONE_WORKER, Daemon, stopped, stuck_worker, wait_until
from fleets import CONNECT_OPEN, HERE, Record, hosts_of, in_child, kill, threads, uris
from hostile import (
    BROKEN,
    CONNECTED,
    FALL_SILENT,
    GO_ON,
    HANG_UP,
    SENSELESS,
    UNFINISHED,
    Hostile,
)
from proxy import Proxy
from test_leaks import in_use

import pyvirhost

# A daemon answers the CPU map by its ordinary workers only.
ORDINARY = ("node_info", "cpu_map")

pytestmark = [pytest.mark.usefixtures("loose_ends"),
              pytest.mark.thread_unsafe(reason="counts the process's threads and descriptors")]


# ---- hosts that are well ------------------------------------------------------------------------

def test_every_host_has_one_sample_each_interval():
    hosts = {f"host{number}": HERE for number in range(20)}
    with pyvirhost.Poller(hosts, interval=0.5) as poller:
        samples = [next(poller) for _ in range(100)]
        assert poller.dropped == 0
        skipped = sum(poller.overruns.values())
    counts = {name: sum(sample.host == name for sample in samples) for name in hosts}
    assert sum(counts.values()) == 100
    # Neighbours may change places where the machine is busy.
    assert max(counts.values()) - min(counts.values()) <= 1 + skipped
    assert all(sample.snapshot.node_info.cpus == 16 for sample in samples)


def test_turns_are_spread_over_the_interval():
    with pyvirhost.Poller({f"host{number}": HERE for number in range(40)}, interval=4) as poller:
        began = time.time()
        times = sorted(next(poller).started_at - began for _ in range(40))
    # A third of them in each third of the interval, as far as a busy machine keeps to it.
    thirds = [sum(third <= at * 3 / 4 < third + 1 for at in times) for third in range(3)]
    assert all(9 <= count <= 18 for count in thirds), thirds


def test_rates_are_those_since_the_sample_before(daemon):
    with pyvirhost.Poller({"qemu": daemon.qemu_uri}, interval=0.3) as poller:
        first, second = next(poller), next(poller)
    assert first.rates is None
    assert second.rates == second.snapshot.rates(first.snapshot)
    assert 0 <= second.rates.cpu.busy <= 1


def test_samples_do_not_change_later(daemon):
    with pyvirhost.Poller({"qemu": daemon.qemu_uri}, interval=0.1) as poller:
        first = next(poller)
        kept = pickle.dumps(first.snapshot)
        for _ in range(4):
            next(poller)
        assert first.snapshot == pickle.loads(kept)


def test_latest_gives_the_age_of_what_it_gives():
    with pyvirhost.Poller({"here": HERE}, interval=3) as poller:
        assert poller.latest() == {}
        sample = next(poller)
        least = time.time() - sample.started_at
        latest, age = poller.latest()["here"]
        assert latest is sample
        # Two clocks may differ by a little.
        assert age >= least - 0.01
        wait_until(lambda: poller.latest()["here"][1] > age + 0.2, "it to age")
    assert poller.latest()["here"][0].host == "here"


def test_latest_of_one_host():
    with pyvirhost.Poller({"here": HERE, "there": HERE}, interval=0.3) as poller:
        poller.remove("there")
        assert poller.latest("here") is None
        sample = next(poller)
        found, age = poller.latest("here")
        assert (found, age >= 0) == (sample, True)
        with pytest.raises(KeyError, match="there is no host 'there'"):
            poller.latest("there")


@pytest.mark.parametrize("runs", [False, True])
def test_many_hosts_come_and_go_at_once_or_not_at_all(runs):
    with contextlib.ExitStack() as stack:
        poller = pyvirhost.Poller([], interval=0.2)
        if runs:
            stack.enter_context(poller)
        before = poller.hosts
        many = hosts_of({f"host{number}": HERE for number in range(500)})
        poller.add(*many)
        assert before == {}
        assert list(poller.hosts.values()) == many
        assert poller.hosts is poller.hosts
        with pytest.raises(ValueError, match="there is already a host 'host7'"):
            poller.add(HERE, many[7])
        with pytest.raises(KeyError, match="there is no host 'nobody'"):
            poller.remove("host1", "nobody")
        assert len(poller.hosts) == len(poller.overruns) == 500
        stack.enter_context(poller)
        wait_until(lambda: len(poller.latest()) == 500, "a sample of each")
        poller.remove(*(host.name for host in many[1:]))
        assert poller.hosts == {"host0": many[0]}
        assert {next(poller).host for _ in range(5)} == {"host0"}


def test_a_sample_wakes_few_threads():
    with pyvirhost.Poller({f"host{number}": HERE for number in range(500)}, interval=1) as poller:
        for _ in range(1000):
            next(poller)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        for _ in range(1000):
            next(poller)
        # The clock, a worker and this thread for each of them would be 3000.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before < 2500


def test_hosts_come_and_go_while_it_runs():
    with Record(pyvirhost.Poller([], interval=0.2)) as record:
        poller = record.poller
        assert poller.hosts == {}
        one = pyvirhost.Host(name="one", uri=HERE)
        two = pyvirhost.Host(name="two", uri="test:///default?")
        poller.add(one)
        record.good("one", 2)
        poller.add(two)
        assert poller.hosts == {"one": one, "two": two}
        record.wrong.clear()  # libvirt leaves the question mark out
        record.good("one")
        poller.remove("one")
        since = record.now() + 1
        record.good("two", 2)
        assert record.of("one", since) == []
        assert poller.latest().keys() == poller.overruns.keys() == {"two"}
        record.wrong.clear()


def test_no_sample_of_a_host_comes_after_it_was_removed():
    with pyvirhost.Poller({"gone": HERE, "here": HERE.rstrip("/")}, interval=0.02) as poller:
        wait_until(lambda: poller.latest().keys() == {"gone", "here"}, "samples of both")
        poller.remove("gone")
        assert {next(poller).host for _ in range(20)} == {"here"}


def test_samples_from_before_a_removal_are_not_those_of_a_new_host():
    with pyvirhost.Poller({"host": HERE}, interval=0.02) as poller:
        # Some that nobody has taken.
        wait_until(lambda: poller._unread.qsize() > 5, "samples")
        poller.remove("host")
        poller.add(pyvirhost.Host(name="host", uri="test:///default?"))
        added = time.time()
        assert all(next(poller).started_at >= added for _ in range(20))


def test_a_host_that_supports_nothing_asked_for_stays_connected(daemon):
    with Proxy(daemon) as proxy, Record(pyvirhost.Poller(
            {"test": proxy.test_uri}, interval=0.1, fields=["memory_stats"])) as record:
        for _ in range(4):
            record.error("test", pyvirhost.NotSupportedError)
        assert proxy.calls.count(CONNECT_OPEN) == 1


def test_what_was_not_taken_is_bounded_and_the_newest_stays():
    with pyvirhost.Poller([HERE], interval=0.005) as poller:
        wait_until(lambda: poller.dropped > 100, "samples to be dropped")
        now = time.time()
        backlog = 0
        while next(poller).started_at < now:
            backlog += 1
    assert 0 < backlog <= 64


def test_overruns_are_skipped_and_counted(fleet):
    with Record(pyvirhost.Poller(uris(fleet[:2]), interval=0.2, timeout=60)) as record:
        record.good("host0")
        with stopped(fleet[0]):
            since = record.now()
            wait_until(lambda: record.poller.overruns["host0"] >= 5, "overruns")
        late = record.wait("host0", lambda sample: sample.duration > 0.5, "the sample", since)
        assert late.error is None
        record.good("host0", 2)
        record.good("host1")


def test_samples_are_values():
    sample = pyvirhost.poll_once({"a": HERE})["a"]
    again = pickle.loads(pickle.dumps(sample))
    assert again == sample
    contents = sample.to_dict()
    assert contents["snapshot"]["free_memory"] == 3145728
    assert contents["error"] is contents["rates"] is None
    with pytest.raises(AttributeError):
        sample.host = "b"  # type: ignore[misc]
    bad = pyvirhost.poll_once({"a": "nonsense:///"})["a"]
    assert str(pickle.loads(pickle.dumps(bad)).error) == str(bad.error)
    assert bad.to_dict()["error"] == {
        "type": type(bad.error).__name__, "message": str(bad.error)}
    # Else it would keep the connection and the worker's frames.
    assert bad.error.__traceback__ is bad.error.__context__ is None


# ---- hosts in trouble ---------------------------------------------------------------------------

def test_a_fleet_in_trouble(fleet):
    dead, hung, back, bad, *well = fleet
    with Hostile(bad) as hostile, Daemon(settings=ONE_WORKER) as stuck:
        hosts = {"dead": dead.test_uri, "hung": hung.test_uri, "back": back.test_uri,
                 "bad": hostile.test_uri, "stuck": stuck.qemu_uri,
                 "well0": well[0].test_uri, "well1": well[1].tcp_uri}
        poller = pyvirhost.Poller(
            hosts_of(hosts, keepalive=(2, 3)), interval=1, fields=ORDINARY)
        with Record(poller) as record:
            for name in hosts:
                record.good(name)
            with stuck_worker(stuck), stopped(hung):
                since = record.now()
                kill(dead)
                kill(back)
                back.start()
                hostile.misbehave(BROKEN["noise"], HANG_UP)
                record.error("dead", since=since)
                record.error("back", pyvirhost.ConnectionLostError, since)
                record.good("back")
                record.error("bad", since=since)
                record.good("bad")
                silent = record.error("hung", pyvirhost.OperationTimeoutError, since)
                assert re.match(r"no answer for \d+\.\d s, since \d{4}-", str(silent.error))
                again = record.error("stuck", pyvirhost.OperationTimeoutError)
                later = record.error("stuck", pyvirhost.OperationTimeoutError)
                assert later.started_at == again.started_at
                assert later.duration > again.duration
                # One thread for each that hangs, and no more.
                assert threads() <= 2 + 16 + 32
                for name in ("well0", "well1"):
                    record.good(name)
            dead.start()
            for name in hosts:
                record.good(name, 2)
            for name in ("well0", "well1"):
                assert all(sample.error is None for sample in record.of(name))
            assert poller.dropped == 0


def test_a_late_result_is_thrown_away(fleet):
    with Record(pyvirhost.Poller(
            hosts_of(uris(fleet[:1]), keepalive=None), interval=0.4)) as record:
        record.good("host0")
        with stopped(fleet[0]):
            for _ in range(4):
                error = record.error("host0", pyvirhost.OperationTimeoutError)
        since = record.now()
        record.good("host0", 2)
        began = error.started_at
        assert all(sample.started_at > began for sample in record.of("host0", since)
                   if sample.snapshot)


def test_a_host_that_hangs_keeps_one_thread_and_delays_nobody(fleet):
    hung = {f"hung{number}": fleet[0].test_uri for number in range(40)}
    well = {f"well{number}": fleet[1].test_uri for number in range(10)}
    poller = pyvirhost.Poller(
        hosts_of(hung | well, keepalive=None), interval=1, workers=2, max_connects=2)
    with Record(poller) as record:
        for name in hung | well:
            record.good(name, since=0)
        with stopped(fleet[0]):
            since = record.now()
            for name in hung:
                record.error(name, pyvirhost.OperationTimeoutError, since)
            skipped = sum(poller.overruns[name] for name in well)
            since, began = record.now(), time.monotonic()
            for name in well:
                record.good(name)
            record.error("hung0")
            # More than two threads for 40 hosts that hang, less than two for each.
            assert 40 <= threads() <= 40 + 2 + 2
            intervals = time.monotonic() - began
            assert sum(len(record.of(name, since)) for name in well) >= 10
            assert sum(poller.overruns[name] for name in well) - skipped <= 10 * intervals / 2
        since = record.now()
        for name in hung:
            record.good(name, since=since)


def test_a_daemon_that_was_stopped_before_it_began(fleet):
    with stopped(fleet[0]), Record(
            pyvirhost.Poller(uris(fleet[:2]), interval=0.4)) as record:
        record.error("host0", pyvirhost.OperationTimeoutError)
        record.error("host0", pyvirhost.OperationTimeoutError)
        record.good("host1")
        fleet[0].process.send_signal(signal.SIGCONT)
        record.good("host0")


def test_keepalive_frees_a_call_to_a_server_that_is_silent(fleet):
    with Record(pyvirhost.Poller(
            hosts_of(uris(fleet[:1]), keepalive=(1, 2)), interval=0.5)) as record:
        record.good("host0")
        with stopped(fleet[0]):
            call = record.error("host0", pyvirhost.OperationTimeoutError)
            # The next attempt, which can only begin when the call has ended.
            record.wait("host0", lambda sample: sample.started_at > call.started_at, "a sample")
        record.good("host0")


@pytest.mark.parametrize("interval", [0.5, 20])
def test_a_restarted_daemon_is_back_within_an_interval(fleet, interval):
    with Record(pyvirhost.Poller(uris(fleet[:1]), interval=interval)) as record:
        first = record.good("host0", since=0)
        since = record.now()
        kill(fleet[0])
        lost = record.error("host0", pyvirhost.ConnectionLostError, since)
        if interval == 20:
            # At once, not at its next turn: else one that is back sooner would go unnoticed.
            assert lost.started_at - first.started_at < 15
        else:
            for _ in range(3):
                record.error("host0")
        fleet[0].start()
        since = record.now()
        back = record.good("host0", since=since)
        # A turn that was under way may still fail.
        assert sum(sample.error is not None for sample in record.of("host0", since)) <= 1
        # The time without it is in no rates.
        assert back.rates is None


def test_attempts_to_connect_again_come_ever_more_rarely(fleet):
    with Proxy(fleet[0]) as proxy:
        proxy.cut_at = 6  # node_info
        with Record(pyvirhost.Poller({"cut": proxy.test_uri}, interval=1)) as record:
            record.error("cut")
            for _ in range(5):
                record.error("cut")
            opened = proxy.calls.count(CONNECT_OPEN)
            for _ in range(3):
                record.error("cut")
            assert proxy.calls.count(CONNECT_OPEN) - opened <= 4
            # Attempts between the turns that fail are no samples.
            assert opened > len(record.of("cut")) - 3
            proxy.cut_at = None
            record.good("cut")
            assert record.of("cut")[-1].error is None


@pytest.mark.parametrize("kind", [*BROKEN, *SENSELESS])
def test_a_server_that_lies_spoils_its_own_samples_only(fleet, kind):
    lie = {**BROKEN, **SENSELESS}[kind]
    with Hostile(fleet[0]) as hostile:
        hosts = {"liar": hostile.test_uri, "well": fleet[1].test_uri}
        with Record(pyvirhost.Poller(hosts_of(hosts, keepalive=(1, 2)), interval=0.25,
                                     fields=["node_info"])) as record:
            record.good("liar")
            since = record.now()
            hostile.misbehave(lie, HANG_UP if kind in BROKEN else GO_ON)
            if kind in BROKEN:
                record.error("liar", since=since)
            else:  # which may be a wrong number, and nobody can tell
                wait_until(hostile.misbehaved.is_set, "the lie")
            record.good("liar")
            record.good("well")
            assert all(sample.error is None for sample in record.of("well"))


def test_a_server_that_lies_from_the_beginning(fleet):
    with Hostile(fleet[0]) as hostile:
        hostile.misbehave(UNFINISHED["a huge body without its end"], FALL_SILENT, step=CONNECTED)
        with Record(pyvirhost.Poller({"liar": hostile.test_uri}, interval=1)) as record:
            record.error("liar", pyvirhost.OperationTimeoutError)
            hostile.hang_up()
            record.good("liar")


def test_hosts_that_hang_have_one_thread_also_after_being_removed_and_added(fleet):
    poller = pyvirhost.Poller(hosts_of(uris(fleet[:1]), keepalive=None), interval=0.3)
    with Record(poller) as record:
        record.good("host0")
        with stopped(fleet[0]):
            first = record.error("host0", pyvirhost.OperationTimeoutError)
            count = threads()
            for _ in range(5):
                host = poller.hosts["host0"]
                poller.remove("host0")
                poller.add(host)
                again = record.error("host0", pyvirhost.OperationTimeoutError)
                assert again.started_at == first.started_at
            assert threads() == count
            poller.remove("host0")
        poller.add(host)
        record.good("host0")


def test_an_authenticator_that_fails_is_its_hosts_error(open_node, tmp_path):
    path = tmp_path / "auth.xml"
    path.write_text("<node><auth><user password='x'>fred</user></auth></node>")

    def refuse(credentials):
        raise SystemExit("no")

    hosts = hosts_of({"locked": f"test://{path}", "here": HERE}, auth=refuse)
    with Record(pyvirhost.Poller(hosts, interval=0.3)) as record:
        assert str(record.error("locked", SystemExit).error) == "no"
        record.error("locked", SystemExit)
        record.good("here", 2)


def test_200_connections_to_one_daemon_are_all_made():
    # It lets no more than 20 be under way at a time.
    with Daemon(settings="max_clients = 300\nmax_anonymous_clients = 20\n") as daemon:
        hosts = {f"host{number}": daemon.test_uri for number in range(200)}
        with pyvirhost.Poller(hosts, interval=4, timeout=60) as poller:
            names = set()
            for sample in poller:
                assert sample.error is None
                names.add(sample.host)
                if len(names) == 200:
                    break


# ---- its end ------------------------------------------------------------------------------------

@pytest.mark.parametrize("moment", ["in a call", "between calls", "connecting"])
def test_it_stops_at_once_also_when_hosts_hang(fleet, moment):
    poller = pyvirhost.Poller(uris(fleet[:4]), interval=4 if moment == "between calls" else 0.3)
    with contextlib.ExitStack() as hanging, Record(poller) as record:
        if moment != "connecting":
            for name in poller.hosts:
                record.good(name, since=0)
        for daemon in fleet[:4]:
            hanging.enter_context(stopped(daemon))
        if moment != "between calls":
            since = record.now()
            for name in poller.hosts:
                record.error(name, pyvirhost.OperationTimeoutError, since)
        # Those hosts would go on hanging for ever.
        stopping = threading.Thread(target=poller.stop)
        stopping.start()
        for thread in (stopping, record.thread):
            thread.join(20)
            assert not thread.is_alive()
        poller.stop()


def test_a_stopped_poller_says_so():
    poller = pyvirhost.Poller([HERE], interval=0.1)
    with poller:
        next(poller)
    for use in (iter, pyvirhost.Poller.start, lambda poller: poller.add(HERE),
                lambda poller: poller.remove(HERE)):
        with pytest.raises(RuntimeError, match="was stopped"):
            use(poller)
    assert list(zip(range(3), iter(lambda: next(poller, None), None), strict=False)) == []
    assert poller.hosts == {HERE: pyvirhost.Host(name=HERE, uri=HERE)}
    assert "stopped" in repr(poller)
    never = pyvirhost.Poller([HERE])
    never.stop()
    with pytest.raises(RuntimeError), never:
        pass


def test_stopping_ends_every_iteration():
    with pyvirhost.Poller([], interval=1) as poller:
        waiting = [threading.Thread(target=list, args=(poller,)) for _ in range(5)]
        for thread in waiting:
            thread.start()
    for thread in waiting:
        thread.join(10)
        assert not thread.is_alive()


def test_starting_and_stopping_leaves_nothing(fleet):
    def cycle(times):
        for _ in range(times):
            with pyvirhost.Poller(uris(fleet), interval=0.05) as poller:
                for _ in range(12):
                    next(poller)

    cycle(10)
    wait_until(lambda: not threads(), "the threads to end")
    memory, blocks, files = in_use()
    cycle(40)
    wait_until(lambda: not threads(), "the threads to end")
    wait_until(lambda: in_use()[2] <= files, "the connections to close")
    memory_now, blocks_now, _ = in_use()
    # 240 connections of about 10 kB each would be seen.
    assert memory_now - memory < 400_000
    assert blocks_now - blocks < 2000


# ---- signals and forks --------------------------------------------------------------------------

class AlarmError(Exception):
    pass


@contextlib.contextmanager
def alarms(handler):
    def handle(*_):
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.01))
        handler()

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_exceptions_of_signal_handlers_break_nothing():
    armed = []

    def interrupt():
        if armed:
            armed.clear()
            raise AlarmError

    hosts = {f"host{number}": HERE for number in range(10)}
    with pyvirhost.Poller(hosts, interval=0.02) as poller:
        taken = interrupted = 0
        with alarms(interrupt):
            while interrupted < 500 or taken < 500:
                try:
                    armed.append(True)
                    next(poller)
                    poller.latest()
                    taken += 1
                    armed.clear()
                except AlarmError:
                    interrupted += 1
        for _ in range(100):
            next(poller)


class Alarming(str):
    """A name at whose use by the poller a signal comes, while the caller waits for that."""

    __slots__ = ()

    def __hash__(self):
        if threading.get_ident() != threading.main_thread().ident:
            signal.raise_signal(signal.SIGALRM)
        return super().__hash__()


def test_a_signal_handler_may_stop_it_in_the_middle_of_a_call():
    before = signal.signal(signal.SIGALRM, lambda *_: poller.stop())
    try:
        with pyvirhost.Poller([HERE], interval=0.02) as poller:
            next(poller)
            poller.add(pyvirhost.Host(name=Alarming("more"), uri=HERE))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert "stopped" in repr(poller)


def test_a_signal_handler_may_stop_it_at_any_moment():
    def stop():
        # The next alarm may come first, and on a slow machine hundreds.
        if len(stops) < 20:
            stops.append(None)
            poller.stop()
            stops.pop()

    for _ in range(10):
        stops: list[None] = []
        poller = pyvirhost.Poller({f"host{number}": HERE for number in range(10)}, interval=0.02)
        with alarms(stop):
            with contextlib.suppress(RuntimeError):
                for _ in poller:
                    poller.latest()
                    poller.add("test:///default?more")
                    poller.remove("test:///default?more")
            poller.stop()


def run(program, *arguments, status=0, deadly=None):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    first = process.stdout.readline() if deadly else ""
    if deadly:
        process.send_signal(deadly)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (status, "")
    return first + out


@pytest.mark.parametrize("deadly", [signal.SIGINT, signal.SIGTERM])
def test_a_program_ends_by_a_signal(fleet, deadly):
    with stopped(fleet[0]):
        assert run("""
            import signal, sys
            import pyvirhost

            # A suite that a shell runs in the background hands down that SIGINT is ignored.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
            try:
                with pyvirhost.Poller({"hung": sys.argv[1], "here": "test:///default"},
                                      interval=0.2) as poller:
                    for sample in poller:
                        if sample.host == "hung":
                            print("hung", flush=True)
            except KeyboardInterrupt:
                sys.exit(7)
        """, fleet[0].test_uri, status=7, deadly=deadly).startswith("hung\n")


def test_a_program_may_end_without_stopping_it(fleet):
    assert run("""
        import sys
        import pyvirhost

        poller = pyvirhost.Poller({"one": sys.argv[1], "here": "test:///default"}, interval=0.05,
                                  timeout=30)
        for _, sample in zip(range(20), poller):
            assert sample.error is None
        print("end")
    """, fleet[0].test_uri) == "end\n"


LIMIT = """
import errno, resource, sys
import pyvirhost

hard = 300
resource.setrlimit(resource.RLIMIT_NOFILE, (60, hard))
hosts = [pyvirhost.Host(name=str(number), uri=sys.argv[1]) for number in range(60)]

def results(**options):
    found = {}
    with pyvirhost.Poller(hosts, interval=2, timeout=30, **options) as poller:
        for sample in poller:
            found.setdefault(sample.host, sample.error)
            if len(found) == 60:
                return found
"""


def test_hosts_for_which_there_is_no_descriptor_say_so():
    with Daemon(settings="max_clients = 100\n") as daemon:
        run(LIMIT + textwrap.dedent("""
            found = results()
            errors = [error for error in found.values() if error is not None]
            assert 60 - 60 / 2 < len(errors) < 60, errors
            for error in errors:
                assert type(error) is OSError and error.errno == errno.EMFILE, error
                assert "60 that this process may have" in str(error), error
                assert "ulimit -n" in str(error), error
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (60, hard)
        """), daemon.test_uri)


def test_a_poller_raises_the_limit_of_descriptors_if_asked_to():
    with Daemon(settings="max_clients = 100\n") as daemon:
        run(LIMIT + textwrap.dedent("""
            poller = pyvirhost.Poller(hosts, raise_descriptor_limit=True)
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (60, hard)  # not before it starts
            found = results(raise_descriptor_limit=True)
            assert set(found.values()) == {None}, found
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        """), daemon.test_uri)


def test_a_poller_that_was_not_started_works_in_a_child(fleet):
    poller = pyvirhost.Poller(uris(fleet[:2]), interval=0.1)

    def poll():
        with poller:
            return all(next(poller).snapshot is not None for _ in range(6))

    assert in_child(poll) == 0
    assert poll()


def test_a_poller_that_runs_is_refused_in_a_child(fleet):
    with Record(pyvirhost.Poller(uris(fleet[:2]), interval=0.2)) as record:
        record.good("host0")
        poller = record.poller

        def refuses():
            for use in (next, iter, pyvirhost.Poller.latest, pyvirhost.Poller.start,
                        lambda poller: poller.hosts, lambda poller: poller.overruns,
                        lambda poller: poller.add(HERE), lambda poller: poller.remove("a")):
                with pytest.raises(RuntimeError, match="forked"):
                    use(poller)
            poller.stop()
            with pyvirhost.Poller([HERE], interval=0.1) as own:
                return next(own).snapshot is not None

        for _ in range(5):
            assert in_child(refuses) == 0
        record.good("host0", 2)
        record.good("host1")
        assert all(sample.error is None for sample in record.samples)


# ---- bad input ----------------------------------------------------------------------------------

@pytest.mark.parametrize(("changes", "kind", "message"), [
    ({"hosts": HERE}, TypeError, "hosts must be a mapping or an iterable of str or Host, not str"),
    ({"hosts": pyvirhost.Host(name="a")}, TypeError, "hosts must be a mapping or an iterable"),
    ({"hosts": 5}, TypeError, "not iterable"),
    ({"hosts": [HERE, HERE]}, ValueError, "hosts has 'test:///default' twice"),
    ({"hosts": {"a": None}}, TypeError, r"URI must be a str, not NoneType \(host 'a'\)"),
    ({"hosts": {1: HERE}}, TypeError, "name must be a str, not int"),
    ({"hosts": [b"x"]}, TypeError, "a host must be a str or a Host, not bytes"),
    ({"interval": 0}, ValueError, "interval must be at least 0.001 seconds, not 0"),
    ({"interval": 1e-17}, ValueError, "interval must be at least 0.001 seconds, not 1e-17"),
    ({"interval": -1}, ValueError, "interval"),
    ({"interval": math.nan}, ValueError, "interval"),
    ({"interval": math.inf}, ValueError, "interval"),
    ({"interval": "5"}, TypeError, "interval must be a number, not str"),
    ({"timeout": 0}, ValueError, "timeout must be at least 0.001 seconds"),
    ({"timeout": "5"}, TypeError, "timeout must be a number"),
    ({"workers": 0}, ValueError, "workers must be at least 1, not 0"),
    ({"workers": 1.5}, TypeError, "workers must be an int, not float"),
    ({"max_connects": 0}, ValueError, "max_connects must be at least 1"),
    ({"raise_descriptor_limit": 1}, TypeError, "raise_descriptor_limit must be a bool, not int"),
    ({"fields": []}, ValueError, "fields must not be empty"),
    ({"fields": "node_info"}, TypeError, "fields must be a list of str, not str"),
    ({"fields": ["node_info", "load"]}, ValueError, "fields has 'load', which is none of"),
    ({"page_sizes": []}, ValueError, "page_sizes must not be empty"),
    ({"page_sizes": 5}, TypeError, "page_sizes must be a list of int, not int"),
    ({"page_sizes": [4] * 99}, ValueError, "page_sizes must have at most 64 sizes, not 99"),
    ({"page_sizes": [0]}, ValueError, r"page_sizes\[0\] must be a page size in KiB, not 0"),
    ({"page_sizes": ["4"]}, TypeError, r"page_sizes\[0\] must be an int, not str"),
])
def test_bad_input_is_refused_before_anything_is_done(changes, kind, message):
    for call in (pyvirhost.Poller, pyvirhost.poll_once):
        if call is pyvirhost.poll_once and changes.keys() & {"interval", "raise_descriptor_limit"}:
            continue
        with pytest.raises(kind, match=message):
            call(**{"hosts": [HERE], **changes})
    assert not threads()


def test_bad_hosts_change_nothing():
    one = pyvirhost.Host(name="one", uri=HERE)
    poller = pyvirhost.Poller([one])
    with pytest.raises(ValueError, match="there is already a host 'one'"):
        poller.add(pyvirhost.Host(name="one", uri="test:///other"))
    with pytest.raises(TypeError, match="a host must be a str or a Host, not NoneType"):
        poller.add(None)
    with pytest.raises(KeyError, match="there is no host 'two'"):
        poller.remove("two")
    assert poller.hosts == {"one": one}
    poller.remove("one")
    assert poller.hosts == {}
    assert poller.latest() == {}
