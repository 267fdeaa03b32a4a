"""A comparison as pictures: the table beside its gains, the curves of the methods, and what their students see."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from segkd.datasets._files import read_image
from segkd.runner.comparing.comparison import Comparison
from segkd.runner.console import label_text, one_line
from segkd.runner.run_folder.folder import RunFolder

LINE, LETTER = 0.3, 0.078  # inches: height of a line, width of a letter
GAINS = 3.2  # inches: width of the picture of the gains
NAME = 110  # pixels: width of a method's name beside its examples


def draw_table(comparison: Comparison, columns: Sequence[str], lines: list[list[str]], file: Path) -> Path:
    """The table's words, and right of each line its gain with the 95 % interval, of one seed without."""
    widths = [LETTER * (max(map(len, column)) + 2) for column in zip(columns, *lines)]
    figure = Figure(figsize=(sum(widths) + GAINS, LINE * (len(lines) + 1)), dpi=110)
    borders = {"left": 0, "right": 1, "bottom": 0, "top": 1, "wspace": 0}
    words, plot = figure.subplots(ncols=2, width_ratios=(sum(widths), GAINS), gridspec_kw=borders)
    words.axis("off")
    cells = [[label_text(cell) for cell in line] for line in (columns, *lines)]
    shares = [width / sum(widths) for width in widths]
    table = words.table(cells, colWidths=shares, cellLoc="left", edges="open", bbox=(0, 0, 1, 1))
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    # both are as high: a line of the plot is beside its line of the table, that of the column titles is empty
    gains = [(number, row.gain) for number, row in enumerate(comparison.rows) if row.gain is not None]
    for number, gain in gains:
        plot.plot([100 * gain.low, 100 * gain.high], [number, number], color="tab:blue", linewidth=2)
        plot.plot(100 * gain.mean, number, "o", color="tab:blue", markersize=5)
    plot.axvline(0, color="grey", linewidth=0.8)
    plot.set(ylim=(len(lines) - 0.5, -1.5), yticks=[], xlabel="gain in mIoU (%), 95 % interval", visible=bool(gains))
    plot.spines[["left", "right", "top"]].set_visible(False)
    figure.savefig(file, bbox_inches="tight")
    return file


def draw_curves(comparison: Comparison, file: Path, over: Literal["iteration", "training time"]) -> Path:
    """Validation mIoU over the iterations or the minutes they took: the mean of a method's seeds, in a band from the
    lowest to the highest. Scoring is not in the minutes; a method whose log tells none has no curve over them.
    """
    figure = Figure(figsize=(9, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate(comparison.trained):
        points = np.array(row.curve(over)).reshape(-1, 4)
        places, mean, lowest, highest = points[:, 0], *(100 * points[:, 1:].T)
        style = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":", "-.")[number // 10 % 4]}
        axes.plot(places, mean, label=label_text(row.label), linewidth=1.5, **style)
        if len(row.runs) > 1:
            axes.fill_between(places, lowest, highest, color=style["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel=over if over == "iteration" else f"{over} (minutes)", ylabel="validation mIoU (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(file)
    return file


def draw_examples(comparison: Comparison, file: Path) -> Path | None:
    """A validation image as each method's first run saw it at its best: its panel, a line a method.

    None, and no file, where no image is in the panels of all of them.
    """
    rows = comparison.trained
    if not rows:
        return None
    firsts = [row.runs[0] for row in rows]
    folders = [RunFolder(run.folder).panels(run.summary["iteration"]) for run in firsts]
    shared = set.intersection(*({path.name for path in folder.glob("*.png")} for folder in folders))
    if not shared:
        return None
    panels = [read_image(str(folder / min(shared))) for folder in folders]
    width, height = (max(panel.size[side] for panel in panels) for side in (0, 1))
    picture = Image.new("RGB", (NAME + width, len(panels) * height), "white")
    draw = ImageDraw.Draw(picture)
    for line, (row, panel) in enumerate(zip(rows, panels)):
        draw.text((2, line * height + height // 2), one_line(row.label), fill="black", font_size=13)
        picture.paste(panel, (NAME, line * height))
    picture.save(file)
    return file
