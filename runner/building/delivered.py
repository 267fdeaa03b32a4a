"""What a run has delivered, for those who pass it on: one of its networks, what describes it, where its scores lie."""

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from segkd.models._class_map import ClassMapped
from segkd.models._weights import fill
from segkd.runner.building.networks import build_network, weights_path
from segkd.runner.recipe.network import RANDOM
from segkd.runner.recipe.student_folder import StudentFolder
from segkd.runner.run_folder import checkpoint
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.pretrained import description, find_student, from_pretrained

DEFAULT_SIZE = (512, 512)  # of a student folder without its run


@dataclass(frozen=True)
class Delivered:
    """A trained network, in eval mode.

    Attributes:
        config: the content of its config.json, see models and README.
        run: the run folder, None for a student folder that stands alone.
    """

    network: nn.Module
    config: dict
    run: RunFolder | None

    @property
    def recipe(self) -> str | None:
        """The resolved recipe of the run as YAML."""
        return self.run.recipe_file.read_text() if self.run else None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width it was trained on."""
        return self.run.read_recipe().data.crop_size if self.run else DEFAULT_SIZE

    @property
    def scores(self) -> dict:
        """The evaluation that chose the student: the row of metrics.jsonl, or the mIoU in config.json, or nothing."""
        rows = self.run.read_rows() if self.run and self.is_student else []
        chosen = [row for row in rows if "miou" in row and row["iteration"] == self.config.get("iteration")]
        return chosen[-1] if chosen else {key: self.config[key] for key in ("miou", "iteration") if key in self.config}

    @property
    def is_student(self) -> bool:
        """Whether it is the student and not another network of the run."""
        return self.config.get("network", "student") == "student"


def find(source: str, name: str = "student") -> Delivered:
    """The network `name` of a run folder, or the one in a student folder.

    Raises:
        FileNotFoundError: nothing delivered there, a run that has not finished, or weights that are gone.
        ValueError: no network of that name, or not from a run folder.
    """
    if not Path(source).exists():
        raise FileNotFoundError(f"there is no folder {source}; give a run folder or a student folder")
    student = find_student(source)
    above = RunFolder(student.path.parent)
    run = above if above.is_begun and above.student.path == student.path else None
    if name == "student":
        return Delivered(from_pretrained(student.path), student.read_config(), run)
    if run is None:
        raise ValueError(f"--network {name}: {source} holds one network, without the run it comes from")
    return _companion(run, name, student.read_config())


def _companion(run: RunFolder, name: str, student: dict) -> Delivered:
    """A network beside the student: a frozen one from its own weights, others from the student's checkpoint."""
    recipe = run.read_recipe()
    if name not in recipe.networks:
        raise ValueError(f"--network {name}: the recipe has {', '.join(recipe.networks)}")
    entry = recipe.networks[name]
    like = recipe.networks[entry.ema_of] if entry.ema_of else entry
    frozen = not entry.train and entry.ema_of is None
    if frozen and weights_path(entry) is None and like.source == "segkd":
        raise ValueError(f"--network {name} has no weights in the recipe: it was never trained")
    start, state, saved = like, {}, run.checkpoint(student["iteration"])
    if not frozen:
        state = _state_of(name, checkpoint.load(saved))
        rounded = like.int8 or any(key.endswith("input_range") for key in state)  # its own weights may have made it so
        start = like.model_copy(update={"weights": RANDOM, "int8": rounded})
    network = build_network(name, start, student["num_classes"], recipe.seed, student["class_names"])
    if not frozen:
        fill(network, state, f"{name} in {saved.path}")
    is_mapped = isinstance(network, ClassMapped)
    if is_mapped:  # what others load has the classes it was made with
        network = network.network
    args = like.args
    if network.lora_rank:
        network.merge_lora()
        args = args | {"lora_rank": 0}
    config = {"network": name, **description(network, like.source, like.model, args), "recipe": recipe.name}
    config["class_names"] = network.class_names
    if not is_mapped and network.num_classes == student["num_classes"]:
        config |= {key: student[key] for key in ("class_names", "palette", "ignore_index")}
    config |= {key: student[key] for key in ("resize",) if key in student}  # it was trained on, or taught, such images
    known = run.read_teachers()
    if name in known:
        config["miou"] = known[name]["miou"]
    return Delivered(network.eval(), config, run)


def _state_of(name: str, saved: dict) -> dict[str, Tensor]:
    """The weights of a trained network, or of a moving average, in what a checkpoint has saved for a resume."""
    if name in saved["averages"]:
        return {key.removeprefix("module."): value for key, value in saved["averages"][name].items() if "." in key}
    prefix = f"networks.{name}."
    return {key.removeprefix(prefix): value for key, value in saved["graph"].items() if key.startswith(prefix)}


def write_folder(delivered: Delivered, folder: Path) -> None:
    """config.json and model.safetensors: what `from_pretrained` reads."""
    student = StudentFolder(folder)
    student.config_file.write_text(json.dumps(delivered.config, indent=2) + "\n")
    checkpoint.write_tensors(student.weights_file, delivered.network.state_dict(), delivered.config)
