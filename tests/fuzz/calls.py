"""Methods and functions with odd arguments, in threads, in asyncio, by fleets, and after forks."""

import asyncio
import contextlib
import copy
import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from daemon import Daemon
from test_connection import CALLS, DANGEROUS

import pyvirhost
from fuzz.odd import DOCUMENTED, LOOKING, Answered, Odd, call, in_child, readings, walk
from pyvirhost import values
from pyvirhost.poll import once

HERE = "test:///default"
KEYWORDS = ("flags", "out", "cpu", "cell", "page_sizes", "fields", "start_cell", "cell_count",
            "max_cells", "arch", "machine", "virttype", "xml_cpus", "pages", "parameters")
SAFE = sorted({*CALLS} - DANGEROUS)


class Calls:
    def __init__(self, daemon):
        # The daemon has no privileges: it can neither reserve pages nor set parameters.
        self.uris = (HERE, HERE, HERE, daemon.test_uri, daemon.qemu_uri, daemon.tcp_uri)
        self.bad_uri = f"test+unix:///default?socket={daemon.home}/none"
        with pyvirhost.open(HERE) as test, pyvirhost.open(daemon.qemu_uri) as qemu:
            self.results = readings(test) + readings(qemu)

    def step(self, random):
        action = random.choices(
            (self.methods, self.opening, self.using_results, self.making, self.loop, self.threads,
             self.asyncio, self.fleet, self.poller, self.once, self.fork),
            (40, 8, 20, 8, 2, 5, 5, 4, 4, 4, 1))[0]
        action(random)

    def odd(self, random, act=lambda: None):
        return Odd(random, act, self.results)

    # ---- a connection ----

    def methods(self, random):
        uri = random.choice(self.uris)
        with pyvirhost.open(uri, readonly=random.random() < 0.2) as connection:
            for _ in range(12):
                if connection.closed:
                    break
                self.method(random, connection, uri)
            if not connection.closed:
                assert connection.node_info().cpus > 0

    def method(self, random, connection, uri):
        odd = self.odd(random)
        odd.act = odd.acts(connection)
        name = random.choice(sorted(CALLS) if uri == HERE else SAFE)
        arguments, keywords = self.arguments(random, odd, CALLS[name])
        with Answered():
            walk(call(getattr(connection, name), *arguments, **keywords))

    def arguments(self, random, odd, usual):
        # Most of a call has to be right, or nothing but the first argument would be looked at.
        arguments = [odd.value() if random.random() < 0.5 else value for value in usual]
        if random.random() < 0.3:
            arguments.append(odd.value())
        keywords = {name: odd.value() for name in random.sample(KEYWORDS, random.choice((0, 0, 1)))}
        if "out" in keywords:
            keywords["out"] = random.choice(self.results)
            keywords["out"] = copy.deepcopy(keywords["out"])
        return arguments, keywords

    def opening(self, random):
        odd = self.odd(random)
        uri = random.choice((*self.uris, self.bad_uri, "test:///" + odd.text(),
                             f"{HERE}?{odd.text()}={odd.text()}"))
        usual = {"readonly": True, "keepalive": (5, 3), "timeout": 20,
                 "auth": pyvirhost.PasswordAuth("fred", "s3cret"), "flags": 2}
        options = {name: odd.value() if random.random() < 0.4 else usual[name]
                   for name in random.sample(sorted(usual), random.choice((0, 1, 2, 3)))}
        if random.random() < 0.2:
            uri = odd.unruly()
        with Answered(), call(pyvirhost.open, uri, **options) as connection:
            walk(connection.node_info())

    # ---- what needs none ----

    def using_results(self, random):
        result = random.choice(self.results)
        odd = self.odd(random)
        kind = type(result)
        names = sorted({name for owner in kind.__mro__[:-1] for name in vars(owner)})
        for _ in range(100):
            value = odd.value()
            use = random.choice((
                lambda: result[value],  # noqa: B023
                lambda: value in result,  # noqa: B023
                lambda: result == value,  # noqa: B023
                lambda: value == result,  # noqa: B023
                lambda: result < value,  # noqa: B023
                lambda: getattr(result, value),  # noqa: B023
                lambda: setattr(result, odd.text(), value),  # noqa: B023
                lambda: getattr(kind, random.choice(names))(value),  # noqa: B023
                lambda: getattr(kind, random.choice(names))(value),  # noqa: B023
                lambda: getattr(result, random.choice(dir(result)))(value),  # noqa: B023
                lambda: getattr(result, random.choice(names))(),
                lambda: kind(value), lambda: walk(kind.__new__(kind)),  # type: ignore[call-overload]  # noqa: B023
                lambda: copy.copy(result), lambda: copy.deepcopy(result), lambda: walk(result),
            ))
            with Answered(*LOOKING):
                use()

    def making(self, random):
        odd = self.odd(random)
        make, *usual = random.choice((
            (pyvirhost.Version, 1, 2, 3), (pyvirhost.SecurityModel, "a", "b"),
            (pyvirhost.PasswordAuth, "fred", "s3cret"),
            (pyvirhost.Credential, 2, "a", None, "b"), (pyvirhost.CPUCompareResult, 1),
            (pyvirhost.CloseReason, 0), (pyvirhost.ConnectFlags, 2), (pyvirhost.initialize,),
            (pyvirhost.lib_version,), (pyvirhost.EventLoop,), (pyvirhost.LibvirtError, "x"),
            (lambda *given: pyvirhost.LibvirtError(given[0], code=given[-1]), "x", 1),
            (lambda uri: pyvirhost.Host(name="x", uri=uri), HERE),
            (lambda pair: pyvirhost.Host(name="x", uri=HERE, keepalive=pair), (5, 3)),
            (lambda value: pyvirhost.Host(name="x", uri=HERE, timeout=value), 5),
            (lambda value: pyvirhost.Host(name="x", uri=HERE, auth=value), None),
            (lambda name: getattr(pyvirhost, name), "open"),
            (pyvirhost.Poller, [HERE]), (pyvirhost.Fleet, {"a": HERE}),
        ))
        arguments, _ = self.arguments(random, odd, usual)
        with Answered(*LOOKING):
            made = call(make, *arguments)
            repr(made)
            int(made)

    def loop(self, random):
        loop = pyvirhost.EventLoop()
        for _ in range(5):
            random.choice((loop.start, loop.stop, lambda: loop.running, lambda: repr(loop)))()
        loop.start()
        with pyvirhost.open(random.choice(self.uris), keepalive=(1, 3)) as connection:
            odd = self.odd(random)
            odd.act = odd.acts(connection)
            with Answered():
                connection.register_close_callback(odd.unruly())
            if random.random() < 0.5:
                loop.stop()
            with Answered():
                connection.set_keepalive(odd.number(), odd.number())
            with Answered():
                walk(connection.node_info())

    # ---- many at once ----

    def threads(self, random):
        failures = []
        seeds = [random.randrange(2**32) for _ in range(4)]
        # libvirt before 10.4 has faults of its own where threads share a connection to a daemon.
        with pyvirhost.open(HERE) as shared:
            def work(seed):
                own = type(random)(seed)
                try:
                    for _ in range(12):
                        if own.random() < 0.03:
                            shared.close()
                        self.method(own, shared, HERE)
                except BaseException as error:
                    failures.append(error)

            threads = [threading.Thread(target=work, args=(seed,)) for seed in seeds]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        for failure in failures:
            raise failure

    def asyncio(self, random):
        odd = self.odd(random)

        async def talk():
            # Nobody asks the tasks that a failure leaves behind.
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
            opening = pyvirhost.aio.open(
                random.choice((*self.uris, self.bad_uri)),
                **({"auth": odd.unruly()} if random.random() < 0.2 else {}))
            async with opening as connection:
                odd.act = connection._connection.close if random.random() < 0.3 else lambda: None  # type: ignore[attr-defined]
                tasks = []
                for _ in range(6):
                    name = random.choice([name for name in SAFE if hasattr(connection, name)])
                    arguments, keywords = self.arguments(random, odd, CALLS[name])
                    tasks.append(asyncio.ensure_future(
                        getattr(connection, name)(*arguments, **keywords)))
                    if random.random() < 0.2:
                        random.choice(tasks).cancel()
                    if random.random() < 0.2:
                        await asyncio.sleep(0)
                if random.random() < 0.2:
                    await connection.close()
                for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                    if isinstance(outcome, BaseException) and not isinstance(
                            outcome, (*DOCUMENTED, asyncio.CancelledError)):
                        raise outcome

        with Answered(asyncio.CancelledError):
            asyncio.run(talk())

    def hosts(self, random, odd):
        hosts = {f"host{number}": random.choice((*self.uris, self.bad_uri))
                 for number in range(random.choice((0, 1, 3, 6)))}
        return random.choice((
            hosts, [pyvirhost.Host(name=name, uri=uri, timeout=random.choice((None, 5)))
                    for name, uri in hosts.items()],
            set(hosts.values()), odd.value()))

    def options(self, random, odd, **usual):
        return {name: odd.value() if random.random() < 0.15 else value
                for name, value in usual.items() if random.random() < 0.5}

    def fleet(self, random):
        odd = self.odd(random)

        def question(connection):
            odd.act = odd.acts(connection)
            if random.random() < 0.3:
                return odd.unruly()()
            return getattr(connection, random.choice(("node_info", "cpu_map", "uri", "close")))()

        with Answered():
            fleet = call(pyvirhost.Fleet, self.hosts(random, odd), **self.options(
                random, odd, workers=2, max_connects=2, patience=5, keeps=False))
            with fleet:
                for _ in range(4):
                    with Answered(KeyError):
                        names = list(fleet.members)
                        for answer in call(fleet.ask, question, **self.options(
                                random, odd, hosts=names, timeout=20)):
                            assert answer.error is None or isinstance(answer.error, BaseException)
                            if isinstance(answer.error, Exception) and not isinstance(
                                    answer.error, (*DOCUMENTED, *LOOKING)):
                                raise answer.error

    def poller(self, random):
        odd = self.odd(random)
        with Answered():
            poller = call(pyvirhost.Poller, self.hosts(random, odd), **self.options(
                random, odd, interval=0.02, timeout=5, fields=["node_info"], page_sizes=[4],
                workers=2, max_connects=2))
            # What is never due keeps nobody waiting.
            timer = threading.Timer(0.1, poller.stop)
            with poller:
                timer.start()
                for count, sample in enumerate(poller):
                    assert (sample.snapshot is None) != (sample.error is None)
                    repr(sample)
                    values.sample_values(sample)
                    with Answered(*LOOKING):
                        random.choice((poller.add, poller.remove))(odd.value())
                    with Answered(*LOOKING):
                        poller.remove(sample.host)
                        poller.add(pyvirhost.Host(name=sample.host, uri=HERE))
                    poller.latest()
                    if count == 8:
                        break
            timer.cancel()
            timer.join()

    def once(self, random):
        odd = self.odd(random)
        with contextlib.ExitStack() as stack:
            options = self.options(random, odd, timeout=20, fields=["node_info"], page_sizes=[4],
                                   workers=2, max_connects=2)
            if random.random() < 0.2:
                options["executor"] = stack.enter_context(ThreadPoolExecutor(2))
            with Answered():
                samples = call(pyvirhost.poll_once, self.hosts(random, odd), **options)
                for sample in samples.values():
                    assert (sample.snapshot is None) != (sample.error is None)
                    values.sample_values(sample)
        # The connections that an executor's task keeps would be taken for a leak.
        once._forget()

    def fork(self, random):
        began = time.monotonic()
        with pyvirhost.open(random.choice(self.uris)) as connection:
            child = functools.partial(self.in_child, random, connection)
            in_child(child)
            assert connection.node_info().cpus > 0
        assert time.monotonic() - began < 60

    def in_child(self, random, connection):
        for name in random.sample(SAFE, 5):
            with contextlib.suppress(pyvirhost.ConnectionClosedError):
                getattr(connection, name)(*CALLS[name])
                raise AssertionError(f"a forked child can call {name}")
        connection.close()
        self.methods(random)
        pyvirhost.EventLoop().stop()


@contextlib.contextmanager
def prepare():
    with Daemon() as daemon:
        yield Calls(daemon).step
