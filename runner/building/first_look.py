"""One look at what frozen networks say before anything is trained: a broken teacher would be followed for days."""

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import Dataset

from segkd.datasets._resample import resize_image
from segkd.runner.building.graph import Graph
from segkd.runner.recipe.schema import Recipe


@torch.compiler.set_stance("force_eager")  # else a compiled network is compiled for two images, too
def refuse_broken_teachers(graph: Graph, recipe: Recipe, train_set: Dataset, accelerator: Accelerator) -> None:
    """Runs every frozen network that a term reads on the first training image, at the size of a crop.

    Raises:
        ValueError: one whose scores or features are NaN or infinite there.
    """
    taught_by = {term.source for term in graph.terms} - {None}
    names = [name for name, network in recipe.networks.items() if name in taught_by and not network.train]
    names = [name for name in names if recipe.networks[name].ema_of is None]
    if not names:
        return
    pixels = np.array(resize_image(train_set[0][0].convert("RGB"), recipe.data.crop_size))
    # twice where batches are larger than 1: group norms refuse a single value, which coarse maps of small crops are
    images = torch.from_numpy(pixels).permute(2, 0, 1).expand(min(2, recipe.data.batch_size), -1, -1, -1)
    images = images.to(accelerator.device)  # (B, 3, H, W)
    training = graph.training
    with torch.no_grad(), accelerator.autocast():
        predictions = graph.eval().predict(names, images)
    graph.train(training)
    for name, prediction in zip(names, predictions):
        maps = {"scores": prediction.logits, "auxiliary scores": prediction.aux, **prediction.features}
        broken = [what for what, values in maps.items() if values is not None and not values.isfinite().all()]
        if broken:
            own = recipe.networks[name].precision
            precision = f"loop.precision ({recipe.loop.precision})" if own is None else f"its precision ({own})"
            raise ValueError(
                f"networks.{name}: on the first training image its {', '.join(broken[:3])} are NaN or infinite; check "
                f"its weights, its normalize and {precision}"
            )
