"""The store: the only writer of a task's status, and all SQL of the core.

Split by reader: `submitting` (birth), `claims` (a worker's right), `settling` (the end),
`turns` (the end of one batch with the claim of the next), `moves` (every other
transition), `transfers` (many rows from one track to the other), `tickets` (what the sweeper asks),
`queries` (reading), `schedules` (what runs again), `looks` (is there anything to do?), `notices`
(waking who waits), `routing`, `registry` (workers, locks), `imports` (the birth of imported tasks), `slots`
(those of them that wait for a place of their user), `write_backs` (what their legacy rows are told; as
statements: `legacy_rows`; for rows in other databases by way of `stages`, `ends` and `source_databases`),
`records` (the lanes of flows, and what happens to their records many at a time), `families` (parents, their
children, and limits of tags), `pools` (who serves a lane of its own; `lanes` numbers those of both).
"""

from __future__ import annotations

from dataclasses import dataclass

from app.tasks.database import Database
from app.tasks.store.aging import Aging
from app.tasks.store.claims import Claims
from app.tasks.store.ends import Ends
from app.tasks.store.fairness import UserLimit
from app.tasks.store.families import FamilyRows
from app.tasks.store.imports import Imports
from app.tasks.store.looks import Looks
from app.tasks.store.moves import Moves
from app.tasks.store.notices import Notices
from app.tasks.store.pools import Pools
from app.tasks.store.queries import Queries
from app.tasks.store.records import Records
from app.tasks.store.registry import Registry
from app.tasks.store.routing import RoutingTable
from app.tasks.store.schedules import ScheduleRows
from app.tasks.store.settling import Settlements
from app.tasks.store.slots import SlotWaits
from app.tasks.store.source_databases import SourceDatabases
from app.tasks.store.stages import Stages
from app.tasks.store.submitting import Submissions
from app.tasks.store.tickets import DispatchedRows
from app.tasks.store.transfers import TransferRows
from app.tasks.store.turns import Turns
from app.tasks.store.write_backs import WriteBacks


@dataclass(frozen=True, slots=True)
class Store:
    """All parts over one database."""

    database: Database
    submissions: Submissions
    claims: Claims
    settlements: Settlements
    turns: Turns
    moves: Moves
    dispatched: DispatchedRows
    queries: Queries
    routing: RoutingTable
    registry: Registry
    schedules: ScheduleRows
    users: UserLimit
    aging: Aging
    looks: Looks
    notices: Notices
    transfers: TransferRows
    imports: Imports
    slots: SlotWaits
    write_backs: WriteBacks
    stages: Stages
    ends: Ends
    source_databases: SourceDatabases
    records: Records
    families: FamilyRows
    pools: Pools

    @classmethod
    def over(
        cls,
        database: Database,
        *,
        user_concurrency: int = 0,
        source_databases: SourceDatabases | None = None,
    ) -> Store:
        """`user_concurrency`: how many tasks of one user may run at a time; 0: no limit. Without
        `source_databases` no other database can be reached."""
        users = UserLimit(database, user_concurrency)
        limited = user_concurrency > 0
        claims = Claims(database, admit=users.admit if limited else None)
        imports, stages = Imports(database), Stages(database)
        backs = WriteBacks(database, imports, stages, source_databases or SourceDatabases())
        settlements = Settlements(
            database, let_next_in=users.let_next_in if limited else None, write_back=backs.of_outcomes
        )
        submissions, routing = Submissions(database), RoutingTable(database)
        return cls(
            database=database,
            submissions=submissions,
            claims=claims,
            settlements=settlements,
            turns=Turns(database, claims, settlements, one_trip=not limited, backs=backs),
            moves=Moves(database, backs),
            dispatched=DispatchedRows(database),
            queries=Queries(database),
            routing=routing,
            registry=Registry(database),
            schedules=ScheduleRows(database, submissions),
            users=users,
            aging=Aging(database),
            looks=Looks(database, routing),
            notices=Notices(database),
            transfers=TransferRows(database),
            imports=imports,
            slots=SlotWaits(database),
            write_backs=backs,
            stages=stages,
            ends=backs.ends,
            source_databases=backs.databases,
            records=Records(database),
            families=FamilyRows(database, submissions),
            pools=Pools(database),
        )
