"""The card of a delivered network, made from its recipe and its scores, and the upload to the Hugging Face Hub."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import yaml

from segkd.models._weights import first_line
from segkd.runner.building.delivered import Delivered
from segkd.runner.console import markdown, markdown_text, percent
from segkd.runner.recipe.network import Network
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.yaml_file import write
from segkd.runner.run_folder.folder import RunFolder

LOADING = """```python
from segkd.runner.run_folder.pretrained import from_pretrained
network = from_pretrained("{name}")
classes = network(images).resized(images.shape[-2:]).argmax(1)  # images: (B, 3, H, W) uint8 RGB
```"""


def push(folder: Path, name: str, *, private: bool = False) -> str:
    """Uploads a folder as the Hub's repository `user/repo` and returns its address.

    Raises:
        ValueError: the Hub refuses, cannot be reached, or is not to be asked (HF_HUB_OFFLINE).
    """
    import huggingface_hub  # nothing else here may reach the network

    try:
        api = huggingface_hub.HfApi()
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Delivered by segkd")
    # no access, no network, no login, HF_HUB_OFFLINE, a malformed name: whatever the package's client makes of it
    except Exception as error:
        raise ValueError(
            f"--push-to-hub {name}: nothing was uploaded ({first_line(error)}); the folder is {folder}, log in with "
            f"hf auth login and check HF_HUB_OFFLINE"
        ) from error
    return str(address)


def write_card(delivered: Delivered, folder: Path, name: str, size: str) -> None:
    """README.md of the repository: what it is, how to load it, its scores, and the recipe that made it, also as a file.

    Args:
        name: what `from_pretrained` finds it under. size: its parameters, FLOPs and milliseconds, in words.
    """
    from huggingface_hub import EvalResult, ModelCardData

    config, scores = delivered.config, delivered.scores
    title = config.get("recipe", name)
    values = shareable(yaml.safe_load(delivered.recipe)) if delivered.recipe else None
    recipe = None
    if values:
        recipe = Recipe.model_validate_json(json.dumps(values))
        RunFolder(folder).recipe_file.write_text(write(values))  # what hf://user/name/recipe.yaml reads
    metadata = ModelCardData(
        library_name="segkd",
        pipeline_tag="image-segmentation",
        tags=["semantic-segmentation", "knowledge-distillation", config["model"]],
    )
    taught = f", {_origin(recipe)}" if recipe and delivered.is_student else ""
    text = [
        f"# {markdown_text(title)}",
        f"A `{Network(model=config['model'], args=config['args']).title}` for semantic segmentation with "
        f"{config['num_classes']} classes{taught}, delivered by segkd. {size}",
        "## Loading",
        LOADING.format(name=name),
        "Images are plain RGB bytes; the network normalises them itself.",
    ]
    if scores.get("miou") is None:
        text += [markdown_text(f"Classes: {', '.join(config.get('class_names') or [])}.")]
    else:
        text += ["## Scores", *_scores(config, scores, recipe)]
    if recipe:
        text += ["## Recipe", "Every value, defaults written out.", f"```yaml\n{write(values)}```"]
    if recipe and scores.get("miou") is not None:
        metadata.model_name, metadata.metrics = title, ["mean_iou"]
        metadata.eval_results = [
            EvalResult(
                task_type="image-segmentation",
                dataset_type=recipe.data.dataset,
                dataset_name=recipe.data.dataset,
                dataset_split=recipe.data.scored,
                metric_type="mean_iou",
                metric_name="mIoU (%)",
                metric_value=round(100 * scores["miou"], 2),
            )
        ]
    (folder / "README.md").write_text("\n\n".join([f"---\n{metadata.to_yaml()}\n---", *text]) + "\n")


def _origin(recipe: Recipe) -> str:
    """The data and the teachers a student learnt from."""
    sources = dict.fromkeys(term.source for term in recipe.losses if term.of == "student" and term.source)
    teachers = " and ".join(f"`{name}`, a {recipe.networks[name].title}" for name in sources)
    trained = f"trained on {recipe.data.dataset} (`{recipe.data.train_split}`)"
    return f"{trained}, distilled from {teachers}" if teachers else trained


def _scores(config: dict, scores: dict, recipe: Recipe | None) -> Iterator[str]:
    """The measured numbers, per class where the run's log has them."""
    where = (
        f" on {recipe.data.dataset} (`{recipe.data.scored}`), by the `evaluate` section of the recipe" if recipe else ""
    )
    chosen = f", the checkpoint of iteration {scores['iteration']}" if "iteration" in scores else ""
    yield f"{percent(scores['miou'])} % mIoU{where}{chosen}."
    if "iou_per_class" in scores:
        yield f"Pixel accuracy {percent(scores['pixel_accuracy'])} %."
        classes = zip(config["class_names"], scores["iou_per_class"], scores["accuracy_per_class"])
        lines = [[name, percent(iou), percent(accuracy)] for name, iou, accuracy in classes]
        yield markdown(["class", "IoU (%)", "accuracy (%)"], lines)


def shareable(value: object) -> object:
    """A recipe's values; of a path that begins at the root of this machine only the last part is shown."""
    if isinstance(value, dict):
        return {key: shareable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shareable(item) for item in value]
    return os.path.basename(value.rstrip("/")) if isinstance(value, str) and os.path.isabs(value) else value
