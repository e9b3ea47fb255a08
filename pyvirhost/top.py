"""The command ``top``: a live table of hosts that fills the terminal.

Only this needs textual, the extra ``pyvirhost[top]``. What it shows is made in `pyvirhost.watch`.
"""

import argparse
import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import Click, Resize
from textual.geometry import Size
from textual.message import Message
from textual.screen import Screen
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Footer, Input, Static

import pyvirhost
from pyvirhost.cli import WRONG_COMMAND_LINE, fail
from pyvirhost.hosts import Host
from pyvirhost.stream import groups_of
from pyvirhost.text import counted, printable
from pyvirhost.watch import (
    BY_NAME,
    COLUMNS,
    CPU_COLUMNS,
    FIELDS,
    GAP,
    Column,
    Row,
    State,
    Watch,
    Watched,
    cell_columns,
    cell_numbers,
    cell_row,
    cpu_numbers,
    cpu_row,
    fitting,
    host_lines,
    host_row,
    ordered,
)

REFRESH = 0.5
"""How often the screen follows the hosts, in seconds."""
LEAST = Size(60, 10)
"""The smallest terminal that the table is of use on."""
STYLES = {State.WAITING: Style(dim=True), State.FRESH: Style(), State.PARTIAL: Style(),
          State.STALE: Style(dim=True), State.FAILED: Style(color="red")}
# Not reversed, which would turn a graph into its opposite.
CURSOR = Style(bgcolor="grey27", bold=True)


def top(hosts: Sequence[Host], arguments: argparse.Namespace) -> int:
    """Show the hosts until somebody quits and return the exit status."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()):
        return fail("top needs a terminal; for programs there is poll", WRONG_COMMAND_LINE)
    try:
        groups = groups_of(hosts, FIELDS, arguments)
    except pyvirhost.LibvirtError as error:
        return fail(f"cannot open the default URI: {error}")
    app = Top(watch := Watch(groups, arguments.interval))
    with watch:
        ended_by = app.run()
    if ended_by is not None:
        os.kill(os.getpid(), ended_by)
    return app.return_code or 0


class Table(ScrollView, can_focus=True):
    """Rows of text under a line of titles, of which only those in sight are ever made.

    So a thousand rows cost what forty do, and lines that stay the same are not drawn again.
    """

    DEFAULT_CSS = "Table { overflow-x: hidden; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", show=False), Binding("down", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False), Binding("pagedown", "page(1)", show=False),
        Binding("home", "move(-1000000000)", show=False),
        Binding("end", "move(1000000000)", show=False),
    ]

    class Chosen(Message):
        """Somebody wants to know more of a row."""

        def __init__(self, row: Any) -> None:
            super().__init__()
            self.row = row

    def __init__(self, columns: Sequence[Column], *, id: str) -> None:
        super().__init__(id=id)
        self.columns = columns
        self.rows: Sequence[Any] = ()
        self.make: Callable[[Any], Row] = lambda row: row
        self.made: dict[int, Row] = {}
        self.titles: dict[str, str] = {}
        self.cursor = 0
        self.moved = False
        """Whether somebody has chosen a row, which then is followed to wherever it goes."""

    @property
    def selected(self) -> Any:
        """The row under the cursor, if there is any."""
        return self.rows[self.cursor] if self.rows else None

    def show(self, rows: Sequence[Any], make: Callable[[Any], Row] = lambda row: row) -> None:
        """Show rows, each as the text that `make` makes of it."""
        selected, cursor, before = self.selected, self.cursor, self.made
        if len(rows) != len(self.rows):
            self.virtual_size = Size(0, len(rows) + 1)
            before = {}
        self.rows, self.make = rows, make
        self.cursor = max(0, min(cursor, len(rows) - 1))
        if self.moved and selected is not None:
            with suppress(ValueError):
                self.cursor = rows.index(selected)
        self.made = {index: make(rows[index]) for index in self.in_sight() if index < len(rows)}
        if not before:
            self.refresh()
        for index, row in self.made.items():
            if before.get(index) != row or (index == cursor) != (index == self.cursor):
                self.refresh_line(index + 1)
        if self.moved and self.cursor != cursor:
            self.follow()

    def title(self, titles: dict[str, str]) -> None:
        """Show other titles for some of the columns, by their names."""
        if titles != self.titles:
            self.titles = titles
            self.refresh()

    def in_sight(self) -> range:
        """Return the numbers of the rows that can be seen, where there are so many."""
        start = self.scroll_offset.y
        return range(start, start + max(self.size.height - 1, 0))

    def follow(self) -> None:
        """Scroll until the cursor is in sight."""
        rows = self.in_sight()
        if self.cursor < rows.start:
            self.scroll_to(y=self.cursor, animate=False, immediate=True)
        elif self.cursor >= rows.stop:
            self.scroll_to(y=self.cursor - len(rows) + 1, animate=False, immediate=True)

    def action_move(self, rows: int) -> None:
        """Move the cursor; in the first row it stays there, whichever host that is."""
        earlier = self.cursor
        self.cursor = max(0, min(earlier + rows, len(self.rows) - 1))
        self.moved = self.cursor > 0
        for index in (earlier, self.cursor):
            self.refresh_line(index + 1)
        self.follow()

    def action_page(self, pages: int) -> None:
        """Move the cursor by as much as there is to see."""
        self.action_move(pages * len(self.in_sight()))

    def action_choose(self) -> None:
        """Say that somebody wants to know more."""
        if self.rows:
            self.post_message(self.Chosen(self.selected))

    def on_click(self, event: Click) -> None:
        """Move the cursor to where the mouse is."""
        row = self.scroll_offset.y + event.y - 1
        if event.y > 0 and row < len(self.rows):
            self.action_move(row - self.cursor)

    def on_resize(self) -> None:
        """Draw all of it anew."""
        self.made = {}
        self.virtual_size = Size(0, len(self.rows) + 1)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Return a line of what is in sight."""
        width = self.size.width
        base = self.rich_style
        columns = fitting(self.columns, width)
        if y == 0:
            titles = {column.name: self.titles.get(column.name, column.title)
                      for column in columns}
            return line(columns, Row(titles), base + Style(bold=True, color="cyan"), width)
        index = self.scroll_offset.y + y - 1
        if index >= len(self.rows):
            return Strip.blank(width, base)
        row = self.made.get(index)
        if row is None:
            row = self.made[index] = self.make(self.rows[index])
        style = base + STYLES[row.state]
        if index == self.cursor:
            style += CURSOR
        return line(columns, row, style, width)


