"""Networks of the original codes with the scores and maps recorded there: read as their keys tell, and written back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from recorded import networks
from recorded.compare import compare_map
from recorded.fill import fill_state

from segkd.models._checkpoints import guess, read, write

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the recordings are not beside this checkout")


@pytest.mark.parametrize(
    ("folder", "layout", "name", "tolerance"),
    [
        ("mmseg", "mmseg", "parity_deeplabv3_r18_d8_19", 1e-6),
        ("mmseg", "mmseg", "parity_pspnet_r18_d8_21", 1e-6),
        ("mmseg", "mmseg", "parity_deeplabv3plus_mbv2_d8_19", 1e-6),
        # the others recorded a float32 forward, whose own error is of this size
        ("tsic", "mmseg", "parity_student_dlv3_r18_c19", 1e-5),
        ("cirkd", "cirkd", "parity_psp_resnet18", 1e-5),
        ("cirkd", "cirkd", "parity_psp_mobilenetv3_large", 3e-5),
        ("cirkd", "cirkd", "parity_deeplabv3_mobilenetv3_small", 3e-5),
        ("cirkd", "cirkd", "parity_deeplab_mobile_mobilevit_xxs", 3e-5),
        ("cirkd", "cirkd", "parity_segformer_b0", 2e-5),
        ("dist", "cirkd", "parity_psp_mobile_mobilenetv2", 1e-4),
        ("aicsd", "aicsd", "deeplabv3plus_resnet18", 1e-4),
        ("aicsd", "aicsd", "deeplabv3plus_mobilenetv2", 1e-4),
        ("trikd", "unimatch", "parity_deeplabv3plus_resnet50", 2e-5),
        ("trikd", "trikd", "parity_trikd_tiny11m_224", 1e-4),
    ],
)
def test_scores_and_maps(folder, layout, name, tolerance):
    case = next(case for case in networks.find_cases(GOLDEN / folder) if case["case"] == name)
    theirs = fill_state(case)
    assert guess(theirs) == layout
    back = write(read(theirs, layout), layout)
    assert back.keys() == theirs.keys()
    same = {key for key in theirs if torch.equal(back[key], theirs[key])}
    # a file of AICSD's holds the MobileNetV2 twice; the recorded copies differ, and the last one counts
    assert all("features." in key for key in theirs.keys() - same) and (layout == "aicsd" or same == theirs.keys())
    with np.load(GOLDEN / folder / case.get("npz", f"{name}.npz")) as stored:
        expected = {key.removeprefix("expected:"): value for key, value in stored.items()}
    computed = networks.run_network(case, theirs, expected)
    for key, wanted in expected.items():
        maps = computed[key] if isinstance(computed[key], list) else [computed[key]]
        allowed = 1e-9 if key == "logits_float64" else tolerance
        assert None in [compare_map(np.asarray(ours), wanted, allowed, 0.0) for ours in maps], key
