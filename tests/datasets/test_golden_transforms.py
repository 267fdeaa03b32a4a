"""Views, boxes and label maps recorded from the original codes of CIRKD, AICSD and TriKD, to the last grey level."""

from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden" / "datasets"


def test_pixels_are_the_originals(parity, monkeypatch, capsys):
    # where Pillow did the original's work we are exact; OpenCV's fixed-point rounding leaves one grey level
    exact = dict.fromkeys(("transform_train", "transform_val", "weak_aug", "strong_aug"), 1e-6)
    monkeypatch.setattr(parity, "TOLERANCE", parity.TOLERANCE | exact)
    assert parity.main([str(GOLDEN)]) == 0
    assert capsys.readouterr().out.endswith(" passed, 0 failed\n")
