"""Scores a network on a split: `accelerate launch runner/score.py recipe.yaml [key=value ...] [--network NAME]`.

`runs/<name>/recipe.yaml` scores what that run delivered; `evaluate.mode=slide evaluate.flip=true data.val_split=test`
score it in another way. The student's weights come from the run folder unless --weights names others.
"""

import argparse
import json
from dataclasses import asdict

from segkd.runner.assembly import build_dataset
from segkd.runner.command import run_command
from segkd.runner.device import start_accelerator
from segkd.runner.evaluation import evaluate
from segkd.runner.metrics import table
from segkd.runner.metrics_file import plain
from segkd.runner.networks import build_network, weights_path
from segkd.runner.protocols import protocol_words
from segkd.runner.reading import read


def main() -> None:
    parser = argparse.ArgumentParser(description="Score a network of a recipe.", allow_abbrev=False)
    parser.add_argument("recipe", help="path of a recipe, such as runs/<name>/recipe.yaml")
    parser.add_argument("overrides", nargs="*", help="key=value, such as evaluate.mode=slide data.val_split=test")
    parser.add_argument("--network", default="student", help="which network of the recipe (default: student)")
    parser.add_argument(
        "--weights", help="a file or a folder of weights (default: the run's student, or the recipe's weights)"
    )
    parser.add_argument("--output", help="also write the scores to this JSON file")
    parser.add_argument("--trust-checkpoint", action="store_true", help="read weights files that could start code")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_intermixed_args()
    recipe = read(options.recipe, options.overrides, trust_checkpoint=options.trust_checkpoint)
    if options.network not in recipe.networks:
        raise ValueError(f"--network {options.network}: the recipe has {', '.join(recipe.networks)}")
    accelerator = start_accelerator(recipe)
    entry = recipe.networks[options.network]
    path = options.weights or (str(recipe.folder) if entry.train else weights_path(entry))
    if path is None:
        raise ValueError(f"networks.{options.network} has no weights in the recipe; name some with --weights")
    dataset = build_dataset(recipe, recipe.data.val_split)
    network = build_network(
        options.network,
        entry.model_copy(update={"weights": path}),
        dataset.num_classes,
        recipe.seed,
        dataset.class_names,
        trust=options.trust_checkpoint,
    )
    result = evaluate(
        network.to(accelerator.device), dataset, recipe, accelerator, title=f"scoring {options.network}"
    ).scores
    if accelerator.is_main_process:
        print(table(result, dataset.class_names))
        print(
            f"{options.network} of {recipe.name} from {path}, {len(dataset)} images of "
            f"{recipe.data.val_split}, {protocol_words(recipe)}"
        )
        if options.output:
            with open(options.output, "w") as file:
                json.dump({"protocol": protocol_words(recipe), **plain(asdict(result))}, file, indent=2)
    accelerator.end_training()


if __name__ == "__main__":
    run_command(main)
