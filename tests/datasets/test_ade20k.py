from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkd.datasets.ade20k import ADE20K


def test_ids_count_from_one_and_zero_is_ignored(tmp_path: Path) -> None:
    for folder in ("images", "annotations"):
        (tmp_path / folder / "validation").mkdir(parents=True)
    Image.new("RGB", (151, 1)).save(tmp_path / "images" / "validation" / "ADE_val_00000001.jpg")
    label = tmp_path / "annotations" / "validation" / "ADE_val_00000001.png"
    Image.fromarray(np.arange(151, dtype=np.uint8)[None]).save(label)
    dataset = ADE20K(str(tmp_path), "val")
    assert len(dataset) == 1 and dataset.name(0) == "ADE_val_00000001"
    assert np.asarray(dataset[0][1])[0].tolist() == [255, *range(150)]
    Image.fromarray(np.full((1, 151), 151, dtype=np.uint8)).save(label)
    with pytest.raises(ValueError, match="label ids 151 are not allowed"):
        dataset[0]
    assert [ADE20K.class_names[index] for index in (0, 44, 149)] == ["wall", "chest of drawers", "flag"]
