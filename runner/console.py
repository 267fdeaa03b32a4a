"""What people see: console lines, numbers, Markdown tables, labels in pictures. Text of others is shown as text."""

import re
import sys
from collections.abc import Iterable, Sequence

from tqdm import tqdm


def say(text: str) -> None:
    """One line on the console, above a progress bar if there is one."""
    tqdm.write(printable(text), file=sys.stdout)
    sys.stdout.flush()


def printable(text: str) -> str:
    r"""The text with control characters written out (`\x1b`), which a terminal would obey; line breaks are kept."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in text
    )


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