def line(columns: Sequence[Column], row: Row, style: Style, width: int) -> Strip:
    """Return a row as a line, its message where its cells end."""
    segments = []
    for column in columns:
        if column.name not in row.cells and row.message:
            segments.append(Segment(row.message, style))
            break
        # Cut to its width first, since a cell may hold letters of double width, and only then put
        # to the right.
        text = row.cells.get(column.name, "")
        if not column.left:
            text = text.rjust(column.width)
        # What is not fresh does not shine.
        colour = row.colours.get(column.name) if row.state is not State.STALE else None
        segments.append(Segment(set_cell_size(text, column.width),
                                style + Style(color=colour) if colour else style))
        segments.append(Segment(" " * GAP, style))
    return Strip(segments).adjust_cell_length(width, style)


class FittingScreen(Screen[None]):
    """A screen that says so where the terminal is too small for it."""

    DEFAULT_CSS = """
    FittingScreen > #small { display: none; }
    FittingScreen.small > * { display: none; }
    FittingScreen.small > #small { display: block; }
    """

    def compose(self) -> ComposeResult:
        """Yield what there is in place of the rest."""
        yield Static(f"This terminal is too small: top needs {LEAST.width} columns and "
                     f"{LEAST.height} lines. q quits.", id="small", markup=False)

    def on_resize(self, event: Resize) -> None:
        """See whether the terminal is too small."""
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
        """Begin to follow the hosts."""
        self.table = self.query_one("#hosts", Table)
        self.summary = self.query_one("#summary", Static)
        self.input = self.query_one("#filter", Input)
        self.table.focus()
        self.follow_hosts()
        self.set_interval(REFRESH, self.follow_hosts)

    def follow_hosts(self) -> None:
        """Show what the hosts have said since, and how old it is."""
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
        """Sort by a column, and the second time the other way round."""
        column = BY_NAME[name]
        self.reverse = column is self.column and not self.reverse
        self.column = column
        self.show()

    def action_pause(self) -> None:
        """Stop to take what the hosts say, or go on; what is shown goes on to age."""
        self.paused = not self.paused
        self.follow_hosts()

    def action_filter(self) -> None:
        """Ask for a part of the names."""
        self.input.add_class("open")
        self.input.focus()

    def action_show_all(self) -> None:
        """Show all hosts again."""
        self.input.value = ""
        self.close_filter()

    def action_choose(self) -> None:
        """Look at the host under the cursor, or filter by what was typed."""
        self.table.action_choose()

    def close_filter(self) -> None:
        """Give the keys back to the table."""
        self.input.remove_class("open")
        self.table.focus()

    @on(Input.Changed)
    def filter_as_typed(self, event: Input.Changed) -> None:
        """Show the hosts with what was typed until now."""
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
    """One host: its cells and its CPUs, read by a poller of its own while it is looked at."""

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
        """Begin to read the host."""
        self.watching.start()
        self.lines = self.query_one("#lines", Static)
        self.cells = self.query_one("#cells", Table)
        self.cpus = self.query_one("#cpus", Table)
        self.cpus.focus()
        self.follow_host()
        self.set_interval(REFRESH, self.follow_host)

    def on_unmount(self) -> None:
        """Let go of the host, which may take a while where it hangs."""
        threading.Thread(target=self.watching.stop).start()

    def follow_host(self) -> None:
        """Show what the host has said since, and how old it is."""
        if not self.paused:
            self.watching.take()
        now, limit = time.monotonic(), self.watching.limit
        lines = host_lines(self.host, now, limit)
        if self.paused:
            lines[0] = (f"{lines[0][0]}  PAUSED", lines[0][1])
        self.lines.update(Content("\n").join(
            Content.styled(text, colour) for text, colour in lines))
        state = self.host.state(now, limit)
        self.cells.columns = cell_columns(self.host)
        host = self.host
        self.cells.show(cell_numbers(host),
                        lambda cell: cell_row(host, cell)._replace(state=state))
        self.cpus.show(cpu_numbers(host), lambda cpu: cpu_row(host, cpu)._replace(state=state))

    def action_pause(self) -> None:
        """Stop to take what the host says, or go on."""
        self.paused = not self.paused
        self.follow_host()


class Top(App[int]):
    """The live table; ends with the number of the signal that ended it, if one did."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "quit", show=False, priority=True),
        Binding("q", "quit", show=False),
    ]

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watching = watch

    def on_mount(self) -> None:
        """Show the hosts, and end in order where a signal asks for the end."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.exit, signal.SIGTERM)
        self.push_screen(HostsScreen(self.watching))
