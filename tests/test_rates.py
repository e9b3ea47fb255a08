"""How busy CPUs were between two snapshots, whatever the counters do."""

import pickle

import pytest
from daemon import wait_until
from hostile import numbers, stats

import pyvirhost
from pyvirhost.rates import cpu_rates

GET_CPU_STATS, GET_CPU_MAP = 227, 293
FIELDS = ("cpu_stats", "per_cpu_stats")


def times(user=0, kernel=0, idle=0, iowait=0, **more):
    return {"user": user, "kernel": kernel, "idle": idle, "iowait": iowait, **more}


@pytest.fixture
def host(proxy):
    """A function that takes a snapshot of a host with the given times and CPUs online."""
    with pyvirhost.open(proxy.test_uri) as connection:
        def snapshot(values, cpus=(0, 2, 4)):
            reply = stats(*((name.encode(), value) for name, value in values.items()))
            bits = sum(1 << cpu for cpu in cpus)

            def change(procedure, body):
                if procedure == GET_CPU_STATS:
                    return body if body[:4] == numbers(0) else reply
                if procedure == GET_CPU_MAP:
                    return numbers(1) + bytes([bits, 0, 0, 0]) + numbers(len(cpus), 8)
                return body

            proxy.change_reply = change
            taken = connection.snapshot(FIELDS)
            assert not taken.errors
            return taken

        yield snapshot


def test_shares_of_the_time_in_between(host):
    rates = host(times(300, 200, 1400, 150)).rates(host(times(100, 100, 1000, 50)))
    assert rates.cpu == pyvirhost.CPURates(
        user=0.25, kernel=0.125, idle=0.5, iowait=0.125, intr=None, guest=None, busy=0.375)
    assert rates.per_cpu == dict.fromkeys((0, 2, 4), rates.cpu)


def test_the_first_sample_has_none(host):
    assert host(times(1, 2, 3, 4)).rates(None) is None


def test_equal_samples_have_none_and_no_nan(host):
    one = host(times(1, 2, 3, 4))
    assert one.rates(one).cpu is None
    assert host(times(1, 2, 3, 4)).rates(one).to_dict() == {
        "cpu": None, "per_cpu": {0: None, 2: None, 4: None}}


def test_iowait_and_idle_may_run_backwards():
    rates = cpu_rates(times(100, 100, 1000, 50), times(150, 100, 1050, 20))
    assert (rates.user, rates.idle, rates.iowait, rates.busy) == (0.5, 0.5, 0.0, 0.5)
    rates = cpu_rates(times(100, 100, 1000, 50), times(150, 150, 999, 50))
    assert (rates.user, rates.kernel, rates.idle, rates.busy) == (0.5, 0.5, 0.0, 1.0)


def test_after_a_reboot_there_is_none(host):
    rates = host(times(5, 5, 20, 1)).rates(host(times(1000, 1000, 5000, 10)))
    assert rates.cpu is None
    assert set(rates.per_cpu.values()) == {None}
    # Also where the host was idle for longer than it had been up before.
    assert cpu_rates(times(1000, 1000, 50, 10), times(5, 5, 9000, 1)) is None


def test_cpus_come_and_go(host):
    earlier = host(times(100, 100, 1000, 50), (0, 1, 2))
    rates = host(times(200, 100, 1000, 50), (0, 2, 4))
    per_cpu = rates.rates(earlier).per_cpu
    assert list(per_cpu) == [0, 2, 4]
    assert per_cpu[0].user == per_cpu[2].user == 1.0
    assert per_cpu[4] is None


def test_a_mode_that_only_one_sample_has_is_left_out():
    rates = cpu_rates(times(100, 0, 100, 0), times(200, 0, 200, 0, guest=500))
    assert (rates.user, rates.guest) == (0.5, None)


def test_a_guests_time_is_part_of_the_users():
    rates = cpu_rates(times(100, 0, 100, 0, guest=0), times(200, 0, 200, 0, guest=40))
    assert (rates.user, rates.guest, rates.idle, rates.busy) == (0.5, 0.2, 0.5, 0.5)


def test_a_driver_that_says_only_how_busy_it_is():
    rates = cpu_rates({"utilization": 10}, {"utilization": 25})
    assert (rates.busy, rates.idle, rates.user) == (0.25, 0.75, None)


def test_large_counters_lose_nothing():
    big = 2**64 - 1000
    rates = cpu_rates(times(big, 0, 0, 0), times(big + 300, 0, 100, 0))
    assert rates.user == 0.75


def test_a_snapshot_without_cpu_statistics_has_none(connection):
    one, other = (connection.snapshot(["free_memory"]) for _ in range(2))
    assert other.rates(one) == pyvirhost.HostRates(cpu=None, per_cpu=None)


def test_different_hosts_have_no_rates(connection, remote):
    with pytest.raises(ValueError, match="rates are of one host"):
        connection.snapshot(FIELDS).rates(remote.snapshot(FIELDS))
    for other in (5, connection.cpu_stats()):
        with pytest.raises(TypeError, match="rates are between HostSnapshots"):
            connection.snapshot(FIELDS).rates(other)


def test_a_real_host(qemu):
    first = qemu.snapshot(FIELDS)

    def busy():
        sum(range(10**6))  # about as long as a tick of the kernel's, which may miss it
        rates = qemu.snapshot(FIELDS).rates(first).cpu
        return rates if rates is not None and rates.busy > 0 else None

    rates = wait_until(busy, "the kernel to count CPU time")
    assert 0.0 < rates.busy <= 1.0
    assert rates.user + rates.kernel + rates.idle + rates.iowait == pytest.approx(1.0)


def test_rates_pickle(host):
    rates = host(times(2, 2, 2, 2)).rates(host(times(1, 1, 1, 1)))
    assert pickle.loads(pickle.dumps(rates)) == rates
