"""Command lines of real options with odd values, and hosts files that are nearly right."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from daemon import Daemon

import pyvirhost
from fuzz import xml
from fuzz.answers import Lying
from fuzz.odd import CPU, TEXTS

COMMAND = [sys.executable, "-m", "pyvirhost"]
VALUES = (*[text for text in TEXTS if "\0" not in text], "0", "1", "-1", "4", "2", "2048", "4KiB",
          "2M", "1.5", "1e-9", "1e400", "nan", "inf", "5:3", "5:-1", "off", "0:0", "9" * 40, "all",
          "bash", "node_info,cpu_stats", "node_info,", ",", "--", "-", "=", "\udcff", "\u0663")
OPTION = re.compile(r"(?<![\w-])(-{1,2}[a-zA-Z][\w-]*)(?: ([A-Z][\w:.,|=]*|\{))?")
LISTED = re.compile(r"^  ([a-z][a-z-]+)  +\S", re.MULTILINE)
# What goes on until it is stopped, or asks before it does.
GOES_ON = ("--watch", "--interval", "poll", "top", "--delay", "-n")
# Seconds until such a command gets a Ctrl-C, and those that any other may take.
A_WHILE, LONG = 1.0, 60

HOSTS = """\
# hosts
[hosts]
alpha = "test:///default"
"beta 2" = { uri = "test:///default", readonly = true, keepalive = "5:3" }

[hosts.gamma]
uri = "test:///default"
timeout = 2.5
keepalive = "off"
"""
PIECES = ("", "[", "]", "[hosts]", "[hosts.alpha]", "=", "{", "}", '"', "'", "#", "\n", "\r", "\0",
          "true", "1", "-1", "1e999", "nan", "inf", "9" * 5000, "[[hosts]]", '"5:3"', '"off"', '""',
          "1979-05-27T07:32:00Z", "\ufeff", "\udcff", "a.b.c = 1", '"""', "[" * 2000, '"\\ud800"',
          '"test:///default"', "uri", "timeout", "keepalive", "readonly", "x = 1")
TOKEN = re.compile(r"\w+|\s|.")


def odd_hosts(random):
    pieces = [*TOKEN.findall(HOSTS), "\n"]
    for _ in range(random.choice((0, 1, 1, 2, 5))):
        place = random.randrange(len(pieces))
        pieces[place:place + random.choice((0, 1, 1, 4))] = random.choice(
            ([random.choice(PIECES)], [], pieces[place:place + 20] * 2))
    return "".join(pieces).encode("utf-8", "surrogateescape")


class Commands:
    def __init__(self, daemon, folder):
        self.daemon = daemon
        self.folder = Path(folder)
        self.helps = {}
        self.commands = sorted({*LISTED.findall(self.help())} - {"pyvirhost"})  # of the examples
        assert {"nodeinfo", "freecell", "poll"} <= {*self.commands}, self.help()

    def help(self, *command):
        if command not in self.helps:
            self.helps[command] = subprocess.run(
                [*COMMAND, *command, "--help"], capture_output=True, text=True, check=True,
                timeout=LONG).stdout
        return self.helps[command]

    def step(self, random):
        with Lying(self.daemon) as server:
            server.random, server.share = random, random.choice((0, 0, 0.3))
            self.run(random, self.words(random, server))

    def words(self, random, server):
        command = random.choice(self.commands)
        options = OPTION.findall(self.help(command))
        words = []
        for option, value in random.sample(options, min(len(options), random.choice((0, 1, 2, 4)))):
            if option in ("-c", "--connect", "--hosts"):
                continue
            words.append(option)
            if value or random.random() < 0.1:
                words.append(random.choice(VALUES))
        words += random.sample(VALUES, random.choice((0, 0, 1, 2)))
        if command.endswith(("baseline", "compare")) and random.random() < 0.8:
            words.append(self.file("cpu.xml", xml.mutated(random, CPU * 3).encode(
                "utf-8", "surrogatepass")))
        for _ in range(random.choice((0, 1, 1, 2))):
            words += ["-c", random.choice(("test:///default", server.test_uri, server.test_uri,
                                           "test:///none", random.choice(TEXTS)))]
        if random.random() < 0.3:
            words += ["--hosts", self.file("hosts.toml", odd_hosts(random))]
        words.insert(random.choice((0, 0, 0, len(words))), command)
        # One in which an argument has a NUL can't be made.
        return [word.replace("\0", "").encode("utf-8", "surrogateescape").decode(
            "utf-8", "surrogateescape") for word in words if "\ud800" not in word]

    def file(self, name, content):
        path = self.folder / name
        path.write_bytes(content)
        return str(path)

    def run(self, random, words):
        goes_on = any(word.startswith(GOES_ON) for word in words)
        process = subprocess.Popen(
            [*COMMAND, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, cwd=self.folder, env=os.environ | {
                "COLUMNS": random.choice(("80", "1", "0", "x", "100000")),
                "TERM": random.choice(("dumb", "xterm", ""))})
        interrupted = False
        try:
            stdout, stderr = process.communicate(timeout=A_WHILE if goes_on else LONG)
        except subprocess.TimeoutExpired:
            assert goes_on, f"{words} does not end"
            interrupted = True
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=LONG)
        finally:
            process.kill()
            process.wait()
        about = f"{words} ends with {process.returncode}: {stderr.decode(errors='replace')[-3000:]}"
        ends = (0, 1, 2, 130, -signal.SIGINT) if interrupted else (0, 1, 2)
        assert process.returncode in ends, about
        for sign in (b"Traceback", b"Error:", b"Exception ignored", b"Fatal", b"Segmentation"):
            if sign == b"Error:" and process.returncode:
                continue  # an error's kind may be part of what is told
            assert sign not in stderr, about
        assert process.returncode == 0 or interrupted or stdout or stderr, about
        if "--json" in words and process.returncode == 0 and not goes_on and (
                "--help" not in words and "-h" not in words):
            with contextlib.suppress(ValueError):
                json.loads(stdout, parse_constant=self.refuse)

    def refuse(self, constant):
        raise AssertionError(f"{constant} in JSON")


@contextlib.contextmanager
def prepare():
    pyvirhost.initialize()
    with Daemon() as daemon, tempfile.TemporaryDirectory(prefix="vh-") as folder:
        yield Commands(daemon, folder).step
