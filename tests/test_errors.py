"""libvirt's errors as exceptions: the right class, whole, and nothing on stderr."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
from daemon import Daemon, wait_until

import pyvirhost
from pyvirhost import constants


@pytest.mark.parametrize(("name", "builtin"), [
    ("NotSupportedError", NotImplementedError), ("InvalidArgumentError", ValueError),
    ("AccessDeniedError", PermissionError), ("AuthenticationError", PermissionError),
    ("ConnectionLostError", ConnectionError), ("OperationTimeoutError", TimeoutError),
    ("CPUIncompatibleError", Exception), ("ConnectionClosedError", ValueError),
])
def test_errors_are_also_what_a_python_programmer_would_catch(name, builtin):
    error_class = getattr(pyvirhost, name)
    assert issubclass(error_class, (pyvirhost.LibvirtError,))
    assert issubclass(error_class, builtin)
    error = error_class("why", code=constants.ErrorCode.XML_ERROR, str1="detail", int1=5)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is error_class
    assert (str(again), again.message, again.code, again.str1, again.int1, again.function) == (
        "why", "why", 27, "detail", 5, None)
    assert repr(error) == f"{name}('why')"
    assert error_class.__module__ == "pyvirhost"


def test_an_error_carries_all_that_libvirt_says(connection):
    with pytest.raises(pyvirhost.NotSupportedError) as caught:
        connection.memory_stats()
    error = caught.value
    assert str(error) == error.message == (
        "this function is not supported by the connection driver: virNodeGetMemoryStats")
    assert error.code is constants.ErrorCode.NO_SUPPORT
    assert isinstance(error.domain, constants.ErrorDomain)
    assert error.level is constants.ErrorLevel.ERROR
    assert error.str1.startswith("this function is not supported")
    assert error.str2 == "virNodeGetMemoryStats"
    assert (error.str3, error.int1, error.int2) == (None, -1, -1)
    assert error.function == "virNodeGetMemoryStats"


def test_the_traceback_ends_in_the_method_that_was_called(connection):
    with pytest.raises(pyvirhost.NotSupportedError) as caught:
        connection.sev_info()
    assert [entry.name.rpartition(".")[2] for entry in caught.traceback] == [
        "test_the_traceback_ends_in_the_method_that_was_called", "sev_info"]


@pytest.mark.parametrize(("uri", "error_class"), [
    ("nonsense", pyvirhost.InvalidArgumentError),
    ("://", pyvirhost.InvalidArgumentError),
    ("test:///default?x=%zz", pyvirhost.InvalidArgumentError),
    ("two words", pyvirhost.InvalidArgumentError),
    ("qemu+unix:///session?socket=/no/such/socket", pyvirhost.LibvirtError),
    ("test+tcp://127.0.0.1:1/default", pyvirhost.LibvirtError),
    ("test+nonsense:///default", pyvirhost.LibvirtError),
])
def test_opening_nonsense_is_an_error_that_names_it(uri, error_class):
    with pytest.raises(error_class) as caught:
        pyvirhost.open(uri)
    assert caught.value.message
    assert caught.value.function == "virConnectOpenAuth"


def test_wrong_credentials_are_an_authentication_error(tmp_path, monkeypatch):
    node, auth = tmp_path / "node.xml", tmp_path / "auth"
    node.write_text("<node><auth><user password='right'>her</user></auth></node>")
    auth.write_text("[credentials-x]\nusername=her\npassword=wrong\n"
                    "[auth-test-default]\ncredentials=x\n")
    monkeypatch.setenv("LIBVIRT_AUTH_FILE", str(auth))
    with pytest.raises(pyvirhost.AuthenticationError) as caught:
        pyvirhost.open(f"test://{node}")
    assert caught.value.code == constants.VIR_ERR_AUTH_FAILED
    assert "wrong" not in str(caught.value)


def test_a_cpu_that_the_host_cannot_run(qemu):
    cpu = "<cpu><arch>x86_64</arch><model>Haswell</model><feature name='3dnow'/></cpu>"
    assert qemu.compare_cpu(cpu) is pyvirhost.CPUCompareResult.INCOMPATIBLE
    with pytest.raises(pyvirhost.CPUIncompatibleError) as caught:
        qemu.compare_cpu(
            cpu, pyvirhost.CompareCPUFlags.FAIL_INCOMPATIBLE)
    assert caught.value.code == constants.VIR_ERR_CPU_INCOMPATIBLE


@pytest.mark.parametrize("xml", ["", "junk", "<cpu", "<other/>", "<cpu>" * 300])
def test_xml_that_describes_no_cpu_is_an_error(qemu, connection, xml):
    with pytest.raises(pyvirhost.LibvirtError):
        qemu.compare_cpu(xml)
    with pytest.raises(pyvirhost.LibvirtError):
        qemu.baseline_cpu([xml])
    with pytest.raises(pyvirhost.LibvirtError):
        qemu.compare_hypervisor_cpu(xml, virttype="qemu")
    with pytest.raises(pyvirhost.LibvirtError):
        connection.baseline_cpu([xml, "<cpu/>"])


def test_numbers_out_of_range_are_invalid_arguments(qemu):
    for call in (
        lambda: qemu.cpu_stats(9999), lambda: qemu.cpu_stats(-2), lambda: qemu.memory_stats(999),
        lambda: qemu.memory_stats(-2), lambda: qemu.cells_free_memory(999),
        lambda: qemu.cells_free_memory(-1), lambda: qemu.cells_free_memory(0, 0),
        lambda: qemu.cells_free_memory(0, -1), lambda: qemu.free_pages([4], 999),
        lambda: qemu.free_pages([4], 0, 0),
        lambda: qemu.cpu_map(flags=1), lambda: qemu.cpu_stats(flags=1),
        lambda: qemu.cpu_model_names("no-such-arch"),
    ):
        with pytest.raises(pyvirhost.InvalidArgumentError) as caught:
            call()
        assert isinstance(caught.value, ValueError)
    # What was learned before still holds.
    assert qemu.cpu_stats().user > 0


def test_cells_out_of_range_are_invalid_arguments_of_every_call(qemu):
    for call in (lambda: qemu.free_pages([4], -2), lambda: qemu.free_pages([4], -(2**31)),
                 lambda: qemu.free_pages([4], 2**31 - 1), lambda: qemu.alloc_pages({2048: 0}, 99)):
        with pytest.raises(pyvirhost.InvalidArgumentError):
            call()


def test_looking_for_the_cells_does_not_replace_the_error(proxy):
    cells_free_memory = 101
    with pyvirhost.open(proxy.qemu_uri) as connection:
        connection.cells_free_memory()

        def close_in_reply(procedure, body):
            if procedure == cells_free_memory:
                connection.close()
            return body

        proxy.change_reply = close_in_reply
        with pytest.raises(pyvirhost.LibvirtError, match="start cell 5 out of range"):
            connection.cells_free_memory(5)


def test_errors_at_the_interpreters_end_are_the_same():
    program = textwrap.dedent("""
        import pyvirhost

        class Last:
            def __init__(self):
                self.connection = pyvirhost.open("test:///default")

            def __del__(self):
                try:
                    self.connection.memory_stats()
                except NotImplementedError as error:
                    print(type(error).__name__, error.code)
                self.connection.close()
                try:
                    self.connection.memory_stats()
                except ValueError as error:
                    print(type(error).__name__, error.code)

        last = Last()
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          timeout=60, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert (done.returncode, done.stdout, done.stderr) == (
        0, "NotSupportedError 3\nConnectionClosedError 6\n", "")


