"""One part is prepared while the one before it is carried out: for work of which a server does its share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Part = TypeVar("Part")
Prepared = TypeVar("Prepared")
Answer = TypeVar("Answer")


def overlapped(
    parts: Sequence[Part], prepare: Callable[[Part], Prepared], carry_out: Callable[[Prepared], Answer]
) -> list[Answer]:
    """`carry_out(prepare(part))` for each, in order; `carry_out` in a thread of its own if there are several.

    The first error of either is raised. Nothing is begun after it, and nothing is under way then.
    """
    if len(parts) < 2:
        return [carry_out(prepare(part)) for part in parts]
    answers: list[Answer] = []
    under_way: Future[Answer] | None = None
    with ThreadPoolExecutor(1) as beside:
        for part in parts:
            prepared = prepare(part)
            if under_way is not None:
                answers.append(under_way.result())
            under_way = beside.submit(carry_out, prepared)
        assert under_way is not None
        answers.append(under_way.result())
    return answers
