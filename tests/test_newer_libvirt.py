"""What a libvirt brings that is newer than the one that the package was built with."""

import pyvirhost


def test_a_new_field_of_the_cpu_statistics_is_read(connection):
    stats = connection.cpu_stats()
    assert ("guest" in stats.fields) == (connection.lib_version() >= (11, 8, 0))
    assert ("guest" in stats.fields) == isinstance(stats.guest, int)
    assert ("guest" in stats.fields) == ("guest" in stats.in_seconds())


def test_a_new_field_of_the_memory_statistics_is_read(qemu):
    for stats in (qemu.memory_stats(), qemu.snapshot(["memory_stats"]).memory_stats):
        assert ("available" in stats.fields) == (qemu.lib_version() >= (12, 3, 0))
        assert ("available" in stats.fields) == isinstance(stats.available, int)
        assert ("available" in stats.fields) == ("available" in stats.in_bytes())


def test_constants_of_a_new_libvirt_are_there_with_any():
    assert pyvirhost.constants.VIR_NODE_CPU_STATS_GUEST == "guest"
    assert pyvirhost.constants.VIR_NODE_MEMORY_STATS_AVAILABLE == "available"
    assert pyvirhost.BaselineCPUFlags.IGNORE_HOST == 4
