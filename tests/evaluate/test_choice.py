import pytest

from posttrain.core.errors import DataError
from posttrain.evaluate.choice import choose


def test_an_average_that_is_as_good_as_the_best_single_policy_is_taken():
    choice = choose([0.5, 0.625], 0.625, "uniform", [0, 1])
    assert choice.taken == "average" and choice.best_single == 1
    assert choice.reason == (
        "Average taken: the uniform average of policies 1, 2 of 2 (oldest first) has win rate 0.625 over the base, the "
        "best single one, policy 2, 0.625."
    )


def test_a_worse_average_gives_way_to_the_best_single_policy():
    choice = choose([0.7, 0.6, 0.7], 0.65, "greedy", [2, 0])
    assert choice.taken == "single" and choice.best_single == 2  # of equals the newest
    assert choice.reason.startswith("Single policy taken: the greedy average of policies 1, 3 of 3")


@pytest.mark.parametrize(("singles", "average"), [([0.5, None], 0.5), ([0.5], None), ([], 0.5)])
def test_what_was_not_measured_is_not_compared(singles, average):
    with pytest.raises(DataError, match="cannot be compared"):
        choose(singles, average, "uniform", [0, 1])
