"""A proxy on a daemon's socket that sees each message of libvirt's protocol."""

import socket
import struct
import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

CALL = 0


class Proxy:
    """Pass messages on between clients and a daemon, and count the calls.

    A message is its length and a header of six numbers, of which the third is the procedure and
    the fourth tells a call from a reply; all are big-endian and of four bytes.

    Attributes
    ----------
    calls : list of int
        The procedure of each call since the start or the last `clear`.
    change_reply : callable, optional
        Gets the procedure and the body of each reply and returns another body.
    cut_at : int, optional
        The procedure in place of whose reply the connection is cut.
    """

    def __init__(self, daemon):
        self.daemon = daemon
        self.calls = []
        self.change_reply = None
        self.cut_at = None
        self.starting = threading.Lock()

    def __enter__(self):
        self.stack = ExitStack()
        folder = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="vh-"))
        self.path = Path(folder) / "sock"
        self.listener = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        self.listener.bind(str(self.path))
        self.listener.listen()
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()
        return self

    def __exit__(self, *exception):
        self.listener.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)
        self.stack.close()

    @property
    def test_uri(self):
        return f"test+unix:///default?socket={self.path}"

    @property
    def qemu_uri(self):
        return f"qemu+unix:///session?socket={self.path}"

    def clear(self):
        self.calls.clear()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self.daemon.socket))
            with self.starting:
                self.begin(client)
                for source, target in ((client, server), (server, client)):
                    thread = threading.Thread(
                        target=self.pump, args=(source, target, source is server))
                    self.threads.append(thread)
                    thread.start()

    def pump(self, source, target, is_reply):
        with source.makefile("rb") as stream, suppress(OSError):
            while len(head := stream.read(28)) == 28:
                length, _, _, procedure, kind, _, _ = struct.unpack(">7I", head)
                body = stream.read(length - 28)
                if kind == CALL and not is_reply:
                    self.calls.append(procedure)
                if not is_reply:
                    target.sendall(head + body)
                elif not self.reply(target, head, body):
                    break
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()

    def begin(self, client):
        """Do nothing: libvirt's servers wait for the client to begin."""

    def reply(self, client, head, body):
        """Pass a server's message on, and return whether to go on."""
        procedure, = struct.unpack_from(">I", head, 12)
        if procedure == self.cut_at:
            return False
        if self.change_reply is not None:
            body = self.change_reply(procedure, body)
            head = struct.pack(">I", 28 + len(body)) + head[4:]
        client.sendall(head + body)
        return True
