"""Servers whose replies are whole, and say anything."""

import contextlib
import struct

from daemon import Daemon
from hostile import (
    EVENT,
    Hostile,
    longs,
    message,
    node_info,
    numbers,
    stats,
    text,
    typed_parameters,
)
from test_connection import CALLS, DANGEROUS, PAIRED

import pyvirhost
from fuzz.odd import call, walk

WORDS = (0, 1, 2, 3, 7, 8, 16, 17, 64, 255, 1000, 1024, 1025, 16384, 16385, 2**20, 2**24, 2**31 - 1,
         2**31, 2**32 - 1, 2**32 - 2)
LONGS = (0, 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 0x7ff8 << 48, 0x7ff0 << 48, 0xfff0 << 48)
NAMES = (b"", b"a", b"user", b"kernel", b"idle", b"total", b"free", b"shm_pages_shared", b"x" * 79,
         b"x" * 80, b"\xff\xfe", b"a\0b", b"__deepcopy__", b"utilization")
# The most that libvirt takes for one message.
MOST = 1 << 24


def mutated(random, body):
    """Return a body of which something is another."""
    if random.random() < 0.3:
        return made(random)
    changed = bytearray(body)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        place = 4 * random.randrange(len(changed) // 4 + 1)
        change = random.choice((word, word, word, long, long, flip, cut, insert, repeat))
        change(random, changed, place)
    return bytes(changed[:MOST])


def word(random, body, place):
    body[place:place + 4] = numbers(random.choice(WORDS))


def long(random, body, place):
    body[place:place + 8] = longs(random.choice(LONGS))


def flip(random, body, place):
    if body:
        body[random.randrange(len(body))] ^= 1 << random.randrange(8)


def cut(random, body, place):
    del body[place + random.choice((0, 0, 0, 1)):]


def insert(random, body, place):
    body[place:place] = random.choice((bytes, random.randbytes))(4 * random.choice((1, 2, 50)))


def repeat(random, body, place):
    size = 4 * random.choice((1, 2, 10))
    body[place:place] = body[place:place + size] * random.choice((1, 3, 99))


def made(random):
    """Return a body that is right in its form."""
    count = random.choice((None, None, *WORDS))
    few = range(random.choice((0, 1, 2, 4, 8, 16, 17, 100, 1024)))
    fields = [(random.choice(NAMES), random.choice(LONGS)) for _ in few]
    values = ((1, numbers(random.choice(WORDS))), (2, numbers(random.choice(WORDS))),
              (3, longs(random.choice(LONGS))), (4, longs(random.choice(LONGS))),
              (5, longs(random.choice(LONGS))), (6, numbers(random.choice(WORDS))),
              (7, text(random.choice(NAMES))), (random.choice(WORDS), b""))
    return random.choice((
        lambda: stats(*fields, count=count),
        lambda: numbers(0) + typed_parameters(count=count),
        lambda: typed_parameters(
            *[(random.choice(NAMES), *random.choice(values)) for _ in few], count=count),
        lambda: node_info(random.choice(NAMES)[:32], random.choice(LONGS),
                          *[random.choice(WORDS) for _ in range(6)]),
        lambda: text(random.randbytes(len(few))) + numbers(
            random.choice(WORDS), random.choice((8 * len(few), *WORDS))),
        lambda: numbers(len(few)) + longs(*[random.choice(LONGS) for _ in few]),
        lambda: numbers(len(few)) + b"".join([text(random.choice(NAMES)) for _ in few])
        + numbers(len(few) if count is None else count),
        lambda: text(random.choice(NAMES) * len(few)),
        lambda: longs(random.choice(LONGS)),
        lambda: numbers(random.choice(WORDS)),
    ))()


class Lying(Hostile):
    """A proxy that changes as many replies as it is told to.

    Attributes
    ----------
    random : random.Random or None
    share : float
        How many of the replies it changes.
    """

    random, share = None, 0.0

    def reply(self, client, head, body):
        kind, = struct.unpack_from(">I", head, 16)
        random = self.random
        if random is None or kind == EVENT or random.random() >= self.share:
            return super().reply(client, head, body)
        status = {"status": random.choice((0, 0, 1))} if random.random() < 0.2 else {}
        client.sendall(b"".join(message(head, mutated(random, body), **status)))
        return True


class Lies:
    def __init__(self, daemon):
        self.daemon = daemon

    def step(self, random):
        with Lying(self.daemon) as server:
            uri = server.qemu_uri if random.random() < 0.5 else server.test_uri
            if random.random() < 0.2:
                server.random, server.share = random, 0.3
            with contextlib.suppress(pyvirhost.LibvirtError), pyvirhost.open(
                    uri, timeout=random.choice((None, 30))) as connection:
                server.random, server.share = random, random.choice((0.2, 0.6, 1.0))
                for _ in range(10):
                    self.ask(random, connection)

    def ask(self, random, connection):
        name = random.choice(sorted({*CALLS} - PAIRED - DANGEROUS))
        arguments = CALLS[name]
        if name == "snapshot":
            arguments = (random.choice((pyvirhost.ALL_FIELDS, pyvirhost.ALL_FIELDS,
                                        random.sample(pyvirhost.ALL_FIELDS, 3))),)
        # The arguments are right.
        with contextlib.suppress(pyvirhost.LibvirtError):
            walk(call(getattr(connection, name), *arguments))


@contextlib.contextmanager
def prepare():
    with Daemon() as daemon:
        with pyvirhost.open(daemon.qemu_uri) as connection:
            connection.capabilities()  # for which the daemon takes seconds the first time
        yield Lies(daemon).step
