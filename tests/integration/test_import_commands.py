"""An import, its proof and its way back as an operator calls them: exit codes, JSON, and what they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.tasks.model import Priority
from app.transfer.legacy.beginning import Consent, plan_import, start_import, table_of
from app.transfer.plans import Limits, Scope
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


def cut_short(moving: object) -> None:
    raise KeyboardInterrupt


def test_a_resume_is_of_its_own_mapping_and_asks_for_the_guard_again(
    place: ImportPlace, tmp_path: Path
) -> None:
    """Who was cut short may have been so for long, and the guard have gone meanwhile."""
    place.legacy.put(place.legacy.row(number) for number in range(3))
    queue, vouched = place.system.queue, Consent(old_workers_stopped=True)
    table = table_of(queue, Path(SOURCE[1]))
    plan = plan_import(queue, table, Scope((Priority.NORMAL,)))
    mover = start_import(queue, table, plan, Limits(), vouched, watcher=cut_short)
    with pytest.raises(KeyboardInterrupt):
        mover.run()
    other = tmp_path / "other.toml"
    other.write_text(Path(SOURCE[1]).read_text().replace('"caption_tasks"', '"other"'))
    code, said = place.call(MIGRATE, "--source", str(other), "--resume", "--install-guard")
    assert (code, "there is no open import to go on with of other" in said) == (2, True)
    code, said = place.call(MIGRATE, *SOURCE, "--resume")
    assert (code, "allow it with --install-guard" in said) == (2, True)
    code, told = place.call(MIGRATE, *SOURCE, "--priority", "normal", "--resume", "--install-guard")
    assert (code, told["state"], told["totals"]["marked"]) == (0, "completed", 3)
