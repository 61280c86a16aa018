"""Parents and children over the empty tables of each kind of database."""

from __future__ import annotations

import pytest

from tests.contract.fan_out.parts import (
    MakePlace,
    Place,
    Work,
    number,
    spread,
)
from tests.contract.parts import MakeStore
from tests.contract.rows import Rows


@pytest.fixture
def make_place(rows: Rows, make_store: MakeStore) -> MakePlace:
    def make(parent: Work = spread, child: Work = number) -> Place:
        return Place(make_store(rows, redis_percent=0), rows, parent, child)

    return make
