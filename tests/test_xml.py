"""XML of a server that means harm costs no more than it is worth, and is an error of libvirt's."""

import platform

import pytest

import pyvirhost
from pyvirhost._xml import MAX_DEPTH, MAX_ELEMENTS, MAX_SIZE, parse

NAME = "virConnectGetCapabilities"
LAUGHS = "<!DOCTYPE a [<!ENTITY b0 'ha'>" + "".join(
    f"<!ENTITY b{i} '{f'&b{i - 1};' * 10}'>" for i in range(1, 12)) + "]><a>&b11;</a>"


def nested(depth):
    return "<a>" * depth + "</a>" * depth


@pytest.mark.parametrize(("text", "problem"), [
    (LAUGHS, "XML with a document type"),
    ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "XML with a document type"),
    (nested(MAX_DEPTH + 1), "XML nested deeper than 100 elements"),
    (nested(500_000), "XML nested deeper than 100 elements"),
    ("<a>" + "<a/>" * MAX_ELEMENTS + "</a>", "XML of more than 200000 elements"),
    (f"<a>{'a' * MAX_SIZE}</a>", "more than 4194304 characters of XML"),
    ("", "XML that can't be read: no element found"),
    ("<a>", "XML that can't be read: no element found"),
    ("<a></b>", "XML that can't be read: mismatched tag"),
    ("<a>\0</a>", "XML that can't be read: not well-formed"),
    ("<a>\ud800</a>", "XML that can't be read: .*surrogates not allowed"),
    ("<a>&b;</a>", "XML that can't be read: undefined entity"),
], ids=["laughs", "file", "deep", "deepest", "wide", "long", "empty", "open", "crossed", "nul",
        "surrogate", "undeclared"])
def test_xml_that_is_refused(text, problem):
    with pytest.raises(pyvirhost.LibvirtError, match=problem) as caught:
        parse(text, NAME)
    assert type(caught.value) is pyvirhost.LibvirtError
    assert caught.value.function == NAME
    assert caught.value.code == pyvirhost.ErrorCode.RPC


def test_xml_up_to_its_bounds_is_read():
    assert len(list(parse(nested(MAX_DEPTH), NAME).iter())) == MAX_DEPTH
    assert len(parse("<a>" + "<a/>" * (MAX_ELEMENTS - 1) + "</a>", NAME)) == MAX_ELEMENTS - 1
    text = "ä" * (MAX_SIZE - 50)
    assert parse(f"<?xml version='1.0' encoding='utf-16'?><a>{text}</a>", NAME).text == text
    assert parse("<a b='c'><d/>&lt;</a>", NAME).get("b") == "c"


def test_real_capabilities_are_read(qemu):
    assert parse(qemu.capabilities(), NAME).findtext("host/cpu/arch") == platform.machine()
