"""Predictions of frozen networks on views that come again: made once, kept on the disk, read in their place."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from segkd.models._class_map import ClassMapped
from segkd.models._prediction import Prediction
from segkd.runner.building.graph import Graph, Places, joined
from segkd.runner.building.networks import blaming
from segkd.runner.building.stored_maps import Full, Largest, divergence
from segkd.runner.console import progress_bar, say
from segkd.runner.loading.batch import TrainingViews, crops
from segkd.runner.loading.content import PILLOW
from segkd.runner.loading.data_sets import kept_views, times_shown
from segkd.runner.loading.sampler import batches_of
from segkd.runner.recipe.cache import Cache
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.view_store import ViewStore

# to be raised whenever the same recipe would make other views or write other bytes than before
FORMAT = 1
GIB = 2**30

Form = Full | Largest


class CachedNetwork:
    """What a frozen network makes of the views of one stream of images: cached(images, places) -> Prediction.

    Predictions are read where they are kept. The others are made, one image at a time, so that what is kept of a view
    does not depend on the batch it is met in, and are read as they will be from then on: a view's first time is like
    every later one.

    Args:
        name: of the network. stream: labelled or unlabelled.
        cache: its settings in the recipe. forms: map (logits, aux, the name of a feature) -> how it is written.
        align_corners: of its predictions. compares: tells once how far what is read lies from the network itself.
    """

    def __init__(
        self,
        name: str,
        stream: str,
        network: nn.Module,
        cache: Cache,
        forms: dict[str, Form],
        store: ViewStore,
        align_corners: bool,
        compares: bool,
    ):
        self.name, self.stream, self.network, self.cache = name, stream, network, cache
        self.forms, self.store, self.align_corners, self.compares = forms, store, align_corners, compares

    def __call__(self, images: Tensor, places: Places) -> Prediction:
        rows = self._rows(images)
        for image, (index, view), *here in zip(images.split(1), places, *rows.values()):
            payloads = dict(zip(rows, map(Tensor.numpy, here)))
            if not self.store.read(index, view, payloads):
                self._make(image, payloads)
                self.store.write(index, view, payloads)
        kept = self.read(rows, images.device)
        if self.compares:
            self.compares = False
            say(self.compared(images, kept))
        return kept

    def read(self, rows: dict[str, Tensor], device: torch.device) -> Prediction:
        """The prediction that rows of bytes, (B, size) for each map, stand for."""
        maps = {name: self.forms[name].read(row.to(device, non_blocking=True)) for name, row in rows.items()}
        features = {name: values for name, values in maps.items() if name not in ("logits", "aux")}
        return Prediction(maps.get("logits"), self.align_corners, maps.get("aux"), features)

    def stored(self, images: Tensor) -> Prediction:
        """What would be read of these images if they were kept; nothing is."""
        rows = self._rows(images)
        for image, *here in zip(images.split(1), *rows.values()):
            self._make(image, dict(zip(rows, map(Tensor.numpy, here))))
        return self.read(rows, images.device)

    def compared(self, images: Tensor, kept: Prediction) -> str:
        """A line on how far what is read lies from what the network says of the same images."""
        with torch.no_grad():  # as they are made, so that a compiled network is compiled for one image only
            live = maps_of(joined([self.network(image) for image in images.split(1)]))
        theirs, told = maps_of(kept), []
        for name in self.forms:
            if name in ("logits", "aux"):
                told.append(f"{name}: KL(live || read) {divergence(live[name], theirs[name]):.2g} nats a pixel")
            else:
                off = (live[name].float() - theirs[name]).norm() / live[name].float().norm()
                told.append(f"{name}: off by {off.item():.2g} of its norm")
        return f"{self.title}: of the first {len(images)} images, {', '.join(told)}"

    @property
    def title(self) -> str:
        """Whose cache it is, of which images."""
        return f"{self.name}'s cache of {self.stream} images"

    def described(self) -> str:
        """A line on what is kept, how large that is, and how much of it is there."""
        store, filled = self.store, int(self.store.filled().sum())
        return (
            f"{self.title}: {words_of(self.forms)}, {store.whole_size / GIB:.3g} GiB for {store.views} views of "
            f"{store.images} images; {filled} of {store.views * store.images} are there, in {store.folder}"
        )

    def _rows(self, images: Tensor) -> dict[str, Tensor]:
        """Room for the bytes of every map, (B, size), from where copies to the images' device are fastest."""
        pinned = images.device.type == "cuda"
        return {
            name: torch.empty(len(images), form.size, dtype=torch.uint8, pin_memory=pinned)
            for name, form in self.forms.items()
        }

    def _make(self, image: Tensor, payloads: dict[str, np.ndarray]) -> None:
        """Fills payloads with the bytes of what the network makes of one image, (1, 3, H, W)."""
        with torch.no_grad():
            maps = maps_of(self.network(image))
        for name, form in self.forms.items():
            with blaming(f"networks.{self.name}.cache: {name}: "):
                np.copyto(payloads[name], form.write(maps[name]).numpy())


