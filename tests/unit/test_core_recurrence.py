"""When a schedule runs next, above all where the wall clock is put forward or back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.tasks.recurrence import Recurrence, cron_problem, time_zone_problem

BERLIN = "Europe/Berlin"  # 2026: forward on 29 March 02:00, back on 25 October 03:00
MINUTE = timedelta(minutes=1)


def planned(cron: str, zone: str, after: str, count: int) -> list[str]:
    """The next planned times as the wall clock shows them, with their offset."""
    rule, moment = Recurrence(cron=cron, time_zone=zone), datetime.fromisoformat(after)
    times = []
    for _ in range(count):
        moment = rule.next_after(moment, moment)
        assert moment.tzinfo is UTC
        times.append(moment.astimezone(ZoneInfo(zone)).strftime("%d %H:%M%z"))
    return times


def test_a_cron_expression_is_read_in_its_time_zone() -> None:
    assert planned("0 6 * * 1-5", BERLIN, "2026-01-02T12:00:00Z", 2) == ["05 06:00+0100", "06 06:00+0100"]
    assert planned("0 6 * * 1-5", BERLIN, "2026-07-03T03:59:59Z", 2) == ["03 06:00+0200", "06 06:00+0200"]


def test_a_time_that_the_clock_skips_runs_once_at_the_shift() -> None:
    times = planned("30 2 * * *", BERLIN, "2026-03-28T00:00:00Z", 3)
    assert times == ["28 02:30+0100", "29 03:00+0200", "30 02:30+0200"]


def test_several_times_that_the_clock_skips_are_one_run() -> None:
    times = planned("0,20,40 2 * * *", BERLIN, "2026-03-28T02:00:00Z", 2)
    assert times == ["29 03:00+0200", "30 02:00+0200"]


def test_a_time_that_comes_twice_runs_once_at_the_first() -> None:
    times = planned("30 2 * * *", BERLIN, "2026-10-24T12:00:00Z", 2)
    assert times == ["25 02:30+0200", "26 02:30+0100"]


def test_between_the_two_turns_of_a_repeated_hour_the_run_is_over() -> None:
    times = planned("30 2 * * *", BERLIN, "2026-10-25T01:15:00Z", 1)
    assert times == ["26 02:30+0100"]


def test_a_schedule_of_every_hour_follows_the_time_that_passes() -> None:
    assert planned("0 * * * *", BERLIN, "2026-10-24T23:30:00Z", 4) == [
        *("25 02:00+0200", "25 02:00+0100", "25 03:00+0100", "25 04:00+0100")
    ]
    assert planned("*/30 * * * *", BERLIN, "2026-03-29T00:15:00Z", 3) == [
        *("29 01:30+0100", "29 03:00+0200", "29 03:30+0200")
    ]


def test_a_shift_of_half_an_hour_is_no_exception() -> None:
    zone = "Australia/Lord_Howe"  # 4 October 2026: 02:00 becomes 02:30
    assert planned("15 2 * * *", zone, "2026-10-03T00:00:00Z", 2) == ["04 02:30+1100", "05 02:15+1100"]


def test_an_interval_keeps_its_beat_over_missed_runs() -> None:
    rule = Recurrence(interval_seconds=60)
    start = datetime(2026, 1, 1, 12, 0, 0, 700, tzinfo=UTC)
    first = rule.first_after(start)
    assert first == datetime(2026, 1, 1, 12, 1, tzinfo=UTC)
    assert rule.next_after(first, first + timedelta(seconds=0.5)) == first + MINUTE
    assert rule.next_after(first, first + timedelta(minutes=7, seconds=3)) == first + 8 * MINUTE
    assert rule.next_after(first, start) == first + MINUTE


@pytest.mark.parametrize(
    "expression",
    ["*/15 * * * *", "0 3 * * sun#1", "0 2 * * 0", "5 4 1,15 * *", "@daily", "0 0 29 2 *", "0 0 * * L5"],
)
def test_good_expressions_are_taken(expression: str) -> None:
    assert cron_problem(expression) is None


@pytest.mark.parametrize(
    "expression",
    [
        *("", "* * * *", "* * * * * *", "0 0 1 1 * 0 2030", "61 * * * *", "0 24 * * *", "*/0 * * * *"),
        *("0 0 31 2 *", "R R * * *", "h 1 * * *", "R(0-5) * * * *", "0,r * * * *", "@reboot", "@daily 1"),
        *("0 0 * * x", "0 0 * * *\n", "0 0 * * \u0663", "0 " * 60, "a b c d e", "0 0 L * mon#9"),
    ],
)
def test_bad_expressions_are_refused_with_a_sentence(expression: str) -> None:
    assert cron_problem(expression)


@given(st.text(alphabet="0123456789*/,-#LRHhr @?dailymonsuw", max_size=20))
@settings(max_examples=300)
def test_no_text_breaks_the_check_and_what_it_takes_has_a_next_time(text: str) -> None:
    if cron_problem(text) is None:
        moment = datetime(2026, 5, 1, tzinfo=UTC)
        assert Recurrence(cron=text, time_zone=BERLIN).first_after(moment) > moment


@pytest.mark.parametrize("name", ["", "Europe", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "a\0b"])
def test_an_unknown_time_zone_is_refused_with_a_sentence(name: str) -> None:
    assert time_zone_problem(name)
    assert time_zone_problem(BERLIN) is None


def fires(minutes: set[int], hours: set[int], zone: ZoneInfo, moment: datetime) -> bool:
    """The rule, told without any arithmetic of planned times: look at the wall clock at this minute and at
    the minute before."""
    now, before = moment.astimezone(zone), (moment - MINUTE).astimezone(zone)
    if now.minute in minutes and now.hour in hours and (now.fold == 0 or len(hours) == 24):
        return True
    skipped = now.replace(tzinfo=None) - before.replace(tzinfo=None) - MINUTE
    if skipped <= timedelta(0) or len(hours) == 24:
        return False
    walls = (before.replace(tzinfo=None) + n * MINUTE for n in range(1, skipped // MINUTE + 1))
    return any(wall.minute in minutes and wall.hour in hours for wall in walls)


some_minutes = st.sets(st.integers(0, 59), min_size=1, max_size=4)
some_hours = st.one_of(st.sets(st.integers(0, 4), min_size=1), st.just(set(range(24))))
zones = st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "America/Santiago", "UTC"])
moments = st.builds(
    lambda day, seconds: datetime(2026, day[0], day[1], tzinfo=UTC) + timedelta(seconds=seconds),
    st.sampled_from([(3, 28), (10, 24), (3, 7), (10, 31), (4, 4), (10, 3), (9, 5), (6, 10)]),
    st.integers(0, 2 * 86_400),
)


@given(some_minutes, some_hours, zones, moments)
@example({30}, {2}, BERLIN, datetime(2026, 10, 25, 0, 45, tzinfo=UTC))
@settings(max_examples=150)
def test_the_next_time_is_the_first_minute_at_which_the_clock_says_so(
    minutes: set[int], hours: set[int], zone: str, moment: datetime
) -> None:
    hour_field = "*" if len(hours) == 24 else ",".join(map(str, sorted(hours)))
    rule = Recurrence(cron=f"{','.join(map(str, sorted(minutes)))} {hour_field} * * *", time_zone=zone)
    minute = moment.replace(second=0) + MINUTE
    while not fires(minutes, hours, ZoneInfo(zone), minute):
        minute += MINUTE
    assert rule.next_after(moment, moment) == minute
