"""Fixtures of whole installations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.stack import Stack

StackMaker = Callable[..., Stack]


@pytest.fixture
def make_stack(tmp_path: Path) -> Iterator[StackMaker]:
    """Installations that end with the test, with everything that they started."""
    stacks: list[Stack] = []

    def make(database_url: str, redis_url: str | None, **settings: Any) -> Stack:
        stack = Stack(tmp_path / f"var{len(stacks)}", database_url, redis_url, **settings)
        stacks.append(stack)
        return stack

    yield make
    for stack in stacks:
        stack.close()
