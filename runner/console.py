"""What people see: console lines, numbers, Markdown tables, labels in pictures. Text of others is shown as text."""

import errno
import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from segkd.runner.display import Bar, display, on_a_terminal, terminal

SCREEN = (20, 500)  # lines of a message, and letters of a line, that somebody reads
WIDEST = 1000  # letters of a table that is looked at as if no terminal were too narrow


def say(text: str) -> None:
    """One line on the console, above a progress bar if there is one."""
    if display.live is None:
        put(f"{printable(text)}\n")
    else:
        display.print(Text(printable(text)))


def put(text: str) -> None:
    """The text as it is, on the output. That nobody reads it any more, or that its disk is full, ends no training."""
    try:
        print(text, end="", flush=True)
    except OSError as error:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        if error.errno != errno.EPIPE:  # as of `| head`
            print(f"segkd: what is said from here on is lost: {error.strerror}", file=sys.stderr, flush=True)


def say_table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """A table: drawn on a terminal, or told line by line on one too narrow for it; in Markdown elsewhere."""
    lines = list(lines)
    if not on_a_terminal():
        say(markdown(columns, lines))
        return
    table = Table(box=SIMPLE_HEAD, header_style="bold")
    for place, title in enumerate(columns):
        are_numbers = all(re.match(r"[-+.\d]", line[place]) for line in lines)
        table.add_column(Text(one_line(title)), justify="right" if are_numbers else "left")
    for line in lines:
        table.add_row(*(Text(one_line(cell)) for cell in line))
    console = terminal()
    if Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum <= console.width:
        display.print(table)
        return
    for line in lines:
        say(", ".join(f"{title} {cell}" for title, cell in zip(columns, line)))


def printable(text: str) -> str:
    r"""The text with control characters written out (`\x1b`), which a terminal would obey; line breaks are kept."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in text
    )


def message(text: str) -> str:
    """What is said of a mistake or noted along the way, on a screen: its first lines, and how many more there are."""
    lines, (height, width) = printable(text).strip("\n").split("\n"), SCREEN
    if len(lines) > height:
        lines[height - 1 :] = [f"  ... and {len(lines) - height + 1} more lines"]
    # of a long line the end is kept, too: what to do stands there
    lines = [line if len(line) <= width else f"{line[: width - 155]} ... {line[-150:]}" for line in lines]
    return "\n".join(lines)


def progress_bar(
    items: Iterable | None = None,
    *,
    total: int | None,
    title: str,
    unit: str,
    begins_at: int = 0,
    shown: bool = True,
) -> Bar | tqdm:
    """A progress bar with the time left, in a notebook or on a terminal that says how wide it is.

    Elsewhere it would be noise.

    Args:
        begins_at: how many are done. shown: on this process.
    """
    if in_notebook():
        kind = tqdm
        if importlib.util.find_spec("ipywidgets"):  # tqdm.auto would warn where it is not
            from tqdm.notebook import tqdm as kind
        return kind(items, total=total, desc=one_line(title), unit=unit, initial=begins_at, disable=not shown)
    return Bar(items, total, one_line(title), unit, begins_at, disable=not (shown and on_a_terminal()))


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which shows progress bars and outlives its runs."""
    return "ipykernel" in sys.modules


def command(name: str, *words: object) -> str:
    """What to paste to call a command, by somebody who has called this one: by its file, or through `segkd`.

    Args:
        words: that follow, such as files, whose blanks a shell would take for the next word.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)  # None: a file was called
    if spec and spec.name.startswith("segkd.runner."):
        begins = ["segkd", name]
    else:
        beside = Path(sys.argv[0]).with_name(f"{name}.py") if sys.argv[0] else None  # from another folder, too
        begins = ["python", beside if beside and beside.is_file() else f"runner/{name}.py"]
    return shlex.join(map(str, (*begins, *words)))


def one_line(text: str) -> str:
    """The text as one printable line, such as a label in a picture or a cell of a table."""
    return printable(" ".join(text.split()))


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`, `-` where it is not known (NaN)."""
    if seconds != seconds:
        return "-"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def counted(count: int, noun: str) -> str:
    """`1 thread`, `2 threads`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def some(words: list[str], most: int = 3) -> str:
    """`a, b, c and 4 more`."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def number(value: float | None, form: str = "{:.2f}") -> str:
    """A number in a table or a sentence, `-` where it is not known (None or NaN)."""
    return "-" if value is None or value != value else form.format(value)


def percent(share: float | None, form: str = "{:.2f}") -> str:
    """0.7512 -> `75.12`, without a unit; `-` where it is not known, such as the IoU of a class that does not occur."""
    return number(None if share is None else 100 * share, form)


def markdown(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table; what is in the cells is shown as it is."""
    rows = [[markdown_text(cell) for cell in line] for line in (columns, *lines)]
    rows.insert(1, ["---"] * len(columns))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def markdown_text(text: str) -> str:
    """One line of Markdown that shows the text as it is: no markup, HTML, formula or further cell begins in it."""
    # an underscore inside a word begins nothing
    return re.sub(r"[\\`*~$|<&\[\]]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", one_line(text))


def label_text(text: str) -> str:
    """A label that matplotlib draws as it is: `$` begins no formula, and `_` does not hide it from the legend."""
    text = one_line(text).replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text
