"""XML from a server or a person, parsed within bounds."""

from xml.etree import ElementTree
from xml.parsers.expat import errors

# In characters. libvirt's protocol carries texts of at most this many bytes.
MAX_SIZE = 4 << 20
# libvirt's most deeply nested documents, snapshots of guests, need 20.
MAX_DEPTH = 100
# A host of 16,384 CPUs, more than Linux has, needs 17,000.
MAX_ELEMENTS = 200_000

_NO_MEMORY = errors.codes[errors.XML_ERROR_NO_MEMORY]


class BoundError(Exception):
    """A document exceeds the bounds."""


class _BoundedBuilder(ElementTree.TreeBuilder):
    def __init__(self, most: int | None) -> None:
        super().__init__()
        self.most = most
        self.depth = 0
        self.elements = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> ElementTree.Element:
        self.depth += 1
        self.elements += 1
        if self.depth > MAX_DEPTH:
            raise BoundError(f"XML nested deeper than {MAX_DEPTH} elements")
        if self.most is not None and self.elements > self.most:
            raise BoundError(f"XML of more than {self.most} elements")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ElementTree.Element:
        self.depth -= 1
        return super().end(tag)


def read(text: str, most: int | None = None) -> ElementTree.Element:
    """Return the root element of a document.

    Parameters
    ----------
    text : str
    most : int, optional
        How many elements it may have.

    Raises
    ------
    BoundError
        It is nested deeper than `MAX_DEPTH`, has too many elements, or has a document type:
        libvirt's documents have none, and its entities can grow a short text without end.
    ParseError, ValueError
        It is not well-formed.
    """
    # Parsers accept no other spelling.
    if "<!DOCTYPE" in text:
        raise BoundError("XML with a document type")
    parser = ElementTree.XMLParser(target=_BoundedBuilder(most))
    try:
        parser.feed(text)
        return parser.close()
    except ElementTree.ParseError as error:
        if error.code == _NO_MEMORY:
            raise MemoryError from None
        raise


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
        `read` does not accept it, or it is longer than `MAX_SIZE` or has more than `MAX_ELEMENTS`.
    """
    # Reading a person's file works without libvirt.
    from pyvirhost._errors import server_error

    if len(text) > MAX_SIZE:
        raise server_error(function, f"more than {MAX_SIZE} characters of XML")
    try:
        return read(text, MAX_ELEMENTS)
    except BoundError as error:
        raise server_error(function, str(error)) from None
    except (ElementTree.ParseError, ValueError) as error:
        raise server_error(function, f"XML that can't be read: {error}") from None
