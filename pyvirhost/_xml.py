"""XML that a server sent, read within bounds."""

from xml.etree import ElementTree
from xml.parsers.expat import errors

from pyvirhost._errors import server_error

# Characters. libvirt's protocol carries texts of at most so many bytes.
MAX_SIZE = 4 << 20
# Those of libvirt's own documents that are nested the deepest, snapshots of guests, need 20.
MAX_DEPTH = 100
# A host of 16,384 CPUs, more than Linux has, needs 17,000.
MAX_ELEMENTS = 200_000

NO_MEMORY = errors.codes[errors.XML_ERROR_NO_MEMORY]


class _BoundedBuilder(ElementTree.TreeBuilder):
    def __init__(self, function: str) -> None:
        super().__init__()
        self.function = function
        self.depth = 0
        self.elements = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> ElementTree.Element:
        self.depth += 1
        self.elements += 1
        if self.depth > MAX_DEPTH:
            raise server_error(self.function, f"XML nested deeper than {MAX_DEPTH} elements")
        if self.elements > MAX_ELEMENTS:
            raise server_error(self.function, f"XML of more than {MAX_ELEMENTS} elements")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ElementTree.Element:
        self.depth -= 1
        return super().end(tag)


def parse(text: str, function: str) -> ElementTree.Element:
    """Return the root element of a document that a server sent.

    Parameters
    ----------
    text : str
    function : str
        The C function that returned it.

    Raises
    ------
    LibvirtError
        It is not well-formed, longer than `MAX_SIZE`, nested deeper than `MAX_DEPTH`, has more than
        `MAX_ELEMENTS`, or has a document type: libvirt's documents have none, and the entities that
        one declares can grow a short text without end.
    """
    if len(text) > MAX_SIZE:
        raise server_error(function, f"more than {MAX_SIZE} characters of XML")
    # A parser takes it in no other spelling.
    if "<!DOCTYPE" in text:
        raise server_error(function, "XML with a document type")
    parser = ElementTree.XMLParser(target=_BoundedBuilder(function))
    try:
        parser.feed(text)
        return parser.close()
    except (ElementTree.ParseError, ValueError) as error:
        if getattr(error, "code", None) == NO_MEMORY:
            raise MemoryError from None
        raise server_error(function, f"XML that can't be read: {error}") from None
