"""Pictures of a run: panels that show what the networks see, and the curves of its losses and scores."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from segkd.datasets._palettes import Color
from segkd.runner.console import label_text, one_line
from segkd.runner.loading.data_sets import fixed_resize
from segkd.runner.loading.sampler import evaluation_batches
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.folder import tile_file, tile_folder
from segkd.runner.run_folder.replacing import replacing
from segkd.runner.scoring.evaluation import label_map
from segkd.runner.scoring.held_out import TOTAL

LARGEST = 480  # pixels of a panel's tile at most, so that a dashboard stays quick
TILE = 320  # of one among many
SMALLEST = 240  # pixels of its height at least, unless it would become too wide
VOID = (0, 0, 0)
WRONG, RIGHT = (220, 40, 40), (235, 235, 235)

Tiles = dict[str, Image.Image]  # by what they show, in the order in which they stand side by side


def shown_indices(dataset: Dataset, count: int) -> list[int]:
    """The images every panel of a run shows: spread evenly over the split."""
    return [int(index) for index in np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round()]


def panels(
    networks: dict[str, nn.Module], dataset: Dataset, recipe: Recipe, accelerator: Accelerator, folder: Path
) -> list[Path]:
    """One PNG an image: image | label | each network's prediction | where the student (the last one) is wrong.

    Beside them, the tiles one by one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    indices, files = shown_indices(dataset, recipe.tracking.images), []
    for name, tiles in drawn(networks, dataset, indices, recipe, accelerator):
        save_tiles(tiles, tile_folder(folder, name))
        files.append(folder / f"{name}.png")
        beside(tiles).save(files[-1])
    return files


def drawn(
    networks: dict[str, nn.Module], dataset: Dataset, indices: list[int], recipe: Recipe, accelerator: Accelerator
) -> Iterator[tuple[str, Tiles]]:
    """For each of the images the name of its files, and its tiles: image, label, each network's prediction, error."""
    chosen = Subset(dataset, indices)
    for index, batch in zip(indices, evaluation_batches(chosen, resize=fixed_resize(recipe, scoring=True))):
        batch = batch.to(accelerator.device)
        target = batch.target[0].cpu().numpy()
        image = batch.images[0].permute(1, 2, 0).round().byte().cpu().numpy()  # a protocol may resize to floats
        tiles = {"image": Image.fromarray(image), "label": colored(target, dataset.palette)}
        prediction = target
        for name, network in networks.items():
            was_training = network.training
            prediction = label_map(network.eval(), batch, recipe)[0].cpu().numpy()
            network.train(was_training)
            tiles[name] = colored(prediction, dataset.palette)
        tiles["error"] = error_map(prediction, target, dataset.ignore_index)
        yield file_name(dataset.name(index)), alike(tiles)


def file_name(name: str) -> str:
    """What the files of an image of this name are called."""
    return name.replace("/", "_")


def colored(labels: np.ndarray, palette: tuple[Color, ...]) -> Image.Image:
    """(H, W) class ids as a picture that keeps them; ids outside the palette (void) are black."""
    picture = Image.fromarray(labels.clip(0, 255).astype(np.uint8))
    picture.putpalette([level for color in (*palette[:256], *[VOID] * (256 - len(palette))) for level in color])
    return picture


def error_map(prediction: np.ndarray, target: np.ndarray, ignore_index: int) -> Image.Image:
    """Red where the prediction is wrong, light where it is right, black where nothing is known."""
    kinds = np.where(target == ignore_index, 2, prediction == target)
    return colored(kinds, (WRONG, RIGHT, VOID))


def alike(tiles: Tiles) -> Tiles:
    """The tiles at the size of the first, no larger than `LARGEST`; pixels of a label are left out, not mixed."""
    size = next(iter(tiles.values())).size
    factor = min(1.0, LARGEST / max(size))
    size = tuple(round(side * factor) for side in size)
    ways = {"P": Image.Resampling.NEAREST, "RGB": Image.Resampling.BILINEAR}
    return {name: tile.resize(size, ways[tile.mode]) for name, tile in tiles.items()}


