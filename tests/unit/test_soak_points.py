"""A script that is new to Redis has its crash points, or is known to need none."""

from __future__ import annotations

from tests.soak.hooks import LUA, NO_STEP, STEP_OF_SCRIPT
from tests.soak.moves import Actor, cases
from tests.soak.points import ALL_NAMES, MOVER_STEPS, NAMES, RECALL_STEPS


def test_every_script_is_a_named_step_or_known_to_be_none() -> None:
    assert {path.stem for path in LUA.glob("*.lua")} == {*STEP_OF_SCRIPT, *NO_STEP}


def test_every_step_of_a_script_has_its_three_moments() -> None:
    wanted = {f"{step}.{moment}" for step in STEP_OF_SCRIPT.values() for moment in MOMENTS}
    assert wanted <= {*NAMES, *MOVER_STEPS}


def test_while_a_backlog_moves_every_step_has_somebody_who_dies_at_it_and_every_actor_a_step() -> None:
    assert {case.point for case in cases()} == set(ALL_NAMES)
    assert {case.actor for case in cases()} == set(Actor)
    for actor in (Actor.MOVER, Actor.REDIS, Actor.DATABASE):
        of_actor = {(case.point, case.direction) for case in cases() if case.actor is actor}
        wanted = {(point, "dispatch") for point in MOVER_STEPS} | {
            (point, "recall") for point in RECALL_STEPS
        }
        assert of_actor == wanted


MOMENTS = ("unsent", "unanswered", "answered")
