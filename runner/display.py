"""What moves on a terminal: progress bars with the time left, and what is told below them."""

import os
import sys
import time
from collections.abc import Iterable, Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

REDRAWN = 0.1  # seconds between two drawings
ROOMY = 72  # columns of a terminal that has room for a bar beside its words


def on_a_terminal() -> bool:
    """Whether the output goes to a terminal that says how wide it is and can move its cursor: elsewhere it is a log."""
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else 0
    except (AttributeError, OSError, ValueError):  # what took the place of stdout is no file
        columns = 0
    return columns > 0 and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def terminal() -> Console:
    """The terminal that the output goes to."""
    return Console(force_terminal=True, highlight=False, emoji=False, markup=False)


class Display:
    """The bars at the lower end of the terminal; lines go above them.

    It is drawn by whoever moves a bar, not by a thread: a loading process forked while one holds a lock would hang.
    """

    def __init__(self):
        self.bars: list[Bar] = []
        self.live: Live | None = None
        self.drawn = 0.0

    def add(self, bar: "Bar") -> None:
        """Shows one more bar."""
        self.bars.append(bar)
        if self.live is None:
            console = terminal()
            self.live = Live(
                get_renderable=lambda: Group(*self.bars),
                console=console,
                auto_refresh=False,
                transient=True,
                redirect_stderr=sys.stderr.isatty(),
            )
            self.live.start()
            console.show_cursor(True)  # so that a kill leaves it as it was
        self.draw(at_once=True)

    def remove(self, bar: "Bar") -> None:
        """Takes a bar away."""
        self.bars = [other for other in self.bars if other is not bar]
        if self.bars:
            self.draw(at_once=True)
        else:
            self.close()

    def draw(self, at_once: bool = False) -> None:
        """Draws the bars as they are now, unless it has just been done."""
        now = time.monotonic()
        if self.live is not None and (at_once or now - self.drawn >= REDRAWN):
            self.drawn = now
            self.live.refresh()

    def print(self, what: RenderableType) -> None:
        """Prints on the terminal, above the bars if there are any."""
        console = terminal() if self.live is None else self.live.console
        console.print(what, soft_wrap=isinstance(what, Text))

    def close(self) -> None:
        """Takes all bars away and leaves the terminal to whoever writes next."""
        self.bars = []
        if self.live is not None:
            self.live.stop()
            self.live = None


display = Display()


class Title(TextColumn):
    """What a bar is of; on a narrow terminal it is cut, so that the time left is not."""

    def render(self, task: Task) -> Text:
        """Its text, on one line."""
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


class Bar:
    """One progress bar.

    Attributes:
        below: what is told below it, such as a table. disable: nothing of it is shown.
    """

    def __init__(
        self,
        items: Iterable | None,
        total: int | None,
        title: str,
        unit: str,
        begins_at: int,
        disable: bool,
    ):
        self.items, self.disable = items, disable
        self.below: RenderableType | None = None
        columns = (
            Title("{task.description}", markup=False, table_column=Column(ratio=1, max_width=40)),
            *([BarColumn(bar_width=30)] if disable or terminal().width >= ROOMY else []),
            TextColumn("{task.fields[done]}", markup=False, table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            TextColumn("left", style="dim", table_column=Column(no_wrap=True)),
        )
        self.unit = unit.strip()
        self.progress = Progress(*columns, auto_refresh=False)
        self.task = self.progress.add_task(title, total=total, completed=begins_at, done="")
        self._tell(begins_at)
        if not disable:
            display.add(self)

    def __rich__(self) -> RenderableType:
        return self.progress if self.below is None else Group(self.progress, self.below)

    def __iter__(self) -> Iterator:
        with self:
            for item in self.items:
                yield item
                self.update()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def update(self, count: int = 1) -> None:
        """Notes that so many more are done."""
        if self.disable:
            return
        self._tell(int(self.progress.tasks[0].completed) + count)
        display.draw()

    def _tell(self, done: int) -> None:
        total = self.progress.tasks[0].total
        of = "" if total is None else f"/{total:.0f}"
        self.progress.update(self.task, completed=done, done=f"{done}{of} {self.unit}")

    def close(self) -> None:
        """Takes the bar from the terminal."""
        if not self.disable:
            display.remove(self)