def test_a_page_size_that_the_host_lacks_is_an_error(qemu):
    with pytest.raises(pyvirhost.LibvirtError, match="page size 12345"):
        qemu.free_pages([4, 12345])


@pytest.mark.parametrize("uri", ["test_uri", "tcp_uri", "qemu_uri"])
def test_a_daemon_that_is_killed_is_a_lost_connection(uri):
    with Daemon() as daemon:
        connection = pyvirhost.open(getattr(daemon, uri))
        assert connection.node_info().cpus > 0
        daemon.process.kill()
        daemon.process.wait(10)
        for call in (connection.ping, connection.node_info, connection.cpu_stats,
                     connection.free_memory, connection.cells_free_memory):
            with pytest.raises(pyvirhost.ConnectionLostError) as caught:
                call()
            assert isinstance(caught.value, ConnectionError)
            assert str(caught.value).startswith(f"the connection to {connection.uri()} is lost")
            assert caught.value.message in str(caught.value)
        assert connection.is_alive() is False
        assert not connection.closed
        connection.close()


@pytest.mark.thread_unsafe(reason="kills the daemon")
def test_a_daemon_killed_in_mid_call_is_a_lost_connection(own_daemon):
    with pyvirhost.open(own_daemon.test_uri) as connection:
        own_daemon.process.send_signal(signal.SIGSTOP)
        caught = []

        def call():
            try:
                connection.node_info()
            except pyvirhost.LibvirtError as error:
                caught.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        own_daemon.process.kill()
        thread.join(20)
        assert [type(error) for error in caught] == [pyvirhost.ConnectionLostError]


