"""The program `segkd`: `segkd distill recipe.yaml` is `python runner/distill.py recipe.yaml`, wherever one is.

For several GPUs `accelerate launch -m segkd.runner.distill recipe.yaml` starts the same.
"""

import difflib
import runpy
import sys

COMMANDS = {
    "recipes": "write one for your own images, advise one; list, show, copy, compare them; every option",
    "check": "say whether a recipe will run, and what it costs",
    "distill": "train a recipe",
    "score": "score a network on a split",
    "compare": "compare runs",
    "sweep": "train several methods with several seeds and compare them",
    "predict": "predict the classes of images",
    "submit": "write and check what a test server takes",
    "export": "turn what a run has delivered into files that others load",
    "measure": "time networks and exported files in turn, beside their scores",
}


def main() -> None:
    name = (sys.argv[1:] or ["--help"])[0]
    if name in ("-h", "--help"):
        print("usage: segkd COMMAND ...\n\nKnowledge distillation for semantic segmentation.\n")
        print("\n".join(f"  {name:9}{meaning}" for name, meaning in COMMANDS.items()))
        print("\n`segkd COMMAND --help` lists what a command takes.")
    elif name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f", did you mean {close[0]}?" if close else ""
        print(f"segkd: there is no command {name}{hint}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    else:
        sys.argv = sys.argv[1:]
        runpy.run_module(f"segkd.runner.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
