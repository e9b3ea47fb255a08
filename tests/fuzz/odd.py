"""Odd values, by a `random.Random` that repeats: numbers, texts, and objects that misbehave."""

import contextlib
import faulthandler
import functools
import gc
import itertools
import json
import math
import os
import sys
import threading
import traceback

import numpy

import pyvirhost
from pyvirhost import values

CPU = "<cpu><arch>x86_64</arch><model>Haswell</model></cpu>"
INTS = (0, 1, -1, 2, 3, 4, 5, 8, 16, 64, 1024, 1025, 2048, 16384, *(
    sign * 2**power + more for power in (31, 32, 63, 64) for more in (-1, 0, 1)
    for sign in (1, -1)), 10**30)
FLOATS = (0.0, -0.0, 0.001, 1.5, 1e-320, 1e308, math.nan, math.inf, -math.inf)
TEXTS = ("", "x", "x86_64", "qemu", "kvm", "pc", "test:///default", "<cpu/>", CPU, CPU[:-3], "\0",
         "a\0b", "\ud800", "e\u0301", "\U0001d518", "x" * 5000, "%s%n", "user", "kernel", "total",
         "node_info", "cpu_stats", "free_pages", "memory_stats", "shm_pages_to_scan", "__class__",
         "__len__", "user-name", "process-id")
NUMBERS = (numpy.int8, numpy.uint8, numpy.int32, numpy.uint32, numpy.int64, numpy.uint64,
           numpy.float32, numpy.float64, numpy.bool_)


class MischiefError(Exception):
    """What the odd objects raise, and what may therefore come out of anything."""


# It also comes as what Python itself looks out for.
KINDS = (MischiefError, *(type(kind.__name__, (MischiefError, kind), {}) for kind in (
    TypeError, ValueError, KeyError, AttributeError, StopIteration, MemoryError, SystemExit,
    KeyboardInterrupt)))

# What each call may raise. RuntimeError is for threads that can't be started, fleets that were
# closed, and for dicts that an argument changes while they are read.
DOCUMENTED = (pyvirhost.LibvirtError, TypeError, ValueError, OverflowError, OSError, RuntimeError,
              MemoryError, MischiefError)
LOOKING = (LookupError, AttributeError, BufferError)

DUNDERS = ("__index__", "__int__", "__float__", "__hash__", "__eq__", "__lt__", "__iter__",
           "__next__", "__len__", "__getitem__", "__contains__", "__bool__", "__repr__", "__str__",
           "__call__", "__del__", "__fspath__", "__reduce__", "__getattr__", "__class__", "keys",
           "items", "values", "encode", "copy")


class Answered:
    """What is done in it returns, or raises what is documented. It may be entered again.

    Parameters
    ----------
    *more : type
        What it may raise besides.
    """

    def __init__(self, *more):
        self.kinds = DOCUMENTED + more

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if error is None or isinstance(error, RecursionError):
            return False
        return isinstance(error, self.kinds)


class Unraisable:
    """Exceptions that Python could raise nowhere; those of odd objects are none."""

    def __init__(self):
        self.found = []
        sys.unraisablehook = lambda unheard: self.take(
            unheard.exc_value, sys.__unraisablehook__, unheard)
        threading.excepthook = lambda unheard: self.take(
            unheard.exc_value, threading.__excepthook__, unheard)
        # By which an asyncio connection's thread tells.
        sys.excepthook = lambda kind, error, traceback: self.take(
            error, sys.__excepthook__, kind, error, traceback)

    def take(self, error, show, *arguments):
        if not isinstance(error, MischiefError):
            self.found.append(repr(error))
            show(*arguments)

    def check(self):
        assert not self.found, f"nobody could be told of {self.found}"


# Those whose odd objects may still be in use.
MADE = []  # type: list[Odd]


def forget():
    """Let odd objects do nothing any more.

    Without a GIL CPython 3.13 keeps each class that is made after the first thread was started, and
    what its methods hold. They must not hold a connection.
    """
    while MADE:
        MADE.pop().act = nothing


def nothing():
    pass


