"""What is said of a profile: percentages only of what was measured beside another sampler."""

from __future__ import annotations

from dataclasses import replace

import pytest
from problems import mixture, randn

import dode_core as dode
from dode_core.report import plot_bars
from dode_core.response.measured import Measured
from dode_core.worth import measured_worth

HIGH, LOW = 15.0, 0.03
ALONE = Measured(8, None, 0.1, 0.2)
FIVE = Measured(5, None, 0.3, 0.3, 0.4, "dpmpp_2m")
EIGHT = Measured(8, None, 0.1, 0.2, 0.5, "dpmpp_2m")
PART = Measured(4, 1.0, 0.1, 0.1, 0.9, "dpmpp_2m")


@pytest.fixture(scope="module")
def made() -> dode.Profile:
    x = randn(8, 2, 4, 4, seed=5) * HIGH
    profile = dode.calibrate(mixture("ve", (2, 4, 4)), x, HIGH, LOW, parametrization="ve")
    return replace(profile, measured=(), samples_holdout=4)


def test_nothing_is_said_of_what_was_not_compared(made: dode.Profile) -> None:
    assert measured_worth(made) == ""
    assert measured_worth(replace(made, measured=(ALONE, PART))) == ""  # a part is no whole run


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (4, "25% closer to the many-step image than DPM++ 2M at 5 steps"),
        (8, "60% closer to the many-step image than DPM++ 2M at 8 steps"),
        (30, "60% closer to the many-step image than DPM++ 2M at 8 steps"),
    ],
)
def test_the_nearest_measured_run_is_spoken_of(made: dode.Profile, steps: int, said: str) -> None:
    found = replace(made, measured=(FIVE, EIGHT, PART))
    assert (
        measured_worth(found, steps) == f"{said}, measured on 4 noises that it did not learn from"
    )


@pytest.mark.parametrize(
    ("other", "name", "said"),
    [
        (0.2, "deis", "about as close to the many-step image as DEIS at"),
        (0.1, "ddim", "100% farther from the many-step image than Euler at"),
        (0.4, "", "50% closer to the many-step image than the best built-in sampler at"),
    ],
)
def test_no_gain_is_said_as_it_is(made: dode.Profile, other: float, name: str, said: str) -> None:
    found = replace(made, measured=(replace(EIGHT, built_in=other, name=name),))
    assert measured_worth(found).startswith(said)


def test_errors_of_one_step_count_are_bars() -> None:
    """Ours in colour, each with its number."""
    errors = {"D-ODE": 0.02, "Euler": 0.1}
    (ax,) = plot_bars(errors, "8 steps", "distance").axes
    assert [bar.get_width() for bar in ax.patches] == list(errors.values())
    assert [label.get_text() for label in ax.get_yticklabels()] == list(errors)
    assert {"0.02", "0.1"} <= {text.get_text() for text in ax.texts}
    assert ax.patches[0].get_facecolor() != ax.patches[1].get_facecolor()
