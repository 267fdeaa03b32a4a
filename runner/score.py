"""Scores a network on a split: `accelerate launch runner/score.py RECIPE [key=value ...] [--metrics NAME ...]`.

RECIPE says which data, and how scores are made (evaluate.protocol); a run folder stands for its recipe and scores what
the run delivered. `evaluate.protocol=cirkd data.val_split=test` score in another way. `--weights FILE` scores a file of
this or another code in the recipe's network, `--weights FOLDER` whatever network a student folder holds, and of an
exported file, `--weights student.onnx` or `.pt2`, what the file computes by its own runtime; it knows its recipe.
"""

import argparse
import json
from pathlib import Path

from segkd.runner.command import add_recipe, ask_early, new_parser, run_command
from segkd.runner.recipe.program_file import ProgramFile
from segkd.runner.recipe.protocols import protocol_words
from segkd.runner.recipe.read import OF_THE_PLACE, read
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.folder import RunFolder, refuse_inside_a_run
from segkd.runner.run_folder.replacing import refuse_existing, write_text


def ask(words: list[str] | None = None) -> tuple[argparse.Namespace, Recipe, Path]:
    """The options, the recipe they name, checked, and the folder of the run whose networks are scored.

    Args:
        words: in place of the command line's.
    """
    parser = new_parser("Score a network of a recipe.")
    add_recipe(parser, ", or a run folder, or an exported file (.onnx, .pt2)", "evaluate.protocol=cirkd", optional=True)
    parser.add_argument(
        "--network", default="student", help="a network of the recipe, or the mean of several, as in student+teacher"
    )
    parser.add_argument(
        "--weights", help="a file or a folder of weights (default: the run's student, or the recipe's weights)"
    )
    parser.add_argument("--layout", help="whose names the weights file uses (default: told by its keys)")
    parser.add_argument("--part", help="which network of a weights file that holds several, such as teacher")
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=[],
        metavar="NAME",
        help="what to score besides mIoU, files in runner/scoring/metrics/ (default: the recipe's evaluate.metrics); "
        "evaluate.metrics.NAME.ARGUMENT=value changes an argument; the recipe and key=value go before --metrics",
    )
    parser.add_argument("--confusion", type=Path, metavar="PNG", help="also a picture of the confusion matrix")
    parser.add_argument("--output", type=Path, metavar="JSON", help="also write the scores to this file")
    parser.add_argument("--overwrite", action="store_true", help="write over files that are there")
    options = parser.parse_intermixed_args(words)
    name_recipe(options)
    for file in filter(None, (options.output, options.confusion)):
        refuse_inside_a_run(file)
        refuse_existing(file, options.overwrite)
    path = Path(options.recipe)
    program = ProgramFile.named(path)
    run = RunFolder.around(path) if program is None else RunFolder.enclosing(path)
    if run is None and path.is_dir():
        raise ValueError(
            f"{path} holds no recipe.yaml, so nothing says on which data to score; give a recipe and --weights {path}"
        )
    # first, so that evaluate.metrics.boundary.width=5 sets an argument of one of them
    metrics = [f"evaluate.metrics={json.dumps(dict.fromkeys(options.metrics, {}))}"] if options.metrics else []
    recipe = read(
        run.recipe_file if run else options.recipe,
        [*metrics, *options.overrides],
        trust_checkpoint=options.trust_checkpoint,
        resolved=run is not None,
    )
    return options, recipe, run.path if run else recipe.folder


def name_recipe(options: argparse.Namespace) -> None:
    """An exported file is its own recipe where none is named, and weights where it stands in a recipe's place."""
    if options.recipe is not None and "=" in options.recipe:  # the first of key=value
        options.overrides.insert(0, options.recipe)
        options.recipe = None
    if options.recipe is None:
        if options.weights is None or ProgramFile.named(options.weights) is None:
            raise ValueError("name a recipe or a run folder; an exported file (.onnx, .pt2) alone is enough, too")
        options.recipe = options.weights
    elif options.weights is None and ProgramFile.named(options.recipe) is not None:
        options.weights = options.recipe


ask = ask_early(ask, __name__)  # before the imports that take seconds

from segkd.runner.building.device import start_accelerator
from segkd.runner.console import say
from segkd.runner.loading.data_sets import build_dataset
from segkd.runner.run_folder.metrics_file import plain
from segkd.runner.run_folder.program_scores import write_scores
from segkd.runner.scoring.chosen_network import GivenWeights, choose_network
from segkd.runner.scoring.evaluation import Evaluation, evaluate, text_of
from segkd.runner.scoring.pictures import confusion_picture
from segkd.runner.scoring.program import scores_of_file


def main() -> None:
    score(*ask())


def score(options: argparse.Namespace, recipe: Recipe, run: Path) -> Evaluation:
    """Scores a network on a split, prints the scores and writes what the options ask for."""
    accelerator = start_accelerator(recipe)
    dataset = build_dataset(recipe, recipe.data.val_split)
    weights = GivenWeights(options.weights, options.layout, options.part)
    network, origin = choose_network(options.network, recipe, dataset, run, weights)
    title = f"scoring {options.network}"
    result = evaluate(network.to(accelerator.device), dataset, recipe, accelerator, title)
    if accelerator.is_main_process:
        say(text_of(result.metrics, result.values))
        say(
            f"\n{options.network} of {recipe.name} from {origin}, {len(dataset)} images of "
            f"{recipe.data.val_split}, {protocol_words(recipe)}"
        )
        if options.output:
            values = {"protocol": protocol_words(recipe), "metrics": recipe.evaluate.metrics, **result.values}
            write_text(options.output, json.dumps(plain(values), indent=2) + "\n")
        if options.confusion:
            confusion_picture(result.counts["confusion"]["matrix"], dataset.class_names, options.confusion)
        written = [file for file in (options.output, options.confusion) if file]
        program = ProgramFile.named(weights.path) if weights.path is not None else None
        places = ("data.root", *OF_THE_PLACE)
        if program is not None and all(said.startswith(places) for said in recipe.assignments):
            # scored as its recipe says: what comparisons and measurements read
            write_scores(program, scores_of_file(result, recipe), result.arrays())
            written.append(program.scores_file)
        for file in written:
            say(f"written: {file}")
    accelerator.end_training()
    return result


if __name__ == "__main__":
    run_command(main)
