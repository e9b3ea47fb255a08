"""Do to pyvirhost and to libvirt-python what a bad day does, and print what becomes of each.

Run it as ``python tests/survives.py``, in the environment that ``make test`` made.
"""

import os
import signal
import subprocess
import sys
import textwrap

from daemon import Daemon

# fault -> the same program for each; sys.argv has the URI and the daemon's process id
FAULTS = {
    "closed by one thread while 16 call": {
        "pyvirhost": """
            for turn in range(200):
                connection = pyvirhost.open(uri if turn % 2 else "test:///default")
                called = threading.Semaphore(0)
                def call():
                    try:
                        while True:
                            connection.node_info()
                            called.release()
                    except pyvirhost.ConnectionClosedError:
                        pass
                threads = [threading.Thread(target=call) for _ in range(16)]
                for thread in threads: thread.start()
                for _ in range(50): called.acquire()
                connection.close()
                for thread in threads: thread.join()
            print("ConnectionClosedError")
        """,
        "libvirt-python": """
            for turn in range(200):
                connection = libvirt.open(uri if turn % 2 else "test:///default")
                called = threading.Semaphore(0)
                def call():
                    try:
                        while True:
                            connection.getInfo()
                            called.release()
                    except libvirt.libvirtError:
                        pass
                threads = [threading.Thread(target=call) for _ in range(16)]
                for thread in threads: thread.start()
                for _ in range(50): called.acquire()
                connection.close()
                for thread in threads: thread.join()
            print("libvirtError")
        """,
    },
    "used and closed in a forked child": {
        "pyvirhost": """
            connection = pyvirhost.open(uri)
            if os.fork() == 0:
                try:
                    connection.node_info()
                except pyvirhost.ConnectionClosedError:
                    connection.close()
                os._exit(0)
            os.wait()
            connection.node_info()
            print("the child gets an error, the parent goes on")
        """,
        "libvirt-python": """
            connection = libvirt.open(uri)
            if os.fork() == 0:
                connection.getInfo()
                connection.close()
                os._exit(0)
            os.wait()
            connection.getInfo()
            print("both go on")
        """,
    },
    "closed 100 times with a close callback": {
        "pyvirhost": """
            before = len(os.listdir("/proc/self/fd"))
            pyvirhost.EventLoop().start()
            for _ in range(100):
                connection = pyvirhost.open(uri)
                connection.register_close_callback(lambda *_: None)
                connection.close()
            pyvirhost.EventLoop().stop()
            print(len(os.listdir("/proc/self/fd")) - before > 50 and "100 sockets stay open"
                  or "all is freed")
        """,
        "libvirt-python": """
            before = len(os.listdir("/proc/self/fd"))
            libvirt.virEventRegisterDefaultImpl()
            def loop():
                while True: libvirt.virEventRunDefaultImpl()
            threading.Thread(target=loop, daemon=True).start()
            for _ in range(100):
                connection = libvirt.open(uri)
                connection.registerCloseCallback(lambda *_: None, None)
                connection.close()
            time.sleep(1)
            print(len(os.listdir("/proc/self/fd")) - before > 50 and "100 sockets stay open"
                  or "all is freed", flush=True)
            os._exit(0)
        """,
    },
    "opened while the daemon is stopped": {
        "pyvirhost": """
            os.kill(pid, signal.SIGSTOP)
            try:
                pyvirhost.open(uri, timeout=1)
            except pyvirhost.OperationTimeoutError:
                print("OperationTimeoutError after timeout=1")
        """,
        "libvirt-python": """
            os.kill(pid, signal.SIGSTOP)
            libvirt.open(uri)
        """,
    },
    "asked after close": {
        "pyvirhost": """
            connection = pyvirhost.open(uri)
            connection.close()
            try:
                connection.free_memory()
            except pyvirhost.ConnectionClosedError:
                print("ConnectionClosedError")
        """,
        "libvirt-python": """
            connection = libvirt.open(uri)
            connection.close()
            print("getFreeMemory() returns", connection.getFreeMemory())
        """,
    },
    "given a number for XML": {
        "pyvirhost": """
            connection = pyvirhost.open(uri)
            try:
                connection.baseline_hypervisor_cpu([5])
            except TypeError:
                print("TypeError")
            connection.close()
        """,
        "libvirt-python": """
            connection = libvirt.open(uri)
            try:
                connection.baselineHypervisorCPU(None, None, None, None, [5])
            except TypeError:
                print("TypeError")
        """,
    },
    "given no authentication that makes sense": {
        "pyvirhost": """
            try:
                pyvirhost.open(uri, auth=("user", "password"))
            except TypeError:
                print("TypeError")
        """,
        "libvirt-python": """
            try:
                libvirt.openAuth(uri, (1, 2, 3), 0)
            except TypeError:
                print("TypeError")
        """,
    },
}
MODULES = {"pyvirhost": "pyvirhost", "libvirt-python": "libvirt"}


def outcome(library, program, daemon):
    """What becomes of a program: what it prints, its death, or that it does not end."""
    text = (f"import os, signal, sys, threading, time, {MODULES[library]}\n"
            f"uri, pid = sys.argv[1], int(sys.argv[2])\n{textwrap.dedent(program)}")
    try:
        done = subprocess.run(
            [sys.executable, "-c", text, daemon.test_uri, str(daemon.process.pid)],
            capture_output=True, text=True, timeout=30,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])})
    except subprocess.TimeoutExpired:
        return "hangs"
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    if done.returncode < 0:
        return f"dies of {signal.Signals(-done.returncode).name}"
    if done.returncode > 0:
        return f"fails: {done.stderr.strip().splitlines()[-1]}"
    return done.stdout.strip()


def main():
    print("| fault | " + " | ".join(MODULES) + " |\n|---|---|---|")
    for fault, programs in FAULTS.items():
        row = []
        for library, program in programs.items():
            with Daemon() as daemon:
                row.append(outcome(library, program, daemon))
        print(f"| {fault} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
