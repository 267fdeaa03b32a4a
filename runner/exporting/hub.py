"""The card of a delivered network, made from its recipe and its scores, and the upload to the Hugging Face Hub."""

import os
from pathlib import Path

import yaml

from segkd.runner.building.delivered import Delivered
from segkd.runner.recipe.yaml_file import write

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
    except (OSError, ValueError) as error:  # no access, no network, no login, HF_HUB_OFFLINE, a malformed name
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(
            f"--push-to-hub {name}: nothing was uploaded ({reason}); the folder is {folder}, log in with hf auth login "
            f"and check HF_HUB_OFFLINE"
        ) from error
    return str(address)


def card(delivered: Delivered, name: str, size: str) -> str:
    """README.md of the repository: what it is, how to load it, its measured scores, the recipe that made it.

    Args:
        name: what `from_pretrained` finds it under. size: its parameters, FLOPs and milliseconds, in words.
    """
    config, scores = delivered.config, delivered.scores
    model = " ".join([config["model"], str(config["args"].get("backbone") or "")]).strip()
    recipe = yaml.safe_load(delivered.recipe) if delivered.recipe else None
    parts = [
        "---\n" + yaml.safe_dump(_front(config, scores, recipe), sort_keys=False) + "---",
        f"# {config.get('recipe', name)}",
        f"A `{model}` for semantic segmentation with {config['num_classes']} classes, {_taught(delivered, recipe)} "
        f"with segkd. {size}",
        "## Loading",
        LOADING.format(name=name),
        "Images are plain RGB bytes; the network normalises them itself.",
    ]
    if scores.get("miou") is not None:
        parts += ["## Scores", _scores(config, scores, recipe)]
    else:
        parts += ["Classes: " + ", ".join(config.get("class_names", [])) + "."]
    if recipe:
        parts += ["## Recipe", "Every value, defaults written out.", f"```yaml\n{shareable(recipe)}```"]
    return "\n\n".join(parts) + "\n"


def _front(config: dict, scores: dict, recipe: dict | None) -> dict:
    """The card's metadata, as the Hub reads it."""
    front = {
        "library_name": "segkd",
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", "knowledge-distillation", config["model"]],
    }
    if recipe and scores.get("miou") is not None:
        dataset = recipe["data"]["dataset"]
        result = {
            "task": {"type": "image-segmentation"},
            "dataset": {"name": dataset, "type": dataset, "split": recipe["data"]["val_split"]},
            "metrics": [{"name": "mIoU (%)", "type": "mean_iou", "value": round(100 * scores["miou"], 2)}],
        }
        front["metrics"] = ["mean_iou"]
        front["model-index"] = [{"name": config.get("recipe", config["model"]), "results": [result]}]
    return front


def _taught(delivered: Delivered, recipe: dict | None) -> str:
    """What it learned from."""
    if recipe is None or not delivered.is_student:
        return "delivered"
    sources = [term["from"] for term in recipe["losses"] if term["of"] == "student" and term["from"]]
    described = []
    for name in dict.fromkeys(sources):
        network = recipe["networks"][name]
        described.append(f"`{name}`, a {network['model']} {network['args'].get('backbone') or ''}".strip())
    teachers = f", distilled from {' and '.join(described)}," if described else ""
    return f"trained on {recipe['data']['dataset']} (`{recipe['data']['train_split']}`){teachers}"


def _scores(config: dict, scores: dict, recipe: dict | None) -> str:
    """The measured numbers, per class where the run's log has them."""
    where = f" on {recipe['data']['dataset']} (`{recipe['data']['val_split']}`)" if recipe else ""
    protocol = ", by the `evaluate` section of the recipe" if recipe else ""
    chosen = f", the checkpoint of iteration {scores['iteration']}" if "iteration" in scores else ""
    text = f"{100 * scores['miou']:.2f} % mIoU{where}{protocol}{chosen}."
    if "iou_per_class" not in scores:
        return text
    rows = zip(config["class_names"], scores["iou_per_class"], scores["accuracy_per_class"])
    table = ["| class | IoU (%) | accuracy (%) |", "| --- | --- | --- |"]
    table += [f"| {name} | {_percent(iou)} | {_percent(accuracy)} |" for name, iou, accuracy in rows]
    return text + f" Pixel accuracy {_percent(scores['pixel_accuracy'])} %.\n\n" + "\n".join(table)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def shareable(value: dict) -> str:
    """A recipe's values as YAML; of a path that begins at the root of this machine only the last part is told."""

    def short(inner: object) -> object:
        if isinstance(inner, dict):
            return {key: short(item) for key, item in inner.items()}
        if isinstance(inner, list):
            return [short(item) for item in inner]
        return os.path.basename(inner.rstrip("/")) if isinstance(inner, str) and os.path.isabs(inner) else inner

    return write(short(value))