def maps_of(prediction: Prediction) -> dict[str, Tensor]:
    """All maps of a prediction by name."""
    scores = {"logits": prediction.logits, "aux": prediction.aux}
    return {name: values for name, values in scores.items() if values is not None} | prediction.features


def open_caches(
    recipe: Recipe, graph: Graph, sets: dict[str, Dataset | None], accelerator: Accelerator, *, tells: bool
) -> dict[tuple[str, str], CachedNetwork]:
    """The caches that a recipe's terms read, by network and stream; nothing is written before there is something.

    Args:
        graph: on its device. sets: the data set of each stream. tells: what is there, and how true it is.

    Raises:
        ValueError: larger than max_gib or than the disk's room; a folder that holds something else.
    """
    caches = {}
    for stream, dataset in sets.items():
        for name, cache in recipe.caches_on(stream).items():
            network = graph.network(name)
            device = next(network.parameters()).device
            with torch.no_grad(), accelerator.autocast():
                prediction = network(crops(recipe, 1, device))  # as views come, or a compiled one is compiled once more
            read = graph.wanted[name] | {"logits"}  # of what a training beside this one shares, that may want more
            forms = {key: form for key, form in forms_of(name, cache, prediction).items() if key in read}
            # a file's name tells its format: runs that keep other maps, or as other bytes, share what they can
            files = {key: (f"{key.replace('/', '_')}-{form.name}", form.size) for key, form in forms.items()}
            above = Path(cache.folder or Path(recipe.tracking.folder) / "teacher_cache")
            description = description_of(recipe, name, network, stream, dataset)
            store = ViewStore(above, description, files, len(dataset), kept_views(cache, recipe, stream, dataset))
            caches[name, stream] = CachedNetwork(
                name, stream, network, cache, forms, store, prediction.align_corners, tells
            )
    check_room(caches)
    for (_, stream), cached in caches.items() if tells else ():
        say(cached.described())
        shown, views = times_shown(recipe, stream, sets[stream]), cached.store.views
        if shown is not None and shown > views:
            say(f"{cached.title}: the run shows an image up to {shown} times, in {views} views; more views vary more")
    return caches


def forms_of(name: str, cache: Cache, prediction: Prediction) -> dict[str, Form]:
    """How each map of the network `name` is written; of scores it may be the largest classes' alone."""
    forms: dict[str, Form] = {}
    for key, maps in maps_of(prediction).items():
        shape = tuple(maps.shape[1:])
        if key in ("logits", "aux") and cache.logits != "full":
            with blaming(f"networks.{name}.cache."):
                forms[key] = Largest(shape, cache.logits, cache.bits)
        else:
            forms[key] = Full(shape, cache.bits)
    return forms


def words_of(forms: dict[str, Form]) -> str:
    """The maps that are kept, and what a view of them takes."""
    maps = ", ".join(f"{name} {form.words}" for name, form in forms.items())
    return f"{maps}; {sum(form.size for form in forms.values()) / 1000:.1f} kB a view"


