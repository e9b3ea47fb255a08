"""The screens of ``top``, which need textual, the extra ``pyvirhost[top]``."""

import argparse
import asyncio
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import Resize
from textual.geometry import Size
from textual.screen import Screen
from textual.widgets import Footer, Input, Static

from pyvirhost.cli.ending import Interruption, caught_signals
from pyvirhost.cli.output import WRONG_COMMAND_LINE, fail, on_terminal
from pyvirhost.cli.text import counted, printable
from pyvirhost.cli.top.model import State, Watch, Watched
from pyvirhost.cli.top.rows import (
    BY_NAME,
    COLUMNS,
    CPU_COLUMNS,
    cell_columns,
    cell_numbers,
    cell_row,
    cpu_numbers,
    cpu_row,
    host_lines,
    host_row,
    ordered,
)
from pyvirhost.cli.top.table import Table
from pyvirhost.poll.host import Host

REFRESH = 0.5
"""How often the screen is updated, in seconds."""
LEAST = Size(60, 10)
"""The smallest terminal that fits the table."""


def top(hosts: Sequence[Host], arguments: argparse.Namespace) -> int:
    """Show the hosts until somebody quits and return the exit status."""
    if not (on_terminal(sys.stdin) and on_terminal(sys.stdout)):
        return fail("top needs a terminal; programs can use poll", WRONG_COMMAND_LINE)
    watch = Watch(hosts, arguments.interval, workers=arguments.parallel,
                  max_connects=arguments.parallel)
    app = Top(watch)
    with watch:
        app.note_signals()
        ended_by = app.run()
    if ended_by is not None:
        raise Interruption(ended_by)
    return app.return_code or 0


class FittingScreen(Screen[None]):
    """A screen that says so if the terminal is too small for it."""

    DEFAULT_CSS = """
    FittingScreen > #small { display: none; }
    FittingScreen.small > * { display: none; }
    FittingScreen.small > #small { display: block; }
    """

    def compose(self) -> ComposeResult:
        """Yield the message that replaces the rest."""
        yield Static(f"This terminal is too small: top needs {LEAST.width} columns and "
                     f"{LEAST.height} lines. Press q to quit.", id="small", markup=False)

    def on_resize(self, event: Resize) -> None:
        """Check whether the terminal is too small."""
        self.set_class(event.size.width < LEAST.width or event.size.height < LEAST.height, "small")


class HostsScreen(FittingScreen):
    """The table of all hosts."""

    CSS = """
    #summary { height: 1; }
    #filter { dock: bottom; height: 1; border: none; padding: 0; display: none; }
    #filter.open { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "Details"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("p", "pause", "Pause"),
        Binding("q", "app.quit", "Quit"),
        *(Binding(column.key, f"sort('{column.name}')", column.title)
          for column in COLUMNS if column.key),
        Binding("escape", "show_all", show=False),
    ]

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watching = watch
        self.column = BY_NAME["host"]
        self.reverse = False
        self.paused = False
        self.wanted = ""

    def compose(self) -> ComposeResult:
        """Yield the parts of the screen."""
        yield from super().compose()
        yield Static(id="summary", markup=False)
        yield Table(COLUMNS, id="hosts")
        yield Input(placeholder="part of a host's name", id="filter")
        yield Footer()

    def on_mount(self) -> None:
        """Start to follow the hosts."""
        self.table = self.query_one("#hosts", Table)
        self.summary = self.query_one("#summary", Static)
        self.input = self.query_one("#filter", Input)
        self.table.focus()
        self.follow_hosts()
        self.set_interval(REFRESH, self.follow_hosts)

    def follow_hosts(self) -> None:
        """Show the hosts' new samples, and how old the last ones are."""
        if not self.paused:
            self.watching.take()
        self.show()

    def show(self) -> None:
        """Show the hosts as they are now."""
        now, limit = time.monotonic(), self.watching.limit
        every = self.watching.hosts.values()
        hosts = ordered(every, self.column, reverse=self.reverse, wanted=self.wanted)
        down = self.column.descending != self.reverse
        self.table.title({self.column.name: ("▼" if down else "▲") + self.column.title})
        self.table.show(hosts, lambda host: host_row(host, now, limit))
        counts = dict.fromkeys(State, 0)
        for host in every:
            counts[host.state(now, limit)] += 1
        parts = [f"{counted(len(every), 'host')} every {self.watching.interval:g} s",
                 *(f"{count} {state}" for state, count in counts.items() if count)]
        if self.wanted:
            parts.append(f"{len(hosts)} with {printable(self.wanted)!r}")
        if self.paused:
            parts.append("PAUSED")
        self.summary.update("  ".join(parts), layout=False)

    def action_sort(self, name: str) -> None:
        """Sort by a column, the second time in reverse."""
        column = BY_NAME[name]
        self.reverse = column is self.column and not self.reverse
        self.column = column
        self.show()

    def action_pause(self) -> None:
        """Stop taking samples, or resume; what is shown keeps aging."""
        self.paused = not self.paused
        self.follow_hosts()

    def action_filter(self) -> None:
        """Ask for part of a name to filter by."""
        self.input.add_class("open")
        self.input.focus()

    def action_show_all(self) -> None:
        """Show all hosts again."""
        self.input.value = ""
        self.close_filter()

    def action_choose(self) -> None:
        """Show the host under the cursor, or filter by what was typed."""
        self.table.action_choose()

    def close_filter(self) -> None:
        """Give the keys back to the table."""
        self.input.remove_class("open")
        self.table.focus()

    @on(Input.Changed)
    def filter_as_typed(self, event: Input.Changed) -> None:
        """Show the hosts that match what was typed so far."""
        self.wanted = event.value
        self.show()

    @on(Input.Submitted)
    def filter_typed(self) -> None:
        """Keep the filter."""
        self.close_filter()

    @on(Table.Chosen)
    def look_closely(self, event: Table.Chosen) -> None:
        """Show more of a host."""
        self.app.push_screen(HostScreen(event.row, self.watching.closer(event.row.name)))


