"""What people are shown: numbers, and text of recipes and data as text, wherever it is shown."""

import fcntl
import html
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import types

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.file_proxy import FileProxy

from segkd.runner.console import (
    clock,
    command,
    counted,
    label_text,
    markdown,
    message,
    number,
    percent,
    printable,
    progress_bar,
    say,
    say_table,
)
from segkd.runner.display import display

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


@pytest.fixture
def terminal(monkeypatch):
    """terminal(columns): the test's output goes to a terminal of that width; gives what reads all that was written."""
    opened = []

    def begin(columns):
        above, below = pty.openpty()
        fcntl.ioctl(below, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        opened.extend([above, os.fdopen(below, "w")])
        monkeypatch.setattr(sys, "stdout", opened[-1])
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("NO_COLOR", "1")
        os.set_blocking(above, False)
        return lambda: b"".join(
            iter(lambda: os.read(above, 2**16) if select.select([above], [], [], 0)[0] else b"", b"")
        ).decode()

    yield begin
    display.close()
    for one in opened:
        os.close(one) if isinstance(one, int) else one.close()


@pytest.mark.parametrize("columns, kind, shown", [(0, "xterm", False), (80, "xterm", True), (80, "dumb", False)])
def test_a_terminal_that_cannot_show_a_bar_gets_none(terminal, monkeypatch, columns, kind, shown):
    """So that the training writes its lines there."""
    terminal(columns)
    monkeypatch.setenv("TERM", kind)
    assert progress_bar(total=3, title="a run", unit="steps", shown=True).disable is not shown
    assert progress_bar(total=3, title="another process's", unit="steps", shown=False).disable
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert progress_bar(total=3, title="no terminal", unit="steps").disable


def test_bars_stand_below_the_lines_and_leave_none(terminal):
    read = terminal(80)
    with progress_bar(total=3, title="\x1b[31m [red]a run[/red]", unit="steps") as bar:
        assert [*progress_bar("abc", total=3, title="scoring", unit="image")] == ["a", "b", "c"]
        say("a line of [bold]others[/bold] \x1b[2J")
        bar.update(2)
        display.draw(at_once=True)
        shown = read()
    assert "\\x1b[31m [red]a run[/red]" in shown and "2/3 steps" in shown and "scoring" in shown
    assert "a line of [bold]others[/bold] \\x1b[2J" in shown and "\x1b[31m" not in shown and "\x1b[2J" not in shown
    assert display.live is None and not isinstance(sys.stdout, FileProxy) and read().rfind("\x1b[?25h") > 0
    say_table(["network", "mIoU"], [["[red]", "12.3"]])
    assert re.search(r"network +mIoU.*\[red\] +12\.3", re.sub(r"\x1b\[\d*m", "", read()), re.DOTALL)


def test_a_narrow_terminal_shows_the_time_left_and_every_figure(terminal, monkeypatch):
    read = terminal(40)
    monkeypatch.setenv("COLUMNS", "40")  # for rich, which asks the standard streams
    with progress_bar(total=360, title="1 of 3: quickstart-teacher", unit="steps") as bar:
        bar.update(180)
        display.draw(at_once=True)
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", read()))
    assert any(re.match(r"1 of 3: qui\S*\u2026 180/360 steps \S+ left", line) for line in lines)
    assert max(map(len, lines)) <= 40
    say_table(["network", "model", "mIoU (%)"], [["student", "deeplabv3plus mobilenetv2_050", "48.12"]])
    say_table(["network", "mIoU (%)"], [["student", "48.12"]])
    told = read().splitlines()
    assert told[0] == "network student, model deeplabv3plus mobilenetv2_050, mIoU (%) 48.12"
    assert "  student      48.12  " in told


def test_a_log_has_no_control_sequences(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar(total=1, title="a run", unit="steps") as bar:
        bar.update()
        say("a line")
        say_table(["a"], [["1"]])
    assert capsys.readouterr() == ("a line\n| a |\n| --- |\n| 1 |\n", "")


def test_commands_run_when_they_are_pasted(tmp_path, monkeypatch):
    """By the file beside the one that was called, from any folder; blanks in a path begin no further word."""
    assert command("check", "my photos.yaml") == "python runner/check.py 'my photos.yaml'"
    (tmp_path / "check.py").touch()
    monkeypatch.setattr(sys, "argv", [f"{tmp_path}/recipes.py"])
    assert command("check", "photos.yaml") == f"python {tmp_path}/check.py photos.yaml"
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", types.SimpleNamespace(name="segkd.runner.recipes"))
    assert command("check", "it's.yaml") == """segkd check 'it'"'"'s.yaml'"""


def test_numbers():
    assert (percent(0.75125), percent(0.0), percent(-0.5, "{:+.1f}")) == ("75.12", "0.00", "-50.0")
    assert [percent(None), percent(float("nan")), number(None), number(float("nan"), "{:.1f} M")] == ["-"] * 4
    assert (counted(1, "thread"), counted(0, "image")) == ("1 thread", "0 images")
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


@pytest.mark.parametrize("output, told", [("/dev/full", "what is said from here on is lost: No space left on device\n"),
                                          (None, "")])  # fmt: skip
def test_an_output_that_takes_nothing_ends_nothing(output, told):
    code = "from segkd.runner.console import say\nsay('a' * 10**6)\nsay('b')\nprint('c')\nraise SystemExit(5)"
    reader, writer = os.pipe()
    os.close(reader)  # as of `| head`, when head has seen enough
    with open(output or writer, "wb") as out:
        ended = subprocess.run([sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 5 and ended.stderr == (f"segkd: {told}" if told else "")
