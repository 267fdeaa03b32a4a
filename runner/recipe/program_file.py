"""An exported network in one file, ONNX or torch.export: what it says of itself, and what lies beside it."""

import json
import zipfile
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from segkd.runner.recipe.student_folder import MAY_BE_LEFT_OUT
from segkd.runner.recipe.text_file import LARGEST

KINDS = {".onnx": "ONNX", ".pt2": "torch.export"}
PRECISIONS = {"int8": "INT8", "int8-qat": "INT8 QAT"}  # as tables call them; float32 needs no word
KEY = "segkd"  # of what an export writes into its file: of ONNX's metadata, and of torch's extra files
# what that is: fields of config.json, how scores are resized, its precision, the run's recipe as YAML
KNOWN = MAY_BE_LEFT_OUT | {"model": str, "args": dict, "num_classes": int, "normalize": str | dict,
                           "align_corners": bool, "precision": str, "recipe": str, "yaml": str}  # fmt: skip


class ProgramFile:
    """The file of an exported network. It need not lie in a run folder, nor come from this project."""

    def __init__(self, path: Path | str):
        self.path = path = Path(path)
        self.scores_file = path.with_name(f"{path.name}.json")  # its own, by its own runtime
        self.images_file = path.with_name(f"{path.name}.npz")  # counts of each validation image for it
        self.report_file = path.with_name(f"{path.name}.md")

    @classmethod
    def named(cls, path: Path | str) -> "ProgramFile | None":
        """The one of a path that ends like such a file; None for any other."""
        return cls(path) if Path(path).suffix.lower() in KINDS else None

    @property
    def kind(self) -> str:
        """Its format in words."""
        return KINDS[self.path.suffix.lower()]

    def refuse_unreadable(self) -> None:
        """FileNotFoundError or ValueError where there is no file with something in it."""
        if not self.path.exists():
            raise FileNotFoundError(f"there is no file {self.path}")
        if not self.path.is_file():
            raise ValueError(f"{self.path} is no file; name the exported file itself")
        if self.path.stat().st_size == 0:
            raise ValueError(f"{self.path} is empty; export it again")

    def read_about(self) -> dict:
        """What the export has written into the file of itself; empty for a file that is none of ours.

        Raises:
            FileNotFoundError, ValueError: there is no such file, or it is damaged.
        """
        self.refuse_unreadable()
        read = self._read_zip if self.path.suffix.lower() == ".pt2" else self._read_onnx
        try:
            about = json.loads(read() or "{}")
        except ImportError:
            raise ValueError(f'{self.path} needs onnx, which is not installed: pip install -e ".[export]"') from None
        except Exception as error:  # DecodeError, BadZipFile, zlib.error, UnicodeDecodeError, ...
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise ValueError(f"{self.path} is damaged, or no {self.kind} file ({reason}); export it again") from None
        if not isinstance(about, dict):
            raise ValueError(f"{self.path}: what it says of itself under {KEY!r} is no mapping; export it again")
        for key, kind in KNOWN.items():
            try:
                TypeAdapter(kind | None).validate_python(about.get(key))
            except ValidationError as error:
                raise ValueError(f"{self.path}: {KEY}.{key} in it: {error.errors()[0]['msg']}") from None
        return about

    def _read_onnx(self) -> str | None:
        import onnx  # for those who have such files

        # nothing is read from other files that this one may name
        model = onnx.load(self.path, load_external_data=False)
        if not model.graph.node:
            raise ValueError("it holds no network")
        return next((entry.value for entry in model.metadata_props if entry.key == KEY), None)

    def _read_zip(self) -> str | None:
        with zipfile.ZipFile(self.path) as archive:
            name = next((name for name in archive.namelist() if name.endswith(f"/extra/{KEY}.json")), None)
            if name is not None and archive.getinfo(name).file_size > LARGEST:
                raise ValueError(f"{name} in it is larger than any of its kind")
            return None if name is None else archive.read(name).decode()
