"""An import, its proof and its way back as an operator calls them: exit codes, JSON, and what they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from config import ROOT
from scripts.migration import migrate_database_tasks_to_rq, migrate_rq_to_database, verify_task_migration
from tests.integration.place import Place, sqlite_in
from tests.legacy_tables import CaptionQueue

MIGRATE, ROLL_BACK = migrate_database_tasks_to_rq.main, migrate_rq_to_database.main
PROVE = verify_task_migration.main
SOURCE = ("--source", str(ROOT / "mappings" / "caption_tasks.toml"))


class ImportPlace(Place):
    """With a legacy queue in its database."""

    def __init__(self, **settings: str) -> None:
        super().__init__(**settings)
        self.legacy = CaptionQueue(self.rows.engine)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ImportPlace]:
    place = ImportPlace(DATABASE_URL=sqlite_in(tmp_path), VAR_DIR=str(tmp_path), RQ_ENABLED="false")
    yield place
    place.close()


def test_an_import_is_planned_refused_without_a_guard_made_proven_and_given_back(place: ImportPlace) -> None:
    keys = place.legacy.put(place.legacy.row(number) for number in range(20))
    code, plan = place.call(MIGRATE, *SOURCE, "--dry-run")
    assert (code, plan["direction"], plan["total"], plan["rows"]["normal"]) == (0, "import", 20, 20)
    code, said = place.call(MIGRATE, *SOURCE)
    assert code == 2
    assert "allow it with --install-guard, or vouch with --old-workers-stopped" in said
    code, told = place.call(PROVE, *SOURCE)
    assert (code, told["faults"]) == (1, {"queued row left behind": 20})
    code, told = place.call(MIGRATE, *SOURCE, "--install-guard", "--plan", plan["hash"])
    assert (code, told["state"], told["totals"]["marked"]) == (0, "completed", 20)
    assert {place.legacy.status(key) for key in keys} == {"MOVED"}
    code, told = place.call(PROVE, *SOURCE)
    assert (code, told["verdict"][:5], told["statuses"]) == (0, "CLEAN", {"row MOVED": 20, "task QUEUED": 20})
    code, told = place.call(ROLL_BACK, *SOURCE)
    assert (code, told) == (0, {"rows": 20, "aborted": []})
    assert {place.legacy.status(key) for key in keys} == {"QUEUED"}


def test_rows_in_quarantine_end_an_import_with_exit_code_1(place: ImportPlace) -> None:
    place.legacy.put([place.legacy.row(1), place.legacy.row(2, settings_json="{")])
    code, told = place.call(MIGRATE, *SOURCE, "--old-workers-stopped")
    assert (code, told["totals"]["marked"], told["totals"]["quarantined"]) == (1, 1, 1)


def test_the_setting_names_the_mapping_unless_our_own_table_is_meant(place: ImportPlace) -> None:
    place.legacy.put([place.legacy.row(1)])
    code, plan = place.call(MIGRATE, "--dry-run", MIGRATION_SOURCE=SOURCE[1])
    assert (code, plan["direction"], plan["total"]) == (0, "import", 1)
    code, plan = place.call(MIGRATE, "--dry-run", "--native", MIGRATION_SOURCE=SOURCE[1])
    assert (code, plan["direction"]) == (0, "dispatch")


def test_a_mapping_that_cannot_be_read_stops_every_command(place: ImportPlace) -> None:
    for command in (MIGRATE, ROLL_BACK, PROVE):
        code, said = place.call(command, "--source", "nowhere.toml")
        assert (code, said) == (2, "the mapping nowhere.toml cannot be read: No such file or directory\n")
