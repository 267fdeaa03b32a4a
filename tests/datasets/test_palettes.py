from segkd.datasets._palettes import bit_palette


def test_colours_are_distinct_and_begin_as_in_the_development_kit() -> None:
    palette = bit_palette(256)
    assert len(set(palette)) == 256
    assert palette[:3] == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    assert palette[8] == (64, 0, 0) and palette[255] == (224, 224, 192)
