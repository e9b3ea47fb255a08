"""A server that misbehaves: the real daemon's replies, until one of them is put in its place."""

import socket
import struct
import threading
from contextlib import suppress

from proxy import Proxy

REPLY, EVENT = 1, 2
PROGRAM, VERSION = 0x20008086, 1
# What it does after it misbehaved.
GO_ON, FALL_SILENT, HANG_UP = range(3)
# The step before the first reply, when it was not yet asked anything.
CONNECTED = -1


class Hostile(Proxy):
    """A proxy that gives another reply than the daemon's, once.

    Attributes
    ----------
    misbehaved : threading.Event
        Set once it has.
    """

    def __init__(self, daemon):
        super().__init__(daemon)
        self.clients = []
        self.misbehaved = threading.Event()
        self.lie = None
        self.silent = False

    def __exit__(self, *exception):
        self.hang_up()
        super().__exit__(*exception)

    def misbehave(self, lie, then, step=0):
        """Do so at a reply from now, where 0 is the next.

        `lie` gets the head and the body of the reply and returns the pieces to send in its place.
        """
        self.misbehaved.clear()
        self.silent = False
        self.step, self.then, self.lie = step, then, lie

    def hang_up(self):
        """Close all connections, after which new ones may be made."""
        with self.starting:
            for client in self.clients:
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
            self.clients.clear()
        # What is under way must not meet the next lie.
        for thread in self.threads[1:]:
            thread.join(10)
        self.silent = False

    def begin(self, client):
        self.clients.append(client)
        if self.lie is not None and self.step == CONNECTED:
            head = struct.pack(">7I", 28, PROGRAM, VERSION, 1, REPLY, 0, 0)
            with suppress(OSError):
                if not self.tell_lie(client, head, b""):
                    client.shutdown(socket.SHUT_RDWR)

    def reply(self, client, head, body):
        kind, = struct.unpack_from(">I", head, 16)
        if self.silent:
            return True
        if self.lie is None or kind != REPLY:
            return super().reply(client, head, body)
        if self.step > 0:
            self.step -= 1
            return super().reply(client, head, body)
        return self.tell_lie(client, head, body)

    def tell_lie(self, client, head, body):
        lie, self.lie = self.lie, None
        self.silent = self.then == FALL_SILENT
        try:
            for piece in lie(head, body):
                client.sendall(piece)
        finally:
            self.misbehaved.set()
        return self.then != HANG_UP


class Answers(Proxy):
    """A proxy that answers some procedures itself, be it that the daemon would refuse them.

    Attributes
    ----------
    replies : dict of int to list of bytes
        For each of these procedures the bodies of its replies, of which the last one stays.
    """

    def __init__(self, daemon):
        super().__init__(daemon)
        self.replies = {}

    def reply(self, client, head, body):
        procedure, = struct.unpack_from(">I", head, 12)
        bodies = self.replies.get(procedure)
        if bodies is None:
            return super().reply(client, head, body)
        body = bodies.pop(0) if len(bodies) > 1 else bodies[0]
        client.sendall(b"".join(message(head, body, status=0)))
        return True


# ---- messages and what is wrong with them -------------------------------------------------------

def message(head, body, **changes):
    """The pieces of a message whose head has other numbers; its length is right unless given."""
    names = ("length", "program", "version", "procedure", "kind", "serial", "status")
    numbers = dict(zip(names, struct.unpack(">7I", head), strict=True))
    numbers |= {"length": 28 + len(body), **changes}
    return [struct.pack(">7I", *numbers.values()), body]


def lies(length=None, body=None, **changes):
    """Return a lie for `Hostile.misbehave`: other numbers in the head, or another body."""
    def lie(head, real_body):
        if length is not None:
            changes["length"] = length
        return message(head, real_body if body is None else body, **changes)

    return lie


def nothing(head, body):
    return []


# A client sees at once that nothing of use will follow.
BROKEN = {
    "another protocol": lambda head, body: [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
    "noise": lambda head, body: [bytes(range(255, 0, -1))],
    "ones": lambda head, body: [b"\xff" * 100],
    "zeros": lambda head, body: [b"\0" * 100],
    **{f"length {length:#x}": lies(length=length)
       for length in (0, 1, 3, 5, 27, 2**26, 2**31 - 1, 2**31, 2**32 - 1)},
    "another program": lies(program=0x20008087),
    "another version": lies(version=2),
    "another serial": lies(serial=4711),
    "no such kind": lies(kind=77),
    "a call": lies(kind=0),
    "a head alone": lambda head, body: message(head, b"", program=0, version=0, procedure=0,
                                               kind=0, serial=0, status=0),
}

# More has to follow, or else.
UNFINISHED = {
    "nothing": nothing,
    "half a length": lambda head, body: [head[:2]],
    "a length": lambda head, body: [head[:4]],
    "half a head": lambda head, body: [head[:14]],
    "a head without its body": lambda head, body: message(head, b"", length=28 + max(len(body), 8)),
    "a body without its end": lambda head, body: message(
        head, body[:-1], length=28 + max(len(body), 8)),
    "one byte at a time": lambda head, body: [bytes([byte]) for byte in (head + body)[:-1]],
    "a huge body without its end": lambda head, body: [
        *message(head, body, length=2**25), bytes(100_000)],
    "an event in its place": lies(kind=EVENT),
}

# libvirt's client sometimes sees at once that nothing can follow, and sometimes waits for it.
UNCERTAIN = {"a length and no more": lies(length=4)}

# The message is whole, what it says is not to be had.
SENSELESS = {
    "no body": lies(body=b""),
    "a short body": lambda head, body: message(head, body[:-4]),
    "an odd body": lambda head, body: message(head, body[:-1]),
    "a body of ones": lies(body=b"\xff" * 64),
    "a body of zeros": lies(body=bytes(64)),
    "text": lies(body=b"Bad Request\r\n" * 40),
    "an error that is none": lies(status=1),
    "an error without a body": lies(status=1, body=b""),
    "an error of ones": lies(status=1, body=b"\xff" * 200),
    "an error of zeros": lies(status=1, body=bytes(200)),
    "no such status": lies(status=77),
    "another procedure": lies(procedure=4711),
}


# ---- the protocol's encoding, XDR ----------------------------------------------------------------

def numbers(*values):
    return struct.pack(f">{len(values)}I", *(value & 0xffffffff for value in values))


def longs(*values):
    return struct.pack(f">{len(values)}Q", *(value & (2**64 - 1) for value in values))


def text(value):
    return numbers(len(value)) + value + bytes(-len(value) % 4)


def node_info(model=b"i686", memory=1024, cpus=1, mhz=1, nodes=1, sockets=1, cores=1, threads=1):
    # Each character takes four bytes.
    return (numbers(*model.ljust(32, b"\0")) + longs(memory)
            + numbers(cpus, mhz, nodes, sockets, cores, threads))


def stats(*fields, count=None):
    return (numbers(len(fields)) + b"".join([text(name) + longs(value) for name, value in fields])
            + numbers(len(fields) if count is None else count))


def typed_parameters(*parameters, count=None):
    return (numbers(len(parameters))
            + b"".join([text(name) + numbers(kind) + value for name, kind, value in parameters])
            + numbers(len(parameters) if count is None else count))