def beside(tiles: Tiles) -> Image.Image:
    """Tiles of one size side by side, each under its name; small ones are shown some whole times larger."""
    (width, height), head = next(iter(tiles.values())).size, 16
    times = max(1, min(-(-SMALLEST // height), 2 * LARGEST // width))  # small ones, so that they can be seen
    width, height = times * width, times * height
    picture = Image.new("RGB", (len(tiles) * (width + 4) - 4, height + head), "white")
    draw = ImageDraw.Draw(picture)
    for column, (name, tile) in enumerate(tiles.items()):
        way = Image.Resampling.NEAREST if tile.mode == "P" else Image.Resampling.BILINEAR
        picture.paste(tile.resize((width, height), way).convert("RGB"), (column * (width + 4), head))
        draw.text((column * (width + 4) + 2, 2), one_line(name), fill="black")
    return picture


def save_tiles(tiles: Tiles, folder: Path) -> None:
    """One file a tile, for reports to show them beside others."""
    folder.mkdir(parents=True, exist_ok=True)
    for title, tile in tiles.items():
        tile.save(tile_file(folder, title), quality=85)


def overlays(chosen: Sequence[tuple[Dataset, list[int]]]) -> Image.Image:
    """Images under their labels, in rows of four, each with its name, and the classes' colours below.

    Ignored pixels are darkened.

    Args:
        chosen: data sets of the same classes, and which of their images.
    """
    tiles = []
    for dataset, index in ((dataset, index) for dataset, indices in chosen for index in indices):
        image, target = dataset[index]
        factor = min(1.0, TILE / max(image.size))
        size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
        labels = np.asarray(target.resize(size, Image.Resampling.NEAREST))
        shown = colored(labels, dataset.palette).convert("RGB")
        tile = np.asarray(Image.blend(image.resize(size, Image.Resampling.BILINEAR), shown, 0.5))
        tiles.append((dataset.name(index), tile))
    colors = legend(dataset.class_names, dataset.palette)
    height, width = (max(tile.shape[axis] for _, tile in tiles) for axis in (0, 1))
    columns, head = min(4, len(tiles)), 16
    rows = -(-len(tiles) // columns)
    whole = Image.new(
        "RGB", (max(columns * (width + 4), colors.width), rows * (height + head) + colors.height), "white"
    )
    draw = ImageDraw.Draw(whole)
    for place, (name, tile) in enumerate(tiles):
        left, top = place % columns * (width + 4), place // columns * (height + head)
        draw.text((left + 2, top + 2), one_line(name)[: width // 6], fill="black")
        whole.paste(Image.fromarray(tile), (left, top + head))
    whole.paste(colors, (0, rows * (height + head)))
    return whole


def legend(class_names: Iterable[str], palette: Sequence[Sequence[int]]) -> Image.Image:
    """A picture of the classes' colours, ids and names, in columns of 20."""
    entries = list(zip(map(one_line, class_names), palette))
    widths = [ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(f"000 {name}") for name, _ in entries]
    column, line = round(max(widths)) + 40, 18
    rows = min(len(entries), 20)
    picture = Image.new("RGB", (column * -(-len(entries) // rows), line * rows + 4), "white")
    draw = ImageDraw.Draw(picture)
    for index, (name, color) in enumerate(entries):
        left, top = column * (index // rows), line * (index % rows) + 4
        draw.rectangle((left + 4, top, left + 26, top + 13), fill=tuple(color), outline="black")
        draw.text((left + 32, top), f"{index} {name}", fill="black")
    return picture


def curves(rows: list[dict], file: Path) -> Path:
    """Loss terms (running mean over a fiftieth of the run), learning rate and what judges the run, as one PNG."""
    from matplotlib.figure import Figure  # half a second to import, so only where a picture is drawn

    figure = Figure(figsize=(15, 4), layout="constrained")
    losses, rate, scores = figure.subplots(1, 3)
    iterations = [row["iteration"] for row in rows]
    window = max(1, len(rows) // 50)
    for key in dict.fromkeys(key for row in rows for key in row if key.startswith("weighted/")):
        points = [(row["iteration"], row[key]) for row in rows if row.get(key) is not None]
        if not points:  # the log was damaged
            continue
        mean = np.convolve([value for _, value in points], np.ones(window) / window, "valid")
        losses.plot(
            [iteration for iteration, _ in points][window - 1 :], mean, label=label_text(key.removeprefix("weighted/"))
        )
    losses.set(title="weighted losses", xlabel="iteration")
    losses.legend()
    rate.plot(iterations, [row.get("lr") for row in rows])
    rate.set(title="learning rate", xlabel="iteration")
    judged = [row for row in rows if row.get(TOTAL) is not None]
    key, factor, title = (TOTAL, 1, "loss on held-out images") if judged else ("miou", 100, "student mIoU (%)")
    scored = [row for row in rows if row.get(key) is not None]
    scores.plot([row["iteration"] for row in scored], [factor * row[key] for row in scored], marker="o")
    scores.set(title=title, xlabel="iteration")
    figure.savefig(file, dpi=80)
    return file


def confusion_picture(matrix: Tensor, class_names: tuple[str, ...] | list[str], file: Path) -> Path:
    """Where the pixels of each class go, as one PNG.

    Row = class of the label, column = predicted class, in percent of the row's pixels; a class that is never labelled
    has an empty row. Up to 30 classes have the numbers in their cells, more classes get a larger picture.

    Args:
        matrix: (K, K) counts, rows = target, columns = prediction.
    """
    from matplotlib.figure import Figure

    class_names = [label_text(name) for name in class_names]
    matrix = matrix.double().numpy()
    pixels = matrix.sum(1, keepdims=True)
    shares = 100 * np.divide(matrix, pixels, out=np.full_like(matrix, np.nan), where=pixels > 0)
    count, cell = len(class_names), 0.4 if len(class_names) <= 30 else 0.16  # inches
    figure = Figure(figsize=(count * cell + 3, count * cell + 2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="viridis", vmin=0, vmax=100)
    letters = 8 if count <= 30 else 6
    axes.set_xticks(range(count), class_names, rotation=90, fontsize=letters)
    axes.set_yticks(range(count), class_names, fontsize=letters)
    axes.set(xlabel="predicted", ylabel="label")
    for row, column in np.argwhere(np.isfinite(shares)) if count <= 30 else ():
        share = shares[row, column]
        axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color="wk"[int(share > 60)])
    figure.colorbar(image, ax=axes, shrink=min(1.0, 6 / (count * cell)), label="% of the label's pixels")
    with replacing(file) as new:
        figure.savefig(new, dpi=100, format="png", bbox_inches="tight")
    return file
