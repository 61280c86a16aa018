"""The benchmark's own arithmetic and its pictures; its measuring needs servers and a quiet machine."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from app.transfer.plans import Limits
from benchmarks import moves, stamps
from benchmarks.beside import Way, ways
from benchmarks.counters import parse_commandstats
from benchmarks.curve import Curve, Sample, drawn
from benchmarks.goals import GOALS, judged
from benchmarks.page import blocks, filled
from benchmarks.peers import PEERS
from benchmarks.plan import SECTIONS, Choice, steps_of
from benchmarks.plot import bars, svg
from benchmarks.processes import cpu_seconds, memory, tree_of
from benchmarks.records import advised
from benchmarks.results import OURS, TARGETS, Results, Target, percentile
from benchmarks.stamps import Stamps
from benchmarks.tables import TABLES, render, tables

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def results() -> Results:
    found = Results(about={"workers": 2, "rounds": 3})
    for rate in (9000.0, 12_000.0, 10_000.0):
        found.add("MariaDB", [("drain_redis", rate), ("drain_database", rate * 2), ("drain_one", 900.0)])
    found.add("RQ Worker", [("drain", 200.0)])
    found.add("RQ SimpleWorker", [("drain", 1000.0)])
    return found


def test_the_median_of_the_rounds_counts(results: Results) -> None:
    assert results.median("MariaDB", "drain_redis") == 10_000
    assert results.median("MariaDB", "submit_redis") is None


@pytest.mark.parametrize(
    ("least", "stretch", "word"),
    [(10, False, "met"), (11, False, "NOT MET"), (11, True, "not met (stretch)"), (None, False, "")],
)
def test_a_target_is_met_or_not_in_plain_words(
    results: Results, least: float | None, stretch: bool, word: str
) -> None:
    target = Target("", ("MariaDB", "drain_redis"), ("RQ SimpleWorker", "drain"), least, stretch)
    (verdict,) = results.verdicts([target])
    assert verdict.ratio == 10
    assert verdict.word == word


def test_a_target_without_its_peer_is_not_measured(results: Results) -> None:
    target = Target("", ("MariaDB", "drain_redis"), ("pgqueuer", "drain"), 1)
    (verdict,) = results.verdicts([target])
    assert (verdict.ratio, verdict.word) == (None, "not measured")


def test_every_target_names_systems_that_are_measured() -> None:
    known = {*OURS, *PEERS}
    assert {name for target in TARGETS for name, _ in (target.over, target.under)} <= known
    assert {name for goal in GOALS for name, _ in (goal.ours, goal.peer)} <= known


@pytest.mark.parametrize(
    ("figure", "value", "peer", "words"),
    [
        ("submit_threads_redis", 5000.0, ("submit", 7800.0), ("met", "met")),
        ("submit_threads_redis", 4999.0, ("submit", 7800.0), ("NOT MET", "NOT MET")),
        ("submit_threads_redis", 1000.0, ("submit", 780.0), ("NOT MET", "met")),
        ("p50_redis", 2.0, ("p50", 1.6), ("met", "met")),
        ("p50_redis", 4.9, ("p50", 4.0), ("NOT MET", "met")),
        ("p50_redis", 1.9, ("p50", 0.8), ("met", "NOT MET")),
    ],
)
def test_a_goal_is_judged_as_it_is_written_and_by_its_peer(
    figure: str, value: float, peer: tuple[str, float], words: tuple[str, str]
) -> None:
    found = Results(about={"workers": 2})
    found.add("MariaDB", [(figure, value)])
    assert list(judged(found)) == []
    found.add("RQ SimpleWorker", [peer])
    (one,) = judged(found)
    assert (one.as_written, one.by_the_peer) == words
    shown = next(table for table in tables(found) if table.name == "goals")
    assert (shown.rows[0][3], shown.rows[0][-1]) == words


def test_saved_results_come_back_as_they_were(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "bench.json")
    assert Results.load(tmp_path / "bench.json") == results
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="was not written by this benchmark"):
        Results.load(tmp_path / "other.json")


def test_what_a_run_left_out_can_come_from_another_one_which_is_then_named(results: Results) -> None:
    run = {"load_at_start": 0.1, "rounds": 3, "cores": 2, "share": 1, "python": "3", "machine": "one"}
    results.about |= run | {"at": "2026-01-02T10:00:00+00:00"}
    other = Results(about=run | {"at": "2026-01-02T09:15:00+00:00", "rounds": 1})
    other.add("MariaDB", [("drain_redis", 1.0), ("idle_statements_redis", 9.0)])
    results.add_missing(other)
    results.add_missing(Results(about=other.about, figures={"MariaDB": {"drain_redis": [2.0]}}))
    assert results.median("MariaDB", "drain_redis") == 10_000
    assert results.median("MariaDB", "idle_statements_redis") == 9
    told = blocks(results)["about"]
    assert "2 January 2026 at 10:00 UTC" in told
    assert told.count("2 January 2026 at 09:15 UTC, load average 0.1 at the start, median of 1 round") == 1


def test_the_tables_say_rates_ratios_and_verdicts(results: Results) -> None:
    drain, targets = tables(results)
    assert {drain.name, targets.name} <= set(TABLES)
    assert drain.rows[0] == ["MariaDB", "row, fsync", "10,000", "20,000", "900", "50.0", "10.0"]
    assert ["MariaDB ÷ RQ Worker", "50.0", "≥ 60", "NOT MET"] in targets.rows
    assert all(len(row) == len(drain.header) for row in drain.rows)
    assert "| RQ Worker | nothing | 200 |" in drain.as_markdown()


def test_a_move_is_told_beside_the_two_other_ways() -> None:
    rates = {"dispatched": [300.0, 200.0, 400.0], "recalled": [450.0], "hand_built": [600.0], "naive": [10.0]}
    figures = {f"{way}_rows_per_second": values for way, values in rates.items()}
    table = moves.table_of(figures | {"rows": 1000, "peak_memory_megabytes": 90.5})
    assert table.rows[0] == ["Twintrack, to Redis", "300", "30.0", "0.50"]
    assert [row[2] for row in table.rows] == ["30.0", "45.0", "60.0", "1.00"]
    assert "1,000 waiting rows" in table.title


def test_only_what_stands_between_the_markers_of_a_document_is_replaced() -> None:
    document = "before\n<!-- bench:drain -->\nold\n<!-- /bench -->\nafter"
    once = render(document, {"drain": "new"})
    assert once == "before\n<!-- bench:drain -->\n\nnew\n\n<!-- /bench -->\nafter"
    assert render(once, {"drain": "new"}) == once
    with pytest.raises(ValueError, match="bench:drain"):
        render(document, {})


def test_the_figures_of_the_document_are_those_that_the_benchmark_saved() -> None:
    document = DOCS / "benchmarks.md"
    saved = Results.load(DOCS / "benchmarks.json")
    assert filled(document) == document.read_text()
    assert svg(saved) == (DOCS / "images" / "bench.svg").read_text()


def test_the_picture_shows_each_system_with_its_rate_the_fastest_first(results: Results) -> None:
    assert [bar.name for bar in bars(results)] == ["Twintrack, MariaDB", "RQ SimpleWorker", "RQ Worker"]
    tree = ElementTree.fromstring(svg(results))
    words = " ".join("".join(text.itertext()) for text in tree.iter("{http://www.w3.org/2000/svg}text"))
    assert "10,000" in words
    assert "RQ Worker" in words
    width = float(tree.attrib["width"])
    for bar in tree.iter("{http://www.w3.org/2000/svg}rect"):
        assert float(bar.attrib.get("x", 0)) + float(bar.attrib["width"]) <= width
    with pytest.raises(ValueError, match="nothing to draw"):
        svg(Results())


def test_percentiles_are_values_that_were_seen() -> None:
    assert percentile([3, 1, 2], 50) == 2
    assert percentile([1, 2, 3], 99) == 3
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_redis_counts_the_commands_inside_of_scripts_too() -> None:
    text = "# Commandstats\r\ncmdstat_evalsha:calls=2,usec=9\r\ncmdstat_hset:calls=7,usec=1\r\n"
    calls = parse_commandstats(text + "cmdstat_info:calls=4,usec=1\r\ncmdstat_script|load:calls=1,usec=1\r\n")
    assert (calls.commands, calls.scripts) == (10, 2)


def test_a_stamp_tells_when_and_where_a_task_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stamps._file.cache_clear()
    seen = Stamps(tmp_path)
    assert seen.count() == 0
    stamps.stamp()
    stamps.stamp()
    os.close(stamps._file())
    stamps._file.cache_clear()
    assert seen.count() == 2
    (first, _), (second, process) = seen.since(0)
    assert first <= second
    assert process == os.getpid()
    assert seen.since(1) == [(second, process)]
    with pytest.raises(TimeoutError, match="2 of 3 tasks"):
        seen.wait_for(3, deadline_seconds=0)


def test_a_process_has_used_some_time_and_memory() -> None:
    pids = tree_of(os.getpid())
    assert os.getpid() in pids
    assert cpu_seconds(pids) > 0
    used = memory(pids)
    assert used.pss >= used.uss > 0


def test_every_section_measures_and_all_systems_take_turns() -> None:
    for section in SECTIONS:
        assert steps_of(Choice(sections=[section])), section
    steps = steps_of(Choice(sections=["drain"], peers_python=Path("python")))
    assert list(dict.fromkeys(step.series for step in steps)) == [*OURS, *PEERS]


def test_systems_with_a_target_are_measured_in_every_round() -> None:
    steps = steps_of(Choice(sections=["drain"], peers_python=Path("python")))
    every_round = {step.series for step in steps if not step.once}
    assert every_round == {name for target in TARGETS for name, _ in (target.over, target.under)}


def test_without_an_environment_of_their_own_the_optional_peers_are_left_out() -> None:
    names = {step.series for step in steps_of(Choice(sections=["drain"], series=["rq", "huey"]))}
    assert names == {"RQ Worker", "RQ SimpleWorker"}


def test_a_memory_curve_has_a_beginning_an_end_and_a_line_for_each_process() -> None:
    rows = iter((0, 10))
    with Curve({"mover": os.getpid()}, lambda: next(rows, 20)) as curve:
        pass
    assert (curve.samples[0].moved, curve.samples[-1].moved) == (0, 10)
    assert curve.peak("mover") > 1
    assert "10 rows  mover" in curve.as_lines()[-1]
    samples = [
        Sample(0.0, 0, {"mover": 100.0, "redis": 10.0}),
        Sample(2.0, 5, {"mover": 101.0, "redis": 50.0}),
    ]
    picture = drawn(samples, "Memory")
    assert picture.count("<path") == 2
    assert "redis 50 MB" in picture


def test_the_rise_of_a_way_is_that_of_its_p95() -> None:
    way = Way("a rise of 20 %", Limits(submit_rise_percent=20), before=[1.0] * 100, rates=[10.0])
    way.during = [1.0] * 90 + [3.0] * 10
    assert way.as_json()["p95_rise_percent"] == 200.0
    assert [each.limits.submit_rise_percent for each in ways([5.0], [20.0])] == [None, None, 20.0]


@pytest.mark.parametrize(
    ("rates", "size"),
    [
        ({1: 100.0, 20: 950.0, 100: 1000.0, 500: 1010.0}, 20),
        ({1: 100.0, 20: 150.0, 100: 180.0, 500: 1000.0}, 500),
        ({1: 199.0, 20: 201.0, 100: 200.0}, 1),  # each record takes long: nothing is gained
        ({1: 50.0, 20: 1000.0, 100: 400.0}, 20),
    ],
)
def test_002_15_the_advice_is_the_smallest_batch_that_is_nearly_the_fastest(
    rates: dict[int, float], size: int
) -> None:
    assert advised(rates) == size