class HostScreen(FittingScreen):
    """One host: its cells and CPUs, read by a separate poller while it is shown."""

    CSS = """
    #lines { height: auto; }
    #cells { height: auto; max-height: 40%; margin-top: 1; }
    #cpus { height: 1fr; margin-top: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.pop_screen", "Back"),
        Binding("p", "pause", "Pause"),
        Binding("q", "app.quit", "Quit"),
    ]

    def __init__(self, host: Watched, watch: Watch) -> None:
        super().__init__()
        self.watching = watch
        self.host = watch.hosts[host.name]
        self.paused = False

    def compose(self) -> ComposeResult:
        """Yield the parts of the screen."""
        yield from super().compose()
        yield Static(id="lines", markup=False)
        yield Table([], id="cells")
        yield Table(CPU_COLUMNS, id="cpus")
        yield Footer()

    def on_mount(self) -> None:
        """Start to read the host."""
        self.watching.start()
        self.lines = self.query_one("#lines", Static)
        self.cells = self.query_one("#cells", Table)
        self.cpus = self.query_one("#cpus", Table)
        self.cpus.focus()
        self.follow_host()
        self.set_interval(REFRESH, self.follow_host)

    def on_unmount(self) -> None:
        """Stop reading the host, which may take a while if it hangs."""
        threading.Thread(target=self.watching.stop).start()

    def follow_host(self) -> None:
        """Show the host's new samples, and how old the last one is."""
        if not self.paused:
            self.watching.take()
        host, now, limit = self.host, time.monotonic(), self.watching.limit
        lines = host_lines(host, now, limit)
        if self.paused:
            lines[0] = (f"{lines[0][0]}  PAUSED", lines[0][1])
        self.lines.update(Content("\n").join(
            Content.styled(text, colour) for text, colour in lines))
        state = host.state(now, limit)
        self.cells.columns = cell_columns(host)
        self.cells.show(cell_numbers(host),
                        lambda cell: cell_row(host, cell)._replace(state=state))
        self.cpus.show(cpu_numbers(host), lambda cpu: cpu_row(host, cpu)._replace(state=state))

    def action_pause(self) -> None:
        """Stop taking samples, or resume."""
        self.paused = not self.paused
        self.follow_host()


class Top(App[int]):
    """The live table; returns the number of the signal that ended it, if any."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "quit", show=False, priority=True),
        Binding("q", "quit", show=False),
    ]

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watching = watch
        self.signals = caught_signals()
        self.ended_by: int | None = None

    def note_signals(self) -> None:
        """Note a signal that comes before the screen is up, to end it then."""
        def note(number: int, frame: object) -> None:
            self.ended_by = number

        for number in self.signals:
            signal.signal(number, note)

    def on_mount(self) -> None:
        """Show the hosts, and exit cleanly on a signal."""
        for number in self.signals:
            asyncio.get_running_loop().add_signal_handler(number, self.exit, number)
        if self.ended_by is not None:
            self.exit(self.ended_by)
        self.push_screen(HostsScreen(self.watching))
