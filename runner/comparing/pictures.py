"""A comparison as pictures: the table beside its gains, the curves of the methods, and what their students see."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from segkd.runner.comparing.comparison import Comparison

LINE, GAP = 0.3, 0.2  # inches: height of a line, space between two columns
GAINS = 3.2  # inches: width of the picture of the gains
NAME = 110  # pixels: width of a method's name beside its examples


def draw_table(comparison: Comparison, columns: tuple[str, ...], lines: list[list[str]], file: Path) -> Path:
    """The table's words, and right of each line its gain with the 95 % interval."""
    pyplot = _pyplot()
    figure = pyplot.figure(dpi=110)
    renderer = figure.canvas.get_renderer()

    def width(words: str) -> float:
        text = figure.text(0, 0, words, fontsize=9, weight="bold")
        inches = text.get_window_extent(renderer).width / figure.dpi
        text.remove()
        return inches

    widths = [max(map(width, column)) for column in zip(columns, *lines)]
    lefts = GAP + np.cumsum([0, *(wide + GAP for wide in widths)])
    gains = [row.gain for row in comparison.rows]
    panel = GAINS if any(gain is not None for gain in gains) else 0
    total, height = lefts[-1] + panel + GAP, (len(lines) + 2.75) * LINE
    figure.set_size_inches(total, height)
    for number, line in enumerate([columns, *lines]):
        y = 1 - (number + 0.75) * LINE / height
        weight = "bold" if number == 0 else "normal"
        for left, words in zip(lefts, line):
            figure.text(left / total, y, words, fontsize=9, weight=weight, va="center")
    if panel:
        # a line of the panel is as high as a line of the words
        box = (lefts[-1] / total, 1.5 * LINE / height, panel / total, len(lines) * LINE / height)
        axes = figure.add_axes(box)
        _draw_gains(axes, gains)
    figure.savefig(file)
    pyplot.close(figure)
    return file


def _draw_gains(axes, gains: list) -> None:
    for number, gain in enumerate(gains):
        if gain is not None:
            axes.plot([100 * gain.low, 100 * gain.high], [number, number], color="tab:blue", linewidth=2)
            axes.plot(100 * gain.mean, number, "o", color="tab:blue", markersize=5)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set(ylim=(len(gains) - 0.5, -0.5), yticks=[], xlabel="gain in mIoU (%), 95 % interval")
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_size(8)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)


def draw_curves(comparison: Comparison, file: Path) -> Path:
    """Validation mIoU over the iterations: the mean of a method's seeds, in a band from the lowest to the highest."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(9, 5), dpi=110, constrained_layout=True)
    for number, row in enumerate(comparison.rows):
        curves = [dict(run.curve) for run in row.runs]
        shared = sorted(set(curves[0]).intersection(*curves[1:]))
        values = 100 * np.array([[curve[iteration] for iteration in shared] for curve in curves])  # (S, T)
        alike = sum(row.method == other.method for other in comparison.rows) > 1
        style = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":", "-.")[number // 10 % 4]}
        label = f"{row.method}, {row.student}" if alike else row.method
        axes.plot(shared, values.mean(0), label=label, linewidth=1.5, **style)
        if len(curves) > 1:
            axes.fill_between(shared, values.min(0), values.max(0), color=style["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="iteration", ylabel="validation mIoU (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(file)
    pyplot.close(figure)
    return file


def draw_examples(comparison: Comparison, file: Path) -> Path | None:
    """A validation image as each method's first run saw it at its best: its panel, a line a method.

    None, and no file, where no image is in the panels of all of them.
    """
    firsts = [row.runs[0] for row in comparison.rows]
    folders = [run.folder / "panels" / f"step-{run.summary['iteration']:08d}" for run in firsts]
    shared = set.intersection(*({path.name for path in folder.glob("*.png")} for folder in folders))
    if not shared:
        return None
    panels = [Image.open(folder / min(shared)).convert("RGB") for folder in folders]
    width, height = (max(panel.size[side] for panel in panels) for side in (0, 1))
    picture = Image.new("RGB", (NAME + width, len(panels) * height), "white")
    draw = ImageDraw.Draw(picture)
    for line, (row, panel) in enumerate(zip(comparison.rows, panels)):
        draw.text((2, line * height + height // 2), row.method, fill="black", font_size=13)
        picture.paste(panel, (NAME, line * height))
    picture.save(file)
    return file


def _pyplot():
    """matplotlib without a screen; half a second to import, so only where a picture is drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
