"""Buffers with every combination of flags, let go in any order, and read while they change."""

import array
import contextlib
import copy
import ctypes
import gc
import pickle
import struct
import threading

import numpy
from daemon import Daemon

import pyvirhost
from fuzz.odd import Answered, readings

SIMPLE, WRITABLE, FORMAT, ND = 0, 1, 4, 8
STRIDES, C_CONTIGUOUS, F_CONTIGUOUS, ANY_CONTIGUOUS, INDIRECT = (
    0x10 | ND, 0x20 | 0x10 | ND, 0x40 | 0x10 | ND, 0x80 | 0x10 | ND, 0x100 | 0x10 | ND)


class Buffer(ctypes.Structure):
    """C's ``Py_buffer``."""

    _fields_ = [("buf", ctypes.c_void_p), ("obj", ctypes.c_void_p), ("len", ctypes.c_ssize_t),
                ("itemsize", ctypes.c_ssize_t), ("readonly", ctypes.c_int),
                ("ndim", ctypes.c_int), ("format", ctypes.c_char_p),
                ("shape", ctypes.POINTER(ctypes.c_ssize_t)),
                ("strides", ctypes.POINTER(ctypes.c_ssize_t)),
                ("suboffsets", ctypes.POINTER(ctypes.c_ssize_t)), ("internal", ctypes.c_void_p)]


get_buffer = ctypes.pythonapi.PyObject_GetBuffer
get_buffer.argtypes = ctypes.py_object, ctypes.POINTER(Buffer), ctypes.c_int
release = ctypes.pythonapi.PyBuffer_Release
release.argtypes = ctypes.POINTER(Buffer),
release.restype = None


def check(view, owner, flags, expected):
    assert view.obj == id(owner)
    assert view.readonly == 1
    assert not view.suboffsets
    assert view.len == len(expected)
    assert not flags & WRITABLE
    assert (view.format is not None) == bool(flags & FORMAT)
    assert bool(view.shape) == bool(flags & ND)
    assert bool(view.strides) == (flags & STRIDES == STRIDES)
    assert view.ndim in (1, 2)
    if view.shape:
        count = 1
        for size in view.shape[:view.ndim]:
            count *= size
        assert count * view.itemsize == view.len
    if view.strides:
        step = view.itemsize
        for size, stride in zip(reversed(view.shape[:view.ndim]),
                                reversed(view.strides[:view.ndim]), strict=True):
            assert stride == step
            step *= size
    assert ctypes.string_at(view.buf, view.len) == expected


