"""A script that is new to Redis has its crash points, or is known to need none."""

from __future__ import annotations

from tests.soak.hooks import LUA, NO_STEP, STEP_OF_SCRIPT
from tests.soak.points import MOVER_STEPS, NAMES


def test_every_script_is_a_named_step_or_known_to_be_none() -> None:
    assert {path.stem for path in LUA.glob("*.lua")} == {*STEP_OF_SCRIPT, *NO_STEP}


def test_every_step_of_a_script_has_its_three_moments() -> None:
    wanted = {f"{step}.{moment}" for step in STEP_OF_SCRIPT.values() for moment in MOMENTS}
    assert wanted <= {*NAMES, *MOVER_STEPS}


MOMENTS = ("unsent", "unanswered", "answered")
