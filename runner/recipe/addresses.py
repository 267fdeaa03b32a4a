"""Where a recipe lies: a file here, an exported network, the Hub, a wandb run; and what one from elsewhere may not say.

A recipe is data, wherever it comes from: it names parts of this project and values for their arguments. One from
elsewhere is held to less than one of this machine: it builds only on recipes that lie beside it, and it writes only
below runs/ in the working directory.
"""

import functools
import netrc
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from segkd.runner.recipe import hub
from segkd.runner.recipe.mistakes import Mistake, Origins
from segkd.runner.recipe.program_file import ProgramFile
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.section import OtherRecipe
from segkd.runner.recipe.yaml_file import lies_inside

RECIPES = ("*.yaml", "*.yml")  # of a repository, with all that one of them may build on
OF_A_RUN = re.compile(r"wandb://(?P<run>[\w.-]+/[\w.-]+/[\w.-]+)")


@dataclass(frozen=True)
class Source:
    """A recipe file that can be read here.

    Attributes:
        path: the file on this machine.
        root: of a recipe from elsewhere, the folder with all that it may build on; None for a recipe of this machine.
        address: what `root` is called where it came from, such as hf://user/repo@commit.
        given: what a recipe says that is no file; its paths count from the working directory.
    """

    path: Path
    root: Path | None = None
    address: str = ""
    given: dict | None = None

    @property
    def default_name(self) -> str:
        """What a recipe without a name is called: camvid-kl for recipes/camvid/kl.yaml, kl for any other kl.yaml."""
        words = Path(os.path.abspath(self.path)).with_suffix("").parts
        below = words[-words[::-1].index("recipes") :] if "recipes" in words[:-1] else words[-1:]
        return re.sub("[^A-Za-z0-9.]+", "-", "-".join(below)).strip("-.")

    def other(self, recipe: str) -> str:
        """Path from here, or address, of another recipe that this one names by a path relative to itself."""
        if is_address(recipe):
            return recipe
        path = os.path.normpath(self.path.parent / recipe)
        return os.path.relpath(path) if self.root is None else f"{self.address}/{os.path.relpath(path, self.root)}"

    def named(self, text: str) -> str:
        """A message about this recipe, with its address in place of where its copy lies here."""
        return text if self.root is None else text.replace(str(self.root), self.address)


def is_address(recipe: str | Path) -> bool:
    """Whether this names a recipe that lies elsewhere."""
    return str(recipe).startswith(("hf://", "wandb://"))


def find_source(recipe: str | Path | dict) -> Source:
    """The recipe that a mapping is, or a path, `hf://user/repo[@revision]/path.yaml` or `wandb://entity/project/run` names.

    The path of an exported network means the recipe that the file holds, which may come from anywhere.

    Raises:
        ValueError: an address of another form. FileNotFoundError: nothing there, no access, or no network.
    """
    if isinstance(recipe, dict):
        return Source(Path("recipe.yaml"), given=recipe)
    if not is_address(recipe):
        program = ProgramFile.named(recipe)
        if program is None:
            return Source(Path(recipe))
        root = Path(_recipe_inside(program.path).name)
        return Source(root / "recipe.yaml", root, str(recipe))
    found = hub.ADDRESS.fullmatch(str(recipe))
    if found and (found["path"] or "").endswith((".yaml", ".yml")):
        root = hub.download(found["repo"], found["revision"], RECIPES)
        path = Path(os.path.normpath(root / found["path"]))
        if not (lies_inside(root, path) and path.is_file()):
            raise FileNotFoundError(f"{recipe}: the Hub's {found['repo']} has no file {found['path']}")
        # the commit that was found, so that what is written down means the same files tomorrow
        revision = root.name if re.fullmatch("[0-9a-f]{40}", root.name) else found["revision"]
        return Source(path, root, f"hf://{found['repo']}" + (f"@{revision}" if revision else ""))
    found = OF_A_RUN.fullmatch(str(recipe))
    if found:
        root = Path(_run_folder(found["run"]).name)
        return Source(root / "recipe.yaml", root, str(recipe))
    raise ValueError(
        f"{recipe} is no address of a recipe; write hf://user/repo/path.yaml (a model repository, @revision after repo "
        f"for one that is not its newest) or wandb://entity/project/run"
    )


@functools.cache
def _run_folder(run: str) -> tempfile.TemporaryDirectory:
    """A folder, there until the program ends, with the recipe.yaml that a wandb run has saved."""
    if not has_account():  # wandb would ask
        raise ValueError(f"wandb://{run}: no account is configured (wandb login), so no run can be read")
    folder = tempfile.TemporaryDirectory(prefix="segkd-")
    try:
        import wandb

        wandb.Api().run(run).file("recipe.yaml").download(root=folder.name, replace=True)
    except Exception as error:  # its errors have no common class: no such run, no access, no network, not installed
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise FileNotFoundError(
            f"wandb://{run}: its recipe.yaml could not be had ({reason}); check entity/project/run, the network and "
            f"whether the run was made by segkd"
        ) from error
    return folder


@functools.cache
def _recipe_inside(path: Path) -> tempfile.TemporaryDirectory:
    """A folder, there until the program ends, with the recipe.yaml that an exported network carries with it."""
    text = ProgramFile(path).read_about().get("yaml")
    if text is None:
        raise ValueError(f"{path} holds no recipe, so nothing says which data it is for; name a recipe, too")
    folder = tempfile.TemporaryDirectory(prefix="segkd-")
    (Path(folder.name) / "recipe.yaml").write_text(text)
    return folder


def wrong_from_elsewhere(recipe: Recipe, source: Source, origins: Origins) -> list[Mistake]:
    """What a recipe from elsewhere may not say, unless the command line has said it; nothing for one of this machine.

    Args:
        origins: where each value was written.
    """
    if source.root is None:
        return []
    mistakes: list[Mistake] = []
    caches = {name: network.cache for name, network in recipe.networks.items() if network.cache is not None}
    folders = {("networks", name, "cache", "folder"): cache.folder for name, cache in caches.items()}
    extra = recipe.data.extra
    if extra is not None and extra.pseudo is not None:
        folders[("data", "extra", "pseudo", "folder")] = extra.pseudo.folder
    folders |= {("data", "cache_folder"): recipe.data.cache_folder, ("tracking", "folder"): recipe.tracking.folder}
    for key, given in folders.items():
        folder = Path("runs" if given is None else given)
        if (".." in folder.parts or folder.parts[:1] != ("runs",)) and not origins.by_hand(key):
            text = f"a recipe from elsewhere writes below runs/ only, not to {str(folder)!r}; name a folder yourself "
            mistakes.append((key, f"{text}with {'.'.join(key)}=... on the command line"))
    others = {("networks", name, "weights"): network.weights for name, network in recipe.networks.items()}
    for key, other in (others | {("baseline",): recipe.baseline}).items():
        if isinstance(other, OtherRecipe) and (
            is_address(other.recipe) or not lies_inside(source.root, source.path.parent / other.recipe)
        ):
            instead = "baseline=null" if key == ("baseline",) else f"{'.'.join(key)}=FILE_OR_RUN_FOLDER"
            text = f"{other.recipe} does not lie beside this recipe in {source.address}"
            mistakes.append((key, f"{text}; say {instead} on the command line"))
    return mistakes


def has_account() -> bool:
    """Whether wandb can log in without asking: a key in the environment, or in ~/.netrc as `wandb login` leaves it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
