"""What a trial draws follows from its number and the batches before its own, and so does its early end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from safe_rl.config import RunConfig
from safe_rl.tuning.batches import OLD, PRUNED_FROM, earlier_trials, is_hopeless, settings_of
from safe_rl.tuning.config import SpaceConfig, TuneConfig
from safe_rl.tuning.space import distributions, own_settings

RUN = RunConfig(tune=TuneConfig(startup=4, batch=2, space=SpaceConfig(batch_size=None, hidden=None)))
SPACE = distributions(RUN)


def complete(number: int, value: float, reports: Sequence[float] = (), broken: float = -0.1) -> FrozenTrial:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trial = create_trial(
        value=value,
        params=settings_of(number, [], RUN, SPACE),
        distributions=SPACE,
        intermediate_values=dict(enumerate(reports, 1)),
        system_attrs={"constraints": (broken,)} if OLD else {"constraints:cost": broken},
    )
    trial.number = number
    return trial


def test_the_first_trial_is_the_run_and_the_others_follow_from_their_number() -> None:
    assert settings_of(0, [], RUN, SPACE) == own_settings(RUN, SPACE)
    assert settings_of(1, [], RUN, SPACE) == settings_of(1, [], RUN, SPACE)
    assert settings_of(1, [], RUN, SPACE) != settings_of(2, [], RUN, SPACE)
    other = replace(RUN, tune=replace(RUN.tune, seed=1))
    assert settings_of(1, [], RUN, SPACE) != settings_of(1, [], other, SPACE)


def test_later_trials_follow_the_results_and_not_the_order_they_came_in() -> None:
    first = [complete(number, number / 10) for number in range(4)]
    turned = [complete(number, -number / 10) for number in range(4)]
    drawn = settings_of(4, first, RUN, SPACE)
    assert drawn == settings_of(4, first, RUN, SPACE)
    # One draw may fall on the same place by chance.
    assert any(settings_of(n, first, RUN, SPACE) != settings_of(n, turned, RUN, SPACE) for n in range(4, 10))
    assert earlier_trials(first[::-1], RUN.tune, 5) == first


def test_chance_alone_does_not_read_the_results() -> None:
    run = replace(RUN, tune=replace(RUN.tune, sampler="random"))
    first = [complete(number, number / 10) for number in range(4)]
    turned = [complete(number, -number / 10) for number in range(4)]
    assert settings_of(4, first, run, SPACE) == settings_of(4, turned, run, SPACE)


def test_a_trial_waits_until_the_batches_before_its_own_are_finished() -> None:
    trials = [complete(number, 0.5) for number in range(3)]
    assert earlier_trials(trials, RUN.tune, 3) == []  # of the startup
    assert earlier_trials(trials, RUN.tune, 4) is None  # trial 3 is missing
    running = create_trial(state=TrialState.RUNNING)
    running.number = 3
    assert earlier_trials([*trials, running], RUN.tune, 4) is None
    assert earlier_trials([*trials, complete(3, 0.1)], RUN.tune, 5) is not None
    assert earlier_trials([*trials, complete(3, 0.1)], RUN.tune, 6) is None


@pytest.mark.parametrize(("value", "hopeless"), [(0.49, True), (0.5, False), (0.51, False)])
def test_a_trial_below_the_median_of_the_earlier_ones_is_hopeless(value: float, hopeless: bool) -> None:
    earlier = [complete(number, 1.0, [level] * 10) for number, level in enumerate((0.1, 0.5, 0.9))]
    reports = {step: value for step in range(1, PRUNED_FROM + 1)}
    assert is_hopeless(reports, earlier, RUN.tune) is hopeless


def test_a_trial_is_given_half_of_its_first_policy() -> None:
    earlier = [complete(number, 1.0, [0.9] * 10) for number in range(3)]
    assert not is_hopeless({step: 0.0 for step in range(1, PRUNED_FROM)}, earlier, RUN.tune)
    assert is_hopeless({step: 0.0 for step in range(1, PRUNED_FROM + 1)}, earlier, RUN.tune)


def test_nothing_is_pruned_by_fewer_than_three_others() -> None:
    earlier = [complete(number, 1.0, [0.9] * 10) for number in range(2)]
    assert not is_hopeless({step: 0.0 for step in range(1, 9)}, earlier, RUN.tune)


def test_the_sampler_prefers_trials_that_keep_the_limit() -> None:
    # The same values; first the low half breaks the limit, then the high half.
    one = [complete(number, number / 10, broken=0.1 if number < 2 else -0.1) for number in range(4)]
    two = [complete(number, number / 10, broken=0.1 if number >= 2 else -0.1) for number in range(4)]
    assert settings_of(4, one, RUN, SPACE) != settings_of(4, two, RUN, SPACE)