def check_room(caches: dict[tuple[str, str], CachedNetwork]) -> None:
    """ValueError where a network's caches are larger than it may have, or all of them than what the disk has left."""
    for name in {name for name, _ in caches}:
        own = [one for (network, _), one in caches.items() if network == name]
        whole, limit = sum(one.store.whole_size for one in own) / GIB, own[0].cache.max_gib
        if whole > limit:
            raise ValueError(
                f"networks.{name}.cache: {own[0].cache.views} views of {sum(one.store.images for one in own)} images "
                f"take {whole:.3g} GiB, more than max_gib, {limit:g} ({words_of(own[0].forms)}); lower views, keep "
                f"less of each (logits: 3, bits: 8), or raise max_gib"
            )
    places = {one.store.folder.parent: 0 for one in caches.values()}
    for one in caches.values():
        places[one.store.folder.parent] += one.store.missing_size()
    for folder, missing in places.items():
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        free = shutil.disk_usage(there).free
        if missing > free:
            raise ValueError(
                f"the caches in {folder} still need {missing / GIB:.3g} GiB, and the disk has {free / GIB:.3g} left; "
                f"make room, give another cache.folder, or keep less (views, bits: 8, logits: 3)"
            )


def description_of(recipe: Recipe, name: str, network: nn.Module, stream: str, dataset: Dataset) -> dict:
    """All that a network's predictions on the views of a stream are a function of, as plain values."""
    entry, data = recipe.networks[name], recipe.data
    # inside of what makes a network cheaper, if anything does
    mapped = [part for part in network.modules() if isinstance(part, ClassMapped)]
    stamps = json.dumps([dataset.stamp(index) for index in range(len(dataset))])
    return {
        "format": FORMAT,
        "network": {
            **entry.model_dump(mode="json", include={"source", "model", "args", "precision", "input_scale"}),
            "classes": [[part.sizes, part.order.tolist()] for part in mapped],
            "normalize": network.normalize.constants,
            "weights": weights_checksum(network),
            "precision_of_the_loop": recipe.loop.precision,
        },
        "images": {
            **data.model_dump(mode="json", include={"dataset", "args", "train_split", "resize", "crop_size"}),
            "transform": data.transform if stream == "labelled" else data.unlabelled.transform,
            "pillow": PILLOW,
            "files": hashlib.sha256(stamps.encode()).hexdigest(),
        },
        "views": {"stream": stream, "seed": entry.cache.seed},
    }


def weights_checksum(network: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers."""
    digest = hashlib.sha256()
    for key, values in network.state_dict().items():
        digest.update(f"{key} {tuple(values.shape)} {values.dtype}\n".encode())
        digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def fill(cached: CachedNetwork, views: TrainingViews, recipe: Recipe, accelerator: Accelerator) -> None:
    """Makes what is missing of a cache, each process its share; a stop loses nothing, the next call goes on.

    Args:
        views: those of its stream.
    """
    missing = ~cached.store.filled()  # (N, views)
    rank, world, size = accelerator.process_index, accelerator.num_processes, recipe.data.batch_size

    def samples() -> Iterator[list[tuple[int, int]]]:
        batch = []
        for index in range(rank, len(missing), world):
            order = views.fixed.order(0, index, views.seed)
            batch += [(epoch, index) for epoch, view in enumerate(order) if missing[index, view]]
            while len(batch) >= size:
                yield batch[:size]
                batch = batch[size:]
        if batch:
            yield batch

    total, shown = int(missing[rank::world].sum()), accelerator.is_main_process
    with progress_bar(total=total, title=cached.title, unit="views", shown=shown) as bar:
        on_gpu = accelerator.device.type == "cuda"
        options = {"workers": recipe.data.workers, "pin_memory": on_gpu, "timeout": recipe.loop.timeout}
        for batch in batches_of(views, samples(), **options):
            with accelerator.autocast():
                cached(batch.images.to(accelerator.device, non_blocking=True), batch.places)
            bar.update(len(batch.indices))
