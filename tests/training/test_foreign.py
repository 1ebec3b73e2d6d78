import numpy as np
import pytest

from app.imaging import SIZE, phantom
from training import drawings
from training.foreign import SPOILED, Foreign, crop, foreign, inverted, sideways, upside_down
from training.pictures import pictures


@pytest.fixture(scope="module")
def made() -> Foreign:
    return foreign(phantom()[np.newaxis], 0, 3, measured=False)


def test_foreign_images_are_model_inputs_with_a_kind_each(made: Foreign) -> None:
    assert made.pixels.dtype == np.uint8
    assert made.pixels.shape == (len(made.kinds), SIZE, SIZE, 1)


def test_there_are_some_of_every_kind(made: Foreign) -> None:
    assert {made.kinds.count(kind) for kind in made.kinds} == {2, 4}  # pages are drawn, too
    assert {*drawings.DRAWINGS, *SPOILED, "photograph", "CT slice", "MR slice"} <= set(made.kinds)


def test_turned_and_cut_x_rays_can_be_made_more_often_than_others() -> None:
    more = foreign(phantom()[np.newaxis], 0, 3, measured=False, spoiled_weight=3).kinds
    assert {more.count(kind) for kind in SPOILED} == {6}
    assert {more.count(kind) for kind in set(more) - SPOILED.keys()} == {2, 4}


def test_a_seed_makes_the_same_foreign_images_again_and_another_seed_others(made: Foreign) -> None:
    again, other = (foreign(phantom()[np.newaxis], 0, s, measured=False).pixels for s in (3, 4))
    assert np.array_equal(made.pixels, again)
    assert not np.array_equal(made.pixels, other)


def test_what_is_measured_on_is_no_picture_that_was_learned_from() -> None:
    names = [picture.kind for picture in pictures()]
    assert names.count("photograph") > 15
    assert names.count("MR slice") > 60
    learned, kept = (
        foreign(phantom()[np.newaxis], 300, 3, measured=measured) for measured in (False, True)
    )
    real = {"photograph", "CT slice", "MR slice", "ultrasound"}
    shown = [
        {p.tobytes() for p, kind in zip(made.pixels, made.kinds, strict=True) if kind in real}
        for made in (learned, kept)
    ]
    assert all(shown)
    assert not shown[0] & shown[1]


def test_of_views_is_known_how_many_pictures_they_show_and_how_many_are_of_a_divided_origin() -> (
    None
):
    kept = foreign(phantom()[np.newaxis], 700, 3, measured=True)
    assert kept.kinds.count("CT slice") == kept.kinds.count("ultrasound") == 36
    assert kept.pictures == {
        "CT slice": (1, 0),
        "MR slice": (24, 24),  # all of one template of a head
        "photograph": (7, 0),
        "ultrasound": (2, 2),  # of a clip whose other frames are learned from
    }


@pytest.mark.parametrize("kind", drawings.DRAWINGS)
def test_a_drawing_is_a_gray_picture_large_enough_for_the_service(kind: str) -> None:
    rng = np.random.default_rng(0)
    for draw in drawings.DRAWINGS[kind]:
        for _ in range(6):
            picture = draw(rng)
            assert picture.dtype == np.uint8
            assert picture.ndim == 2
            assert min(picture.shape) >= 64


def test_x_rays_are_turned_inverted_and_cut() -> None:
    x, rng = phantom()[np.newaxis], np.random.default_rng(1)
    assert np.array_equal(inverted(x, rng), 255 - x[0])
    assert upside_down(x, rng)[0].mean() == pytest.approx(x[0, -1].mean())
    assert sideways(x, rng)[:, 0].mean() in {x[0, 0].mean(), x[0, -1].mean()}
    assert crop(x, rng).shape == x[0].shape