class Odd:
    """Makes odd values.

    Parameters
    ----------
    random : random.Random
    act : callable
        What odd objects do when they are used, such as closing a connection.
    results : sequence, optional
        Results of the package, to be passed where they do not belong.
    """

    def __init__(self, random, act=lambda: None, results=()):
        self.random = random
        self.act = act
        self.results = results
        MADE.append(self)

    def value(self, depth=2):
        """Return any value."""
        random = self.random
        makers = [
            self.number, self.number, self.text, self.text, self.unruly,
            lambda: random.choice((None, True, False, object(), type, len, self.act, ...)),
            lambda: random.choice(FLOATS),
            lambda: random.choice((b"", b"x", b"\xff" * 9, bytearray(b"x"), memoryview(b"abcdefgh"),
                                   memoryview(numpy.arange(4)))),
            self.scalar,
            lambda: random.choice(self.results) if self.results else None,
        ]
        if depth:
            makers += [lambda: self.many(depth - 1)] * 2 + [lambda: self.mapping(depth - 1)] * 2
        return random.choice(makers)()

    def number(self):
        return self.random.choice(INTS)

    def text(self):
        return self.random.choice(TEXTS)

    def scalar(self):
        with numpy.errstate(all="ignore"):
            return numpy.array(self.random.choice((0, 1, 4, 77, -1))).astype(
                self.random.choice(NUMBERS))[()]

    def many(self, depth=0):
        random = self.random
        # Mostly of one kind, as whoever takes them expects.
        make = random.choice((self.number, self.text, lambda: self.value(depth)))
        items = [make() for _ in range(random.choice((0, 1, 2, 2, 3, 20)))]
        kind = random.choice((list, tuple, iter, set, frozenset, lambda items: (i for i in items)))
        try:
            return kind(items)
        except (TypeError, ValueError, OverflowError, MischiefError):  # some have no hash
            return items

    def mapping(self, depth=0):
        keys = self.random.choice((self.number, self.text, lambda: self.value(0)))
        entries = {}
        for _ in range(self.random.choice((0, 1, 1, 2, 5))):
            # NumPy overflows where a scalar is compared with an int of the same hash.
            with contextlib.suppress(TypeError, ValueError, OverflowError, MischiefError):
                entries[keys()] = self.value(depth)
        return entries

    def unruly(self):
        """Return an object that does, raises or says something when it is used."""
        random = self.random
        base, value = random.choice(
            ((object, None), (str, self.text()), (int, self.number()), (float, 1.5),
             (tuple, (5, 3)), (list, [4, 2048]), (dict, {4: 1}), (bytes, b"x")))
        body = {name: self.method(base, name)
                for name in random.sample(DUNDERS, random.choice((1, 2, 4, 10)))}
        if base is not object and random.random() < 0.1:
            body["__slots__"] = ()
        try:
            kind = type("Unruly", (base,), body)
            return kind() if value is None else kind(value)
        except (TypeError, MischiefError):
            return object()

    def method(self, base, name):
        random = self.random
        odd = self if random.random() < 0.5 else None
        error = random.choice(KINDS) if random.random() < 0.4 else None
        usual = getattr(base, name, None) if random.random() < 0.6 else None
        answer = random.choice((None, 0, 1, -1, 2**70, 1.5, "x", (), [4], b"x", NotImplemented))
        uses = itertools.count()

        def method(self, *arguments, **keywords):
            if next(uses) > 1000:  # an iteration without end is its maker's
                raise MischiefError("enough")
            if odd is not None:
                odd.act()
            if error is not None:
                raise error("planned")
            if usual is not None:
                return usual(self, *arguments, **keywords)
            return answer

        return property(method) if name == "__class__" else method

    def acts(self, connection):
        """Return something that odd objects can do to a connection while it is used."""
        def close():
            connection.close()

        def ask():
            with Answered():
                connection.node_info()
                connection.snapshot(pyvirhost.ALL_FIELDS)

        def share():
            with Answered():
                connection.ref().close()

        return self.random.choice((close, ask, share, gc.collect, lambda: None))


def call(function, *arguments, **keywords):
    """Call it, and put down how on the exception that nobody expects."""
    try:
        return function(*arguments, **keywords)
    except BaseException as error:
        error.add_note(f"of {getattr(function, '__qualname__', function)} with "
                       f"{[shown(one) for one in arguments]} and "
                       f"{ {name: shown(one) for name, one in keywords.items()} }")
        raise


def shown(value):
    if type(value) in (int, str, float, bool, type(None)):
        return value if len(repr(value)) < 200 else repr(value)[:200]
    return object.__repr__(value)


def walk(result):
    """Read all that a result holds, in every way."""
    repr(result)
    if isinstance(result, pyvirhost.Connection):
        result.close()
        return
    if not hasattr(type(result), "to_dict"):
        return
    contents = result.to_dict()
    repr(contents)
    if type(result).__hash__ is not None:
        hash(result)
    bool(result == result)
    if hasattr(type(result), "__iter__"):
        list(result)
    with contextlib.suppress(TypeError), memoryview(result) as view:
        view.tobytes()
        view.tolist()
    if isinstance(result, pyvirhost.HostSnapshot):
        for name in result.fields:
            walk(getattr(result, name))
        json.dumps(values.snapshot_values(result), allow_nan=False)
        values.memory_in_use(result)
        with Answered():
            rates = result.rates(result)
            if rates is not None:
                repr(values.rates_values(rates))


def readings(connection):
    """Return one of each result that a connection gives."""
    results = []
    for read in (connection.node_info, connection.cpu_map, connection.cpu_stats,
                 connection.per_cpu_stats, connection.memory_stats, connection.cells_free_memory,
                 connection.per_cell_memory_stats, functools.partial(connection.free_pages, [4]),
                 connection.memory_parameters, connection.lib_version, connection.security_model,
                 connection.snapshot, functools.partial(connection.snapshot, pyvirhost.ALL_FIELDS)):
        with contextlib.suppress(pyvirhost.LibvirtError):
            results.append(read())
    return results


def in_child(function):
    """Run it in a forked child, which has to end well."""
    pid = os.fork()
    if pid == 0:
        status = 1
        faulthandler.dump_traceback_later(40, exit=True)
        try:
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, f"a forked child ended with {status}"
