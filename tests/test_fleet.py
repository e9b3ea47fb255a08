"""Any question to any hosts: each answer is its host's, whatever happens to the question."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from xml.etree import ElementTree

import pytest
from daemon import stopped, wait_until
from fleets import CONNECT_OPEN, HERE, hosts_of, in_child, threads, uris
from proxy import Proxy

import pyvirhost
from pyvirhost.poll.clock import Clock
from pyvirhost.poll.workers import Workers

pytestmark = [pytest.mark.usefixtures("loose_ends"),
              pytest.mark.thread_unsafe(reason="counts the process's threads and descriptors")]


def name_of(connection):
    return connection.hostname()


def answers_of(fleet, question, *arguments, **keywords):
    return {answer.host.name: answer for answer in fleet.ask(question, *arguments, **keywords)}


def errors_of(answers):
    return {name: answer.error for name, answer in answers.items()}


# ---- hosts --------------------------------------------------------------------------------------

def test_hosts_are_the_same_everywhere():
    uris = {"a": HERE, "b": "test:///default?"}
    hosts = [pyvirhost.Host(name="a", uri=HERE), pyvirhost.Host(name="b", uri="test:///default?")]
    for given in (uris, hosts, iter(hosts)):
        assert list(pyvirhost.Fleet(given).hosts.values()) == hosts
    assert pyvirhost.Fleet([HERE]).hosts == {HERE: pyvirhost.Host(name=HERE, uri=HERE)}


@pytest.mark.parametrize(("settings", "kind", "message"), [
    ({"name": 1}, TypeError, "a host's name must be a str, not int"),
    ({"uri": b"test:///"}, TypeError, r"uri must be a str, not bytes \(host 'a'\)"),
    ({"uri": "test:///\0"}, ValueError, "uri must not contain a NUL character"),
    ({"readonly": "no"}, TypeError, "readonly must be a bool, not str"),
    ({"keepalive": 5}, TypeError, "keepalive must be a tuple"),
    ({"keepalive": (0, 3)}, ValueError, "keepalive's interval must be at least 1 second"),
    ({"keepalive": (5, -1)}, OverflowError, "keepalive's count must be between"),
    ({"keepalive": (5, "3")}, TypeError, "keepalive's count must be an int, not str"),
    ({"timeout": 0}, ValueError, "timeout must be more than 0 seconds, not 0"),
    ({"timeout": "5"}, TypeError, "timeout must be a number, not str"),
    ({"auth": 5}, TypeError, "auth must be callable, not int"),
    ({"auth": lambda: None}, TypeError, "auth must take 1 arguments"),
])
def test_a_host_checks_itself(settings, kind, message):
    with pytest.raises(kind, match=message):
        pyvirhost.Host(**{"name": "a", **settings})


def test_a_host_opens_its_connection(open_node, tmp_path):
    path = tmp_path / "auth.xml"
    path.write_text("<node><auth><user password='x'>fred</user></auth></node>")
    host = pyvirhost.Host(name="a", uri=f"test://{path}", keepalive=None,
                          auth=pyvirhost.PasswordAuth("fred", "x"))
    with host.open() as connection, pytest.raises(pyvirhost.AccessDeniedError):
        connection.alloc_pages({2048: 1})
    assert "fred" not in repr(host)


def test_hosts_come_and_go():
    with pyvirhost.Fleet({"one": HERE}) as fleet:
        fleet.add("test:///default?")
        assert answers_of(fleet, name_of).keys() == {"one", "test:///default?"}
        fleet.remove("one")
        assert answers_of(fleet, name_of).keys() == fleet.hosts.keys() == {"test:///default?"}
        with pytest.raises(KeyError, match="no host 'one'"):
            fleet.remove("one")
        with pytest.raises(ValueError, match="there is already a host"):
            fleet.add("test:///default?")


def test_many_hosts_come_and_go_at_once_or_not_at_all():
    more = hosts_of({"one": HERE, "two": HERE})
    with pyvirhost.Fleet() as fleet:
        before = fleet.hosts
        fleet.add(*more)
        assert before == {}
        assert list(fleet.hosts.values()) == more
        assert fleet.hosts is fleet.hosts
        assert answers_of(fleet, name_of).keys() == {"one", "two"}
        with pytest.raises(ValueError, match="there is already a host 'two'"):
            fleet.add(HERE, more[1])
        with pytest.raises(ValueError, match="hosts has 'test:///default' twice"):
            fleet.add(HERE, HERE)
        with pytest.raises(KeyError, match="there is no host 'three'"):
            fleet.remove("one", "three")
        assert answers_of(fleet, name_of).keys() == {"one", "two"}
        fleet.remove("two", "one")
        assert fleet.hosts == answers_of(fleet, name_of) == {}


# ---- answers ------------------------------------------------------------------------------------

def too_deep(connection):
    return too_deep(connection)


@pytest.mark.parametrize(("question", "kind"), [
    (lambda connection: ElementTree.fromstring("no XML"), ElementTree.ParseError),
    (too_deep, RecursionError),
    (lambda connection: int("many"), ValueError),
    (lambda connection: sys.exit("no"), SystemExit),
    (lambda connection: connection.memory_stats(), pyvirhost.NotSupportedError),
    (lambda connection: connection.close() or connection.uri(), pyvirhost.ConnectionClosedError),
])
def test_whatever_a_question_raises_is_that_hosts_answer(question, kind):
    def ask(connection):
        return question(connection) if connection.uri() == HERE else "well"

    with pyvirhost.Fleet({"bad": HERE, "good": "test:///default?x"}) as fleet:
        for _ in range(3):
            answers = answers_of(fleet, ask, timeout=20)
            assert type(answers["bad"].error) is kind
            assert answers["bad"].result is None
            assert answers["bad"].connected
            assert answers["good"].result == "well"
        assert answers_of(fleet, name_of, timeout=20)["bad"].error is None


def test_an_error_holds_no_connection_and_keeps_its_lines():
    seen = []

    def question(connection):
        seen.append(weakref.ref(connection))
        raise LookupError

    with pyvirhost.Fleet({"one": HERE}, keeps=False) as fleet:
        answer, = fleet.ask(question)
    wait_until(lambda: gc.collect() is not None and seen[0]() is None, "the connection to go")
    assert answer.error.__traceback__.tb_frame.f_code.co_name == "question"


def test_only_those_asked_answer():
    with pyvirhost.Fleet({"a": HERE, "b": HERE + "?"}) as fleet:
        assert answers_of(fleet, name_of, ["b"]).keys() == {"b"}
        with pytest.raises(KeyError, match="there is no host 'c'"):
            fleet.ask(name_of, ["b", "c"])
        with pytest.raises(TypeError, match="not a str"):
            fleet.ask(name_of, "b")
        with pytest.raises(TypeError, match="question must be callable"):
            fleet.ask("hostname")
        with pytest.raises(ValueError, match="timeout must be at least"):
            fleet.ask(name_of, timeout=0)


def test_connections_stay_open_or_do_not(daemon):
    with Proxy(daemon) as proxy:
        for keeps, opened in ((True, 1), (False, 4)):
            with pyvirhost.Fleet([proxy.test_uri], keeps=keeps) as fleet:
                for _ in range(3):
                    assert answers_of(fleet, name_of)[proxy.test_uri].result
            assert proxy.calls.count(CONNECT_OPEN) == opened


def test_a_host_that_can_not_be_opened_says_so():
    with pyvirhost.Fleet({"bad": "nonsense:///"}) as fleet:
        answer, = fleet.ask(name_of)
    assert isinstance(answer.error, pyvirhost.LibvirtError)
    assert not answer.connected


# ---- how many threads ask -----------------------------------------------------------------------

def here(count):
    return dict.fromkeys(map(str, range(count)), HERE)


def test_hosts_that_take_long_are_all_asked_at_once():
    together = threading.Barrier(100)
    with pyvirhost.Fleet(here(100)) as fleet:
        for _ in range(2):
            answers = answers_of(fleet, lambda connection: together.wait(20))
            assert sorted(answer.result for answer in answers.values()) == list(range(100))


def test_no_more_than_256_hosts_are_asked_at_once():
    go_on = threading.Event()
    with pyvirhost.Fleet(here(260)) as fleet:
        assert all(answer.result for answer in fleet.ask(name_of))
        try:
            errors = [answer.error for answer in fleet.ask(lambda connection: go_on.wait(30),
                                                           timeout=2)]
            asked = [error for error in errors if "no answer" in str(error)]
            assert len(asked) == 256
            assert all("since all 256 workers are busy" in str(error)
                       for error in errors if error not in asked)
        finally:
            go_on.set()


def test_hosts_that_are_gone_leave_half_of_the_workers_to_others(fleet):
    gone = hosts_of({f"gone{number}": fleet[0].test_uri for number in range(8)}, keepalive=None)
    well = hosts_of({"well0": HERE, "well1": HERE})
    with pyvirhost.Fleet([*well, *gone], workers=4) as hosts:
        assert all(answers_of(hosts, name_of, ["well0", "well1"]).values())
        with stopped(fleet[0]):
            waiting = hosts.ask(name_of, [host.name for host in gone])
            for _ in range(20):
                assert all(answer.result for answer in hosts.ask(name_of, ["well0", "well1"]))
            assert threads() <= 4
        assert all(answer.result for answer in waiting)


def test_short_questions_take_few_threads_where_the_processor_is_busy(monkeypatch):
    monkeypatch.setattr("pyvirhost.poll.workers.processors", lambda: 0)
    with pyvirhost.Fleet(here(3000)) as fleet:
        for _ in range(2):
            assert all(answer.result for answer in fleet.ask(name_of))
        assert threads() < 20


@pytest.mark.parametrize("limits", [{"workers": 1}, {"workers": 2, "max_connects": 2}, {}])
def test_an_answer_does_not_wait_for_the_next_question(limits):
    come = threading.Event()

    def question(connection):
        return connection.uri() == HERE or come.wait(30)

    with pyvirhost.Fleet([HERE, "test:///default?"], **limits) as fleet:
        assert all(answer.result for answer in fleet.ask(name_of))  # connects them
        answers = fleet.ask(question)
        assert next(answers).host.uri == HERE
        come.set()
        assert next(answers).result


def test_an_answer_does_not_wait_until_a_connection_is_closed(own_daemon):
    with pyvirhost.Fleet(hosts_of(uris([own_daemon]), keepalive=None), keeps=False) as fleet:
        answer, = fleet.ask(lambda connection: own_daemon.process.send_signal(signal.SIGSTOP))
        own_daemon.process.send_signal(signal.SIGCONT)
    assert answer.error is None


# ---- hosts that hang ----------------------------------------------------------------------------

def test_a_host_has_its_own_timeout(fleet):
    slow, fast = fleet[:2]
    hosts = [pyvirhost.Host(name="slow", uri=slow.test_uri, timeout=0.5, keepalive=None),
             pyvirhost.Host(name="fast", uri=fast.test_uri)]
    with pyvirhost.Fleet(hosts, workers=1, max_connects=1) as hosts:
        with stopped(slow):
            answers = answers_of(hosts, name_of)
            assert isinstance(answers["slow"].error, pyvirhost.OperationTimeoutError)
            assert answers["slow"].duration >= 0.5
            assert answers["fast"].result
            # Asked again it says so at once, and has no second thread.
            count = threads()
            began = answers["slow"].started_at
            again, = hosts.ask(name_of, ["slow"])  # type: ignore[attr-defined]
            assert isinstance(again.error, pyvirhost.OperationTimeoutError)
            assert again.started_at == pytest.approx(began, abs=0.1)
            assert threads() == count
        wait_until(lambda: answers_of(hosts, name_of, ["slow"])["slow"].result, "it to be back")


def test_a_question_that_was_never_asked_is_an_error_after_its_time(fleet):
    with pyvirhost.Fleet(hosts_of(uris(fleet[:2]), keepalive=None),
                         workers=1, max_connects=1) as hosts:
        with stopped(fleet[0]):
            answers = answers_of(hosts, name_of, timeout=0.5)
            assert {type(error) for error in errors_of(answers).values()} == {
                pyvirhost.OperationTimeoutError}
            assert "not asked for 0.5 s, since all 1 workers" in str(answers["host1"].error)
            # The worker that hangs has been replaced.
            assert answers_of(hosts, name_of, ["host1"], timeout=20)["host1"].result
        wait_until(lambda: answers_of(hosts, name_of, ["host0"])["host0"].result, "it to be back")


def test_questions_to_one_host_wait_for_each_other():
    go_on, running = threading.Event(), []

    def question(connection):
        running.append(len(running))
        return go_on.wait(30) and len(running)

    with pyvirhost.Fleet([HERE]) as fleet:
        askers = [fleet.ask(question) for _ in range(3)]
        wait_until(lambda: running, "the first")
        go_on.set()
        assert [next(asker).result for asker in askers] == [1, 2, 3]


def test_no_answer_of_a_host_comes_after_it_was_removed(fleet):
    with pyvirhost.Fleet(hosts_of(uris(fleet[:1]), keepalive=None)) as hosts:
        assert answers_of(hosts, name_of)["host0"].result
        host = hosts.hosts["host0"]
        with stopped(fleet[0]):
            hosts.ask(lambda connection: connection.hostname() and "before")
            hosts.remove("host0")
            hosts.add(host)
            later = hosts.ask(lambda connection: "after")
        assert [answer.result for answer in later] == ["after"]


def test_closing_ends_what_waits(fleet):
    with stopped(fleet[0]):
        hosts = pyvirhost.Fleet(hosts_of(uris(fleet[:1]), keepalive=None))
        waiting = hosts.ask(name_of)
        hosts.close()
        assert str(next(waiting).error) == "the fleet was closed"
    with pytest.raises(RuntimeError, match="this fleet was stopped"):
        hosts.ask(name_of)
    hosts.close()


def test_a_fleet_that_was_used_is_refused_in_a_child():
    with pyvirhost.Fleet([HERE]) as fleet:
        assert answers_of(fleet, name_of)

        def refuses():
            for use in (lambda: fleet.ask(name_of), lambda: fleet.hosts,
                        lambda: fleet.add("test:///default?"), lambda: fleet.remove(HERE)):
                with pytest.raises(RuntimeError, match="forked"):
                    use()
            fleet.close()
            with pyvirhost.Fleet([HERE]) as own:
                return bool(answers_of(own, name_of))

        assert in_child(refuses) == 0
        assert answers_of(fleet, name_of)


# ---- threads ------------------------------------------------------------------------------------

def run(program):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True,
        timeout=100, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert (done.returncode, done.stderr) == (0, "")


# No stack of that size can be had, so no thread can be started.
NO_THREADS = "threading.stack_size(1 << 46)"


def test_without_a_thread_each_host_has_an_error():
    run(f"""
        import threading, pyvirhost
        hosts = {{"a": "test:///default", "b": "test:///default"}}
        with pyvirhost.Fleet(hosts) as fleet, pyvirhost.Poller(hosts, interval=0.2) as poller:
            fleet.start()
            {NO_THREADS}
            for _ in range(3):
                errors = [answer.error for answer in fleet.ask(lambda connection: 1)]
                assert [type(error) for error in errors] == [RuntimeError] * 2, errors
                assert "raise the limit of threads" in str(errors[0])
            while (sample := next(poller)).error is None:
                pass  # whose turn came before
            assert isinstance(sample.error, RuntimeError), sample
            for new in (pyvirhost.Fleet(hosts), pyvirhost.Poller(hosts)):
                try:
                    new.start()
                except RuntimeError as error:
                    assert "raise the limit of threads" in str(error)
                else:
                    raise AssertionError
            threading.stack_size(0)
            assert [answer.result for answer in fleet.ask(lambda connection: 1)] == [1, 1]
            while (sample := next(poller)).error is not None:
                pass
            new.start()
            new.stop()
    """)


def test_where_no_more_threads_can_be_started_the_others_say_so():
    run(f"""
        import threading, pyvirhost
        go_on = threading.Event()
        hosts = {{"a": "test:///default", "b": "test:///default"}}
        with pyvirhost.Fleet(hosts) as fleet:
            assert [answer.result for answer in fleet.ask(lambda connection: 1, ["a"])] == [1]
            {NO_THREADS}
            waiting = fleet.ask(lambda connection: go_on.wait(30), ["a"])
            errors = [answer.error for answer in fleet.ask(lambda connection: 1, timeout=0.5)]
            go_on.set()
            assert next(waiting).result
            not_asked = str(errors[0])
            assert "all 1 workers are busy and another could not be started" in not_asked, not_asked
            assert "raise the limit of threads" in not_asked
    """)


def test_callers_take_no_lock():
    # On CPython 3.14 an exception of a signal's handler may leave such a lock held for ever.
    run("""
        import _thread, threading, traceback

        taken, main, asking = [], threading.get_ident(), []

        def watched(kind):
            class Lock:
                def __init__(self):
                    self.lock = kind()

                def acquire(self, *arguments, **keywords):
                    if asking and threading.get_ident() == main:
                        taken.append("".join(traceback.format_stack(limit=6)))
                    return self.lock.acquire(*arguments, **keywords)

                def __enter__(self):
                    return self.acquire()

                def __exit__(self, *exception):
                    self.lock.release()

                def __getattr__(self, name):
                    return getattr(self.lock, name)

            return Lock

        for module in (_thread, threading):
            module.RLock = watched(_thread.RLock)
        threading.Lock = watched(_thread.allocate_lock)

        import pyvirhost

        here = "test:///default"
        pyvirhost.Fleet, pyvirhost.Poller, pyvirhost.poll_once([here])  # loads all there is
        asking.append(True)
        pyvirhost.poll_once([here])
        with pyvirhost.Fleet([here]) as fleet:
            fleet.add("test:///default?")
            assert len(list(fleet.ask(lambda connection: connection.uri(), timeout=5))) == 2
            fleet.remove(here)
        with pyvirhost.Poller([here], interval=0.02) as poller:
            next(poller)
            poller.add("test:///default?")
            for _ in range(5):
                next(poller)
            assert len(poller.hosts) == len(poller.overruns) == 2 and poller.latest()
            poller.remove(here)
            repr(poller), poller.dropped
        assert not taken, taken[0]
    """)


def test_a_finaliser_may_use_the_fleet_that_runs_it():
    fleet = pyvirhost.Fleet({"one": HERE})

    class Last:
        def __del__(self):
            fleet.add("test:///default?")
            fleet.remove("test:///default?")
            fleet.close()

    def question(connection):
        last = Last()
        last.itself = last  # type: ignore[attr-defined]  # only a collection finds it
        return "asked"

    with fleet.clock.lock:  # as a worker that is in the middle of its own affairs
        Last()
    assert fleet.is_closed
    fleet = pyvirhost.Fleet({"one": HERE})
    assert [answer.result for answer in fleet.ask(question)] == ["asked"]
    gc.collect()
    assert fleet.is_closed


def test_no_more_workers_than_there_may_be_but_for_those_set_aside():
    clock = Clock(lambda: None)
    workers = Workers(2, 2, 0.5, clock)
    begun, go_on = threading.Semaphore(0), threading.Event()

    class Job:
        def __call__(self):
            begun.release()
            go_on.wait(30)

    clock.start()
    try:
        with clock.lock:
            for _ in range(6):
                workers.do(Job())
        first = [begun.acquire(timeout=10) for _ in range(2)]
        assert all(first)
        assert threads() == 2
        # Their places are taken by two more, whenever half a second is over.
        wait_until(lambda: threads() == 4 and workers.count == 2,
                   "others to take their places")
        go_on.set()
        assert all(begun.acquire(timeout=10) for _ in range(4))
        wait_until(lambda: threads() <= 2, "those without a place to end")
        with clock.lock:
            workers.do(Job())
        assert begun.acquire(timeout=10)
    finally:
        with clock.lock:
            workers.end()
            clock.end(time.monotonic() + 10, lambda: workers.count == 0)


def test_a_clock_does_what_is_due_and_nothing_that_was_called_off():
    clock = Clock(lambda: None)
    done = []
    clock.start()
    try:
        with clock.lock:
            now = time.monotonic()
            called_off = [clock.at(now + 30, lambda: done.append("never")) for _ in range(1000)]
            for number in (3, 1, 2):
                clock.at(now + number / 100, lambda number=number: done.append(number))  # type: ignore[misc]
            for alarm in called_off:
                clock.call_off(alarm)
                clock.call_off(alarm)
            # What was called off takes no memory until its time comes.
            assert len(clock._alarms) < 200
        wait_until(lambda: len(done) == 3, "the alarms")
        assert done == [1, 2, 3]
        assert clock.do(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            clock.do(lambda: 1 / 0)
    finally:
        clock.end(time.monotonic(), lambda: True)
        clock.wait(10)
    with pytest.raises(RuntimeError, match="has ended"):
        clock.do(lambda: 7)