class Buffers:
    def __init__(self, connections):
        self.connections = connections
        self.results = [result for connection in connections for result in readings(connection)
                        if type(result).__name__ in (
                            "CPUStats", "MemoryStats", "StatsTable", "CPUMap", "CellsFreeMemory",
                            "PageCounts")]
        for kind in {type(result) for result in self.results}:
            self.results.append(kind.__new__(kind))  # type: ignore[call-overload]  # an empty one

    def step(self, random):
        random.choice((self.flags, self.flags, self.views, self.consumers, self.reuse,
                       self.threads))(random)

    def flags(self, random):
        owner = copy.copy(random.choice(self.results))
        expected = memoryview(owner).tobytes()
        views = []
        for _ in range(random.randrange(1, 20)):
            flags = random.choice((
                random.randrange(0x200), random.choice((SIMPLE, FORMAT, ND, STRIDES, C_CONTIGUOUS,
                                                        F_CONTIGUOUS, ANY_CONTIGUOUS, INDIRECT))
                | random.choice((0, WRITABLE)) | random.choice((0, FORMAT))))
            view = Buffer()
            try:
                get_buffer(owner, ctypes.byref(view), flags)
            except BufferError:
                assert view.obj is None
                assert flags & (WRITABLE | 0x40), flags
            else:
                check(view, owner, flags, expected)
                views.append((view, flags))
            if views and random.random() < 0.3:
                release(ctypes.byref(views.pop(random.randrange(len(views)))[0]))
        address = id(owner)
        if views:
            del owner  # the views keep it
            gc.collect()
        random.shuffle(views)
        for view, _ in views:
            assert view.obj == address
            assert ctypes.string_at(view.buf, view.len) == expected
            release(ctypes.byref(view))
            assert view.obj is None

    def views(self, random):
        owner = random.choice(self.results)
        views = [memoryview(owner)]
        for _ in range(12):
            view = random.choice(views)
            with Answered(IndexError, BufferError, NotImplementedError):
                views.append(random.choice((
                    lambda: memoryview(view), lambda: memoryview(owner),  # noqa: B023
                    lambda: view.cast(random.choice("BbQqcdfP@x")),  # noqa: B023
                    lambda: view.cast("B", [random.randrange(9), random.randrange(9)]),  # noqa: B023
                    lambda: view[random.randrange(-9, 9):],  # noqa: B023
                    lambda: view[::random.choice((-1, 1, 2, 0))],  # noqa: B023
                    view.toreadonly))())
            with Answered(IndexError, BufferError, NotImplementedError):
                random.choice((view.tolist, view.tobytes, view.release, lambda: hash(view),  # noqa: B023
                               lambda: view == owner, lambda: view[0]))()  # noqa: B023
            with Answered(IndexError, BufferError, NotImplementedError):
                view[0] = 1
                raise AssertionError("a result was written to")

    def consumers(self, random):
        owner = random.choice(self.results)
        expected = memoryview(owner).tobytes()
        with Answered(BufferError, struct.error, IndexError):
            seen = random.choice((
                lambda: numpy.asarray(owner), lambda: numpy.array(owner, order="F", copy=True),
                lambda: numpy.frombuffer(owner, dtype=random.choice(("u8", "u1", "f4", "i2"))),
                lambda: bytes(owner), lambda: bytearray(owner), lambda: array.array("Q", owner),
                lambda: struct.unpack_from("Q", owner, random.randrange(-99, 99)),
                lambda: struct.pack_into("Q", owner, 0, 1), lambda: b"".join([owner, owner]),
                lambda: pickle.PickleBuffer(owner).raw(), lambda: int.from_bytes(owner, "little"),
                lambda: ctypes.c_char.from_buffer(owner),
                lambda: ctypes.c_char.from_buffer_copy(owner)))()
            if isinstance(seen, numpy.ndarray):
                assert not seen.flags.writeable or not numpy.shares_memory(seen, owner)
                seen.sum()
        assert memoryview(owner).tobytes() == expected

    def reuse(self, random):
        connection = random.choice(self.connections)
        name = random.choice(("cpu_stats", "per_cpu_stats", "memory_stats",
                              "per_cell_memory_stats", "snapshot"))
        read = getattr(connection, name)
        with Answered():
            first = read()
            views = []
            for _ in range(8):
                arrays = [first] if name != "snapshot" else [
                    part for part in (first.cpu_stats, first.memory_stats) if part is not None]
                views += [numpy.asarray(random.choice(arrays)), memoryview(random.choice(arrays))]
                # One of another shape must be refused or replaced, never written past its end.
                out = random.choice((first, first, random.choice(self.results),
                                     copy.deepcopy(first)))
                with Answered():
                    read(out=out)
                for view in views:
                    numpy.asarray(view).sum()
                del views[:random.randrange(3)]

    def threads(self, random):
        connection = random.choice(self.connections)
        name = random.choice(("cpu_stats", "per_cpu_stats", "snapshot"))
        with pyvirhost.open(connection.uri()) as own:
            table = getattr(own, name)()
            arrays = [table] if name != "snapshot" else [table.cpu_stats]
            failures = []
            done = threading.Event()

            def look():
                try:
                    while not done.is_set():
                        for one in arrays:
                            with memoryview(one) as view:
                                view.tolist()
                            repr(one)
                            copy.copy(one)
                            one.to_dict()
                except BaseException as error:
                    failures.append(error)

            threads = [threading.Thread(target=look) for _ in range(2)]
            for thread in threads:
                thread.start()
            try:
                for _ in range(30):
                    getattr(own, name)(out=table)
            finally:
                done.set()
                for thread in threads:
                    thread.join()
        for failure in failures:
            raise failure


@contextlib.contextmanager
def prepare():
    with Daemon() as daemon, pyvirhost.open("test:///default") as test, \
            pyvirhost.open(daemon.qemu_uri) as qemu:
        yield Buffers((test, qemu)).step
