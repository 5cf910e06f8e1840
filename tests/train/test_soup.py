"""Greedy averaging on numbers: a model is a number, an average their mean."""

from posttrain.train.soup import greedy_soup


def mean(numbers):
    return sum(numbers) / len(numbers)


def near(wanted):
    return lambda number: -abs(number - wanted)


def test_the_best_first_then_each_that_does_not_lower_the_score():
    soup = greedy_soup([9.0, 4.0, 7.0], mean, near(6.0))
    # 7 is off by 1; (7 + 4) / 2 = 5.5 by 0.5: kept; (7 + 4 + 9) / 3 = 6.67 by 0.67: refused.
    assert soup.members == (2, 1) and soup.result == 5.5 and soup.score == -0.5
    assert soup.scores == (-3.0, -2.0, -1.0)
    assert [trial.kept for trial in soup.trials] == [True, False]
    assert soup.trials[1].members == (2, 1, 0) and soup.trials[1].average == 20 / 3


def test_an_average_that_is_as_good_is_kept_and_equal_models_stay_in_order():
    soup = greedy_soup([1.0, 1.0], mean, near(0.0))
    assert soup.members == (0, 1)


def test_no_average_is_worse_than_the_best_single_model():
    soup = greedy_soup([0.0, 8.0], mean, near(0.0))
    assert soup.members == (0,) and soup.result == 0.0 and not soup.trials[0].kept


def test_one_model_is_its_own_average():
    assert greedy_soup([3.0], mean, near(0.0)).trials == ()
