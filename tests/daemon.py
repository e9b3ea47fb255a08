"""libvirt daemons of the suite's own: started by it, stopped by their process id."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pyvirhost

NOBODY = 65534
# Distributions differ in whether an ordinary user's PATH has these folders.
PATH = f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"

USER, PASSWORD = "fred", "s3cret"

CONFIGURATION = """\
unix_sock_dir = "{home}/run"
auth_unix_rw = "{auth}"
auth_unix_ro = "none"
listen_tcp = 1
listen_addr = "127.0.0.1"
tcp_port = "{port}"
auth_tcp = "{auth}"
listen_tls = {listen_tls}
tls_port = "{tls_port}"
auth_tls = "{auth}"
ca_file = "{home}/tls/cacert.pem"
cert_file = "{home}/tls/servercert.pem"
key_file = "{home}/tls/serverkey.pem"
"""

# Settings of a daemon that `stuck_worker` can keep from answering all but what is urgent.
ONE_WORKER = "max_workers = 1\nmin_workers = 1\n"

HANG = """\
#!/bin/sh
echo $$ >{pid}.new
mv {pid}.new {pid}
exec sleep 1000
"""

SASL = """\
mech_list: {mechanism}
auxprop_plugin: sasldb
sasldb_path: {home}/sasl/users
"""

# unshare would do this itself, but only where / is a mount. In a chroot it need not be one, and
# nsenter goes to the namespace's own.
PRIVATE_MOUNTS = """\
mount --make-rprivate / 2>/dev/null ||
    nsenter --mount=/proc/self/ns/mnt mount --make-rprivate /
"""

# With mounts of its own, where nothing of the system's libvirt is seen or changed, and where the
# users that a distribution's QEMU driver insists on exist.
ISOLATE = """\
home=$1
shift
for folder in /run /var/lib /var/cache /var/log $home/etc; do
    mount -t tmpfs tmpfs $folder
done
cp -a /etc/. $home/etc
rm -rf $home/etc/libvirt
for kind in passwd group; do
    cat >>$home/etc/$kind <<END
libvirt-qemu:x:64055:64055::/:/bin/false
qemu:x:64056:64056::/:/bin/false
END
done
mount --bind $home/etc /etc
exec "$@"
"""


def wait_until(condition, what, timeout=20.0):
    """Return `condition`'s first true answer, or fail after `timeout` seconds."""
    pause = threading.Event()
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {timeout} s in vain for {what}"
        pause.wait(0.005)
    return answer


def threads_named(name):
    """How many threads of this process the system knows by that name."""
    count = 0
    for path in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # it has just ended
            count += path.read_text() == f"{name}\n"
    return count


