"""Answers that no sound server gives, made by a proxy out of sound ones."""

import pytest

import pyvirhost

GET_CPU_MAP, GET_CPU_STATS, GET_VERSION, COMPARE_CPU = 293, 227, 4, 158


def number(value, size=4):
    return value.to_bytes(size, "big")


@pytest.mark.parametrize(("bits", "present"), [
    (b"", 16), (b"\1", 10**8), (b"\1", 2**31 - 1), (b"", 1), (b"\xff" * 8, 100_000),
])
def test_a_cpu_map_that_is_shorter_than_it_says(proxy, bits, present):
    def shorten(procedure, body):
        if procedure != GET_CPU_MAP:
            return body
        return number(len(bits)) + bits + bytes(-len(bits) % 4) + number(1) + number(present)

    with pyvirhost.open(proxy.qemu_uri) as connection:
        proxy.change_reply = shorten
        with pytest.raises(pyvirhost.LibvirtError, match=r"too short for|more than 16384 CPUs"):
            connection.cpu_map()
        proxy.change_reply = None
        assert connection.cpu_map().online > 0


def test_a_host_without_cpus_teaches_nothing(proxy):
    def none(procedure, body):
        return number(0) * 3 if procedure == GET_CPU_MAP else body

    with pyvirhost.open(proxy.qemu_uri) as connection:
        fields = connection.cpu_stats().fields
        proxy.change_reply = none
        with pytest.raises(pyvirhost.LibvirtError, match="a host without any"):
            connection.per_cpu_stats()
        assert connection.cpu_stats().fields == fields


@pytest.mark.parametrize("rename", [False, True])
def test_rows_with_other_fields_are_not_mixed(proxy, rename):
    seen = []

    def change(procedure, body):
        # The reply is the fields, their number first and each a text and a number, and the number
        # of fields again.
        if procedure != GET_CPU_STATS or body[:4] == number(0):
            return body
        seen.append(body)
        if len(seen) != 2:
            return body
        if rename:
            return body.replace(b"kernel", b"lernek")
        size = int.from_bytes(body[4:8], "big")
        return number(1) + body[4:8 + (size + 3) // 4 * 4 + 8] + number(1)

    with pyvirhost.open(proxy.qemu_uri) as connection:
        connection.cpu_stats()
        if len(connection.cpu_map()) < 2:
            pytest.skip("one CPU has one row")
        proxy.change_reply = change
        with pytest.raises(pyvirhost.LibvirtError, match="whose fields are not the same"):
            connection.per_cpu_stats()


def test_numbers_that_are_too_large_stay_numbers(proxy):
    def change(procedure, body):
        if procedure == GET_VERSION:
            return number(2**63 - 1, 8)
        return number(77) if procedure == COMPARE_CPU else body

    with pyvirhost.open(proxy.qemu_uri) as connection:
        proxy.change_reply = change
        assert int(connection.version()) == 2**63 - 1
        result = connection.compare_cpu("<cpu/>")
        assert (type(result), result) == (int, 77)
