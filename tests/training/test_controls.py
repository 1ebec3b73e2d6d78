import numpy as np

from app.imaging import phantom
from tests.fakes import FakeEngine
from training import controls

POSITIVE = np.array([True, False] * 10)


def images(centre: bool, border: bool) -> np.ndarray:
    """Images whose label shows as brightness in the centre, at the border, or both."""
    rng = np.random.default_rng(2)
    pixels = rng.integers(90, 110, (20, 224, 224, 1), np.uint8)
    inside = np.zeros((1, 224, 224, 1), bool)
    inside[:, controls.CENTRE, controls.CENTRE] = True
    brighter = POSITIVE[:, None, None, None] & ((inside & centre) | (~inside & border))
    return pixels + brighter.astype(np.uint8) * 60


def measured(pixels: np.ndarray) -> dict[str, float]:
    """The fake engine says COVID-19 of what is bright."""
    found = controls.controls(FakeEngine(), pixels, POSITIVE, seed=1)
    return {control.name: control.auc.value for control in found}


def test_a_model_that_looks_at_the_border_is_found_out() -> None:
    auc = measured(images(centre=False, border=True))
    assert auc[controls.CENTRE_BLACK] == auc[controls.BORDER_ONLY] == 1
    assert auc[controls.CENTRE_SWAPPED] == 1


def test_a_model_that_looks_at_the_centre_passes() -> None:
    auc = measured(images(centre=True, border=False))
    assert 0.2 < auc[controls.CENTRE_BLACK] < 0.8
    assert 0.2 < auc[controls.BORDER_ONLY] < 0.8
    assert auc[controls.CENTRE_SWAPPED] == 0


def test_the_controls_change_what_they_say_and_nothing_else() -> None:
    pixels = np.repeat(phantom()[np.newaxis], 2, axis=0)
    pixels[1] //= 2
    black = controls.without_centre(pixels)
    assert (black[:, 37:187, 37:187] == 0).all()
    assert np.array_equal(black[:, :37], pixels[:, :37])
    border = controls.border_only(pixels)
    assert (border[:, 22:202, 22:202] == 0).all()
    assert np.array_equal(border[:, 202:], pixels[:, 202:])
    swapped = controls.with_swapped_centre(
        pixels, np.array([True, False]), np.random.default_rng(0)
    )
    assert np.array_equal(swapped[0, 37:187, 37:187], pixels[1, 37:187, 37:187])
    assert np.array_equal(swapped[:, :37], pixels[:, :37])
