"""The benchmark of decoders, with tiny files."""

from functools import partial

import numpy as np
import pytest

from app.imaging import SIZE
from tests import fakes
from tests.benchmarks import decoding, xrays
from tests.benchmarks.figures import Spread

PNG = xrays.make_file("PNG", 80, 90, 0)
JPEG = xrays.make_file("JPEG", 500, 1000, 0)


def test_pillow_comes_first_and_what_is_missing_is_named() -> None:
    found, absent = decoding.find_decoders()
    assert next(iter(found)) == "pillow"
    assert len(found) + len(absent) == 1 + len(decoding.OTHERS)


def test_pieces_of_work_are_timed_in_turns() -> None:
    order: list[str] = []

    def work(name: str, _: bytes) -> None:
        order.append(name)

    works = {name: partial(work, name) for name in ("one", "other")}
    found = decoding.time_in_turns(works, (b"",), repeats=2)
    assert order == ["one", "other"] * 3
    assert all(spread and spread.low >= 0 for spread in found.values())


def test_a_difference_is_in_gray_levels_and_of_one_size() -> None:
    dark, bright = np.zeros((2, 3), np.uint8), np.full((2, 3), 255, np.uint8)
    assert decoding.difference(dark, bright) == 255
    assert decoding.difference(bright, dark) == 255
    assert decoding.difference(dark, dark.T) is None


def test_pillow_does_not_differ_from_itself() -> None:
    (row,) = decoding.compare("png", (PNG,), {"pillow": decoding.pillow}, 1)
    assert (row.decoder, row.kind, row.difference) == ("pillow", "png", 0)


def test_decoders_of_jpeg_get_no_png() -> None:
    decoders = {"pillow": decoding.pillow, "simplejpeg": decoding.pillow}
    assert len(decoding.compare("png", (PNG,), decoders, 1)) == 1
    assert len(decoding.compare("jpeg", (JPEG,), decoders, 1)) == 2


@pytest.mark.parametrize(("side", "shape"), [(SIZE, (500, 250)), (2 * SIZE, (1000, 500))])
def test_a_draft_is_not_below_its_side(side: int, shape: tuple[int, int]) -> None:
    assert decoding.drafted(side, JPEG).shape == shape


def test_a_draft_changes_the_models_input_and_answer_a_little() -> None:
    row = decoding.compare_draft("jpeg", (JPEG,), SIZE, fakes.FakeEngine(), 1)
    assert (row.width, row.height) == (250, 500)
    assert 0 < row.mean < row.largest
    assert 0 < row.probability < 0.02
    assert "250x500" in decoding.write_tables([], [row], ["pyvips"])


def test_formats_of_one_folder_are_told_apart() -> None:
    assert decoding.split_formats({"a": (PNG, JPEG), "b": (PNG,)}) == {
        "a (PNG)": (PNG,),
        "a (JPEG)": (JPEG,),
        "b": (PNG,),
    }


def test_a_table_names_what_is_not_installed() -> None:
    row = decoding.Decoded("opencv", "png", Spread(2.0, 1.0, 3.0), None)
    text = decoding.write_tables([row], [], ["simplejpeg"])
    assert "opencv  2.00 (1.00-3.00)" in text
    assert text.endswith("not installed: simplejpeg")
