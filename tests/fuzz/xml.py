"""XML that is nearly what libvirt says, from servers and from persons."""

import contextlib
import re

from daemon import Daemon
from hostile import text
from proxy import Proxy

import pyvirhost
from fuzz.odd import CPU, Answered, walk
from pyvirhost import _xml

GET_CAPABILITIES = 7
TOKENS = ("", "0", "-1", "4", "4096", "1e9", "0x10", " 7 ", "1_000", "\u0663", str(2**32),
          str(2**64), "9" * 5000, "KiB", "bytes", "x", "\U0001d518", "&lt;", "&#0;", "&x;", "<a>",
          "</a>", "<pages/>", "<pages size='4' unit='KiB'/>", "<!DOCTYPE a>", "<!--", "-->", "]]>",
          "<![CDATA[", "<?xml version='1.1'?>", "'", '"', "<", ">", "\0", "\udc80")
PIECE = re.compile(r"<[^>]*>|[\w.-]+|\s+|.", re.DOTALL)


def mutated(random, document):
    """Return a document of which some pieces are other ones."""
    pieces = PIECE.findall(document)
    for _ in range(random.choice((1, 1, 2, 5, 20))):
        place = random.randrange(len(pieces) + 1)
        # Mostly where the package looks: at the sizes of pages.
        if random.random() < 0.5:
            place = random.choice([index for index, piece in enumerate(pieces)
                                   if "pages" in piece or "cpu" in piece] or [place])
        end = place + random.choice((0, 1, 1, 3, 50))
        pieces[place:end] = random.choice((
            list, lambda: [random.choice(TOKENS)], lambda: pieces[place:end] * 2,  # noqa: B023
            lambda: [re.sub(r"'[^']*'", f"'{random.choice(TOKENS)}'", piece)
                     for piece in pieces[place:end + 1]],  # noqa: B023
            lambda: ["<a>"] * random.choice((99, 101, 5000)),
            lambda: pieces[place:end] * random.choice((10, 1000))))()  # noqa: B023
    return "".join(pieces)[:_xml.MAX_SIZE + 10]


class Documents:
    def __init__(self, daemon):
        self.daemon = daemon
        self.documents = []
        for uri in ("test:///default", daemon.qemu_uri):
            with pyvirhost.open(uri) as connection:
                self.documents.append(connection.capabilities())

    def step(self, random):
        document = mutated(random, random.choice(self.documents))
        with contextlib.suppress(pyvirhost.LibvirtError, MemoryError):
            _xml.parse(document, "virConnectGetCapabilities")
        with contextlib.suppress(_xml.BoundError, SyntaxError, ValueError):
            _xml.read(document, random.choice((None, 100)))
        if random.random() < 0.3:
            self.from_server(random, document)
        cpus = [mutated(random, random.choice((CPU, document[:500]))) for _ in range(2)]
        with pyvirhost.open("test:///default") as connection:
            for ask in (lambda: connection.compare_cpu(cpus[0]),
                        lambda: connection.compare_hypervisor_cpu(cpus[0]),
                        lambda: connection.baseline_cpu(cpus),
                        lambda: connection.baseline_hypervisor_cpu(cpus)):
                with Answered():
                    walk(ask())

    def from_server(self, random, document):
        sent = text(document.encode("utf-8", "surrogatepass"))
        with Proxy(self.daemon) as proxy, pyvirhost.open(proxy.qemu_uri) as connection:
            proxy.change_reply = (
                lambda procedure, body: sent if procedure == GET_CAPABILITIES else body)
            with contextlib.suppress(pyvirhost.LibvirtError):
                connection.capabilities()
            with contextlib.suppress(pyvirhost.LibvirtError):
                walk(connection.snapshot(pyvirhost.ALL_FIELDS))
            with contextlib.suppress(pyvirhost.LibvirtError):
                walk(connection.snapshot(["free_pages"]))


@contextlib.contextmanager
def prepare():
    with Daemon() as daemon:
        yield Documents(daemon).step
