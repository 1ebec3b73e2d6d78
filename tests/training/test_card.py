import pytest

from app.release import Share
from training import card
from training.config import Config, Stage

STAGE = Stage(name="head", train_from="head", epochs=1, learning_rate=1e-3)
RECIPE = Config(stages=(STAGE,))


@pytest.mark.parametrize(
    ("probability", "share", "prevalence", "wanted"),
    [
        (0.5, 0.5, 0.1, 0.1),
        (0.9, 0.4, 0.4, 0.9),
        (0.9, 0.5, 0.02, 9 * 2 / (9 * 2 + 98)),
        (0.0, 0.4, 0.1, 0.0),
        (1.0, 0.4, 0.1, 1.0),
    ],
)
def test_with_the_prevalence_the_odds_of_a_probability_change_as_those_of_the_shares(
    probability: float, share: float, prevalence: float, wanted: float
) -> None:
    assert card.at_prevalence(probability, share, prevalence) == pytest.approx(wanted)


def test_a_share_of_none_has_an_interval_that_is_no_point() -> None:
    assert card.interval(Share(name="x", images=36, share=0)) == pytest.approx(
        (0, 0.0974), abs=1e-4
    )
    low, high = card.interval(Share(name="x", images=36, share=4 / 36))
    assert low == pytest.approx(0.0311, abs=1e-4)
    assert high == pytest.approx(0.2606, abs=1e-4)


def test_recipes_are_the_same_whatever_their_notes_say() -> None:
    told = RECIPE.model_copy(update={"note": "Another."}).model_dump(mode="json")
    assert card.same_recipe(RECIPE, told)
    assert not card.same_recipe(RECIPE, told | {"seed": 1})
    assert not card.same_recipe(RECIPE, {"said": "by an older program"})


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("Normal", "Normal"),
        ("site B|x / Normal", "site B\\|x / Normal"),
        ("tuber\nculosis", "tuber culosis"),
    ],
)
def test_a_name_stays_in_its_cell_of_a_table(name: str, cell: str) -> None:
    assert card.cell(name) == cell
