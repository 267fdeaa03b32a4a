"""What people are shown: numbers, and text of recipes and data as text, wherever it is shown."""

import fcntl
import html
import io
import os
import pty
import re
import struct
import sys
import termios

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from segkd.runner.console import clock, label_text, markdown, message, number, percent, printable, progress_bar, say

HOSTILE = ["a|b", "two\nlines", r"$\alpha$", "<b>bold</b>", "&lt;", "_x_ a_b __init__", "**b** ~~s~~ `c`", "back\\slash",
           "[link](http://x.y)", "![image](x.png)", "a_", "-", "+- 3", "<http://x.y>"]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_a_markdown_table_shows_text_as_it_is(text):
    reader = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    page = reader.render(markdown(["class", text], [[text, "1"], ["2", text]]))
    cells = [html.unescape(cell) for cell in re.findall("<t[hd]>(.*?)</t[hd]>", page)]
    shown = text.replace("\n", " ")
    assert cells == ["class", shown, shown, "1", "2", shown] and page.count("<tr>") == 3
    assert "$" not in text or r"\$" in markdown([text], [])  # not CommonMark's, but GitHub's and others' formulas


def test_names_of_ours_stay_readable():
    assert markdown(["a"], [["trikd_resnet resnet50"]]).endswith("| trikd_resnet resnet50 |")


def test_control_characters_do_not_reach_the_console(capsys):
    say("red \x1b[31m, back \r\b, turned \u202e, bell \a\nnext line, naïve 雪")
    assert capsys.readouterr().out == (
        "red \\x1b[31m, back \\r\\x08, turned \\u202e, bell \\x07\nnext line, naïve 雪\n"
    )
    assert printable("\ud800") == "\\ud800"  # half of a pair, which no terminal's encoding has


def test_a_message_fits_a_screen():
    assert message("one\nand two\x1b[2J") == "one\nand two\\x1b[2J"
    long = message("\n".join(["there are 9902 mistakes", *(f"mistake {number}" for number in range(9902))]))
    assert long.splitlines()[18:] == ["mistake 17", "  ... and 9884 more lines"]
    wide = message(f"begins {'x' * 10**6} and so do this")
    assert (
        len(wide) == 500 and wide.startswith("begins xxx") and wide.endswith("xxx and so do this") and " ... " in wide
    )


@pytest.mark.parametrize("columns, shown", [(0, False), (80, True)])
def test_a_terminal_without_a_width_gets_no_bar(monkeypatch, columns, shown):
    """So that the training writes its lines there."""
    above, below = pty.openpty()
    fcntl.ioctl(below, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(above, "rb"), os.fdopen(below, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        bar = progress_bar(total=3, title="a run", shown=True)
        assert bar.disable is not shown
        assert progress_bar(total=3, title="another process's", shown=False).disable
        bar.close()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert progress_bar(total=3, title="no terminal").disable


def test_numbers():
    assert (percent(0.75125), percent(0.0), percent(-0.5, "{:+.1f}")) == ("75.12", "0.00", "-50.0")
    assert [percent(None), percent(float("nan")), number(None), number(float("nan"), "{:.1f} M")] == ["-"] * 4
    assert (number(2.5, "{:.1f} M"), clock(59.6), clock(3725)) == ("2.5 M", "1:00", "1:02:05")


def test_labels_are_drawn_as_they_are():
    def drawn(text, **settings):
        canvas = FigureCanvasAgg(Figure(figsize=(2, 1)))
        canvas.figure.text(0, 0.5, text, **settings)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())

    for label in (r"$\alpha$", r"$\no such command$", "50 $", r"\$"):
        assert np.array_equal(drawn(label_text(label)), drawn(label, parse_math=False))
    axes = Figure().subplots()
    axes.plot([1, 2], label=label_text("_hidden"))
    assert len(axes.legend().get_texts()) == 1
