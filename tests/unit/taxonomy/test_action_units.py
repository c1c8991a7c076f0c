import pytest

from vea.taxonomy.action_units import level, read_units


def test_units_are_read_by_the_weights_of_the_table_and_end_at_one():
    shapes = {f"{name}{side}": 0.0 for name in ("browDown", "browOuterUp", "eyeWide", "eyeSquint", "mouthUpperUp",
              "mouthSmile", "mouthDimple", "mouthFrown", "mouthLowerDown", "mouthStretch", "mouthPress", "eyeBlink")
              for side in ("Left", "Right")}  # fmt: skip
    shapes |= dict.fromkeys(("browInnerUp", "mouthShrugLower", "mouthPucker", "mouthFunnel", "jawOpen"), 0.0)
    shapes |= {"mouthRollLower": 0.0, "mouthRollUpper": 0.0}
    assert set(read_units(shapes).values()) == {0.0}
    found = read_units(shapes | {"mouthSmileLeft": 0.2, "mouthSmileRight": 0.4, "jawOpen": 0.9})
    assert found["AU12 lip corner puller"] == pytest.approx(1.162 * 0.3)
    assert found["AU26 jaw drop"] == found["AU25 lips part"] == 1.0


def test_the_scale_has_four_words():
    assert [level(value) for value in (0.0, 0.099, 0.1, 0.3, 0.599, 0.6, 1.0)] == [
        "absent", "absent", "slight", "moderate", "moderate", "strong", "strong",
    ]  # fmt: skip