@pytest.mark.thread_unsafe(reason="sets the garbage collector")
def test_an_error_survives_a_finaliser_that_closes_another_connection(connection, daemon):
    # Making the exception allocates, allocation collects garbage, and the garbage has a finaliser
    # whose own call to libvirt succeeds and wipes this thread's error.
    class Closer:
        def __init__(self, other):
            self.other = other
            self.cycle = self

        def __del__(self):
            self.other.close()
            closed.append(threading.current_thread())

    closed = []
    threshold = gc.get_threshold()
    try:
        for turn in range(1, 6):
            other = pyvirhost.open(daemon.test_uri)
            # Empties the free lists, too: what comes from those does not count as allocated.
            gc.collect()
            gc.disable()
            gc.set_threshold(1)
            Closer(other)
            with pytest.raises(pyvirhost.NotSupportedError, match="virNodeGetMemoryStats"):
                # From here on the next allocation collects.
                gc.enable() or connection.memory_stats()
            # By now, and by no other thread, whose collection would keep this one from its own.
            # Without the GIL CPython counts allocations by the hundred.
            if getattr(sys, "_is_gil_enabled", lambda: True)():
                assert closed == [threading.current_thread()] * turn
    finally:
        gc.enable()
        gc.set_threshold(*threshold)
    gc.collect()
    assert len(closed) == 5


def test_errors_stay_with_their_thread(connection):
    start = threading.Barrier(4)
    wrong = []

    def fail(name, expected):
        start.wait()
        for _ in range(300):
            try:
                getattr(connection, name)()
            except pyvirhost.NotSupportedError as error:
                if error.str2 != expected:
                    wrong.append((expected, error.str2))

    threads = [threading.Thread(target=fail, args=arguments) for arguments in (
        ("memory_stats", "virNodeGetMemoryStats"), ("sev_info", "virNodeGetSEVInfo"),
        ("memory_parameters", "virNodeGetMemoryParameters"), ("free_memory", None))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


@pytest.mark.thread_unsafe(reason="changes what the server says")
def test_no_memory_left_is_no_error(proxy):
    free_memory = 102

    def none_left(procedure, body):
        return bytes(len(body)) if procedure == free_memory else body

    with pyvirhost.open(proxy.test_uri) as connection:
        proxy.change_reply = none_left
        assert connection.free_memory() == 0
        proxy.change_reply = None
        assert connection.free_memory() == 3145728


@pytest.mark.thread_unsafe(reason="kills the daemon")
def test_free_memory_tells_an_error_from_none_left(own_daemon):
    with pyvirhost.open(own_daemon.test_uri) as connection:
        own_daemon.process.kill()
        with pytest.raises(pyvirhost.ConnectionLostError):
            connection.free_memory()


def test_nothing_is_printed(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent("""
        import sys
        import pyvirhost

        def fails(call, *arguments):
            try:
                call(*arguments)
            except pyvirhost.LibvirtError:
                return
            sys.exit(f"{call} did not fail")

        fails(pyvirhost.open, "nonsense")
        fails(pyvirhost.open, "://")
        fails(pyvirhost.open, "test+unix:///default?socket=/no/such/socket")
        with pyvirhost.open("test:///default") as connection:
            fails(connection.memory_stats)
            fails(connection.baseline_cpu, ["junk"])
            fails(connection.cells_free_memory, 7)
    """))
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60,
                          cwd=os.path.dirname(os.path.dirname(pyvirhost.__file__)),
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_waiting_has_a_bound():
    with pytest.raises(AssertionError, match=r"in vain for nothing"):
        wait_until(lambda: False, "nothing", timeout=0.02)