def with_own_mounts(script, *arguments):
    """Return the command that runs a shell script whose mounts nobody else sees."""
    return ["unshare", "--mount", "--propagation=unchanged", "sh", "-ec", PRIVATE_MOUNTS + script,
            "sh", *arguments]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Daemon:
    """A private libvirtd on a unix socket and on TCP, as a context manager.

    Run by root, it has no privileges unless `privileged`, and then a mount namespace of its own, so
    that it shares no state with a libvirtd of the system.

    With a SASL mechanism as `sasl` it wants to know `USER` by `PASSWORD`, on every socket. With
    the `authority` that signs its certificate and that of its clients (an `Authority`) it is on
    TLS, too, as `name`. `settings` are further lines of its configuration.
    """

    def __init__(self, privileged=False, sasl=None, authority=None, name="localhost",
                 settings=""):
        self.privileged = privileged
        self.sasl = sasl
        self.authority = authority
        self.name = name
        self.settings = settings
        # Short, since a unix socket's path has to fit into 107 bytes.
        self.home = Path(tempfile.mkdtemp(prefix="vh-"))
        self.run = self.home / "run"
        self.socket = self.run / "libvirt-sock"
        self.port = free_port()
        self.tls_port = free_port()

    def __enter__(self):
        (self.home / "conf").write_text(CONFIGURATION.format(
            home=self.home, port=self.port, tls_port=self.tls_port,
            auth="sasl" if self.sasl else "none", listen_tls=int(self.authority is not None))
            + self.settings)
        for name in ("run", "config", "cache", "state", "sasl", "tls", "etc"):
            (self.home / name).mkdir()
        if self.sasl is not None:
            self.write_user()
        if self.authority is not None:
            self.write_certificate()
        if os.geteuid() == 0 and not self.privileged:
            for path in (self.home, *self.home.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
        self.start()
        return self

    def write_user(self):
        folder = self.home / "sasl"
        (folder / "libvirt.conf").write_text(SASL.format(home=self.home, mechanism=self.sasl))
        subprocess.run(
            ["saslpasswd2", "-p", "-f", folder / "users", "-a", "libvirt", USER],
            input=PASSWORD, text=True, check=True, env={"PATH": PATH})

    def write_certificate(self):
        folder = self.home / "tls"
        (folder / "cacert.pem").write_text(self.authority.certificate)
        self.authority.issue(self.name, folder / "servercert.pem", folder / "serverkey.pem")

    def start(self):
        """Start the daemon, the first time or after its end."""
        command = ["libvirtd", "--listen", "-f", self.home / "conf", "-p", self.home / "pid"]
        # A suite that is killed takes its daemons along.
        start = ["setpriv", "--pdeathsig=KILL"]
        if self.privileged:
            start += with_own_mounts(ISOLATE, self.home)
        elif os.geteuid() == 0:
            start += [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        environment = {
            "PATH": PATH, "SASL_CONF_PATH": str(self.home / "sasl"),
            "HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.run),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "XDG_STATE_HOME": str(self.home / "state"),
        }
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*start, *command], env=environment, stdin=subprocess.DEVNULL, stdout=log,  # type: ignore[list-item]
                stderr=log)
        try:
            wait_until(self.answers, "the daemon's socket")
        except BaseException:
            self.process.kill()
            self.process.wait(10)
            raise

    def answers(self):
        assert self.process.poll() is None, (self.home / "log").read_text()
        addresses = [(socket.AF_UNIX, str(self.socket)),
                     (socket.AF_INET, ("127.0.0.1", self.port))]
        if self.authority is not None:
            addresses.append((socket.AF_INET, ("127.0.0.1", self.tls_port)))
        for family, address in addresses:
            with socket.socket(family) as probe:
                if probe.connect_ex(address):
                    return False
        return True

    def __exit__(self, *exception):
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        shutil.rmtree(self.home)

    @property
    def test_uri(self):
        return f"test+unix:///default?socket={self.socket}"

    @property
    def tcp_uri(self):
        return f"test+tcp://127.0.0.1:{self.port}/default"

    @property
    def tls_uri(self):
        return f"test+tls://localhost:{self.tls_port}/default"

    @property
    def qemu_uri(self):
        path = "system" if self.privileged else "session"
        return f"qemu+unix:///{path}?socket={self.socket}"


@contextlib.contextmanager
def stopped(daemon):
    """Let the daemon do nothing until the end of the block."""
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        daemon.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def stuck_worker(daemon):
    """Let the daemon's only ordinary worker wait for an emulator that never answers."""
    pid, emulator = daemon.home / "emulator.pid", daemon.home / "emulator"
    emulator.write_text(HANG.format(pid=pid))
    emulator.chmod(0o755)

    def ask():
        with pyvirhost.open(daemon.qemu_uri) as connection, contextlib.suppress(
                pyvirhost.LibvirtError):
            connection.compare_hypervisor_cpu(
                "<cpu/>", emulator=str(emulator), arch="x86_64", virttype="qemu")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        wait_until(pid.exists, "the daemon's worker to start the emulator")
        yield
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)
        thread.join(20)
