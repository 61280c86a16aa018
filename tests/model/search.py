"""Breadth first through every state that a configuration can reach; then two questions about its end.

1. From every reachable state, is there a way to the end of all tasks on which only the running system
   steps, and nothing more goes wrong? (P4, "no stuck state")
2. Can the running system go round in a circle for ever, although each kind of step that is possible again
   and again is taken again and again? (strong fairness; "no livelock")
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from app.tasks.model import TRANSITIONS
from tests.model import people, sweeper, workers
from tests.model.draft import Draft, Edge
from tests.model.state import ABSENT, DISPATCHED, ENDED, STATUSES, Refs, Scenario, State, is_fresh, task_of

TABLE = {
    (edge.verb, STATUSES.index(source), STATUSES.index(target), edge.new_epoch)
    for edge in TRANSITIONS
    for source in edge.sources
    for target in edge.targets
}
OVER = frozenset((ABSENT, *ENDED))


@dataclass(slots=True)
class Verdict:
    """What a search found. `wrong` is empty if every promise held; else `trace` leads there, step by step."""

    states: int
    wrong: str = ""
    trace: list[str] = field(default_factory=list)
    edges: set[Edge] = field(default_factory=set)


@dataclass(slots=True)
class _Graph:
    """The reachable states in the order of their discovery, and the steps that the system owes."""

    states: list[State]
    parents: array[int]
    starts: array[int]  # of each state's owed steps, in the two arrays below
    targets: array[int]
    duties: array[int]


class _Wrong(Exception):
    def __init__(self, at: int, wrong: str) -> None:
        self.at, self.wrong = at, wrong


def search(scenario: Scenario, *, limit: int = 2_000_000) -> Verdict:
    """Try everything. Raises `RuntimeError` if there are more than `limit` states."""
    edges: set[Edge] = set()
    graph = _Graph([], array("i"), array("i"), array("i"), array("i"))
    try:
        _explore(scenario, graph, edges, limit)
    except _Wrong as found:
        trace = _trace(scenario, graph, found.at, wrong=found.wrong)
        return Verdict(len(graph.states), found.wrong, trace, edges)
    ends = bytearray(all(row.status in OVER for row in state.rows) for state in graph.states)
    lost = _stuck(graph, ends)
    if lost is not None:
        trace = [*_trace(scenario, graph, lost), f"... and now: {describe(graph.states[lost])}"]
        return Verdict(len(graph.states), "P4: stuck, the running system brings it to no end", trace, edges)
    circle = _livelock(graph, ends)
    if circle:
        round_trip = " / ".join(describe(graph.states[one]) for one in circle[:4])
        trace = [*_trace(scenario, graph, circle[0]), f"... and then round and round: {round_trip}"]
        return Verdict(len(graph.states), "P4: livelock, fair steps go round for ever", trace, edges)
    return Verdict(len(graph.states), edges=edges)


def successors(scenario: Scenario, state: State) -> Iterator[workers.Step]:
    return chain(
        workers.steps(scenario, state),
        sweeper.steps(scenario, state),
        sweeper.time_passes(scenario, state),
        people.steps(scenario, state),
    )


def canonical(scenario: Scenario, state: State) -> State:
    """Workers of one kind are alike: which of them does what makes no other state."""
    kinds = scenario.workers
    if len(set(kinds)) == len(kinds):
        return state
    order = sorted(zip(kinds, state.workers, strict=True))
    return state._replace(workers=tuple([worker for _, worker in order]))


def _explore(scenario: Scenario, graph: _Graph, edges: set[Edge], limit: int) -> None:
    alike = len(set(scenario.workers)) < len(scenario.workers)
    states, parents = graph.states, graph.parents
    targets, duties = graph.targets, graph.duties
    kinds: dict[str, int] = {}
    first = canonical(scenario, scenario.initial())
    numbers = {first: 0}
    states.append(first)
    parents.append(-1)
    at = 0
    while at < len(states):
        graph.starts.append(len(targets))
        for _, duty, draft in successors(scenario, states[at]):
            wrong = draft.wrong or (draft.edges and _off_the_table(draft, edges))
            if wrong:
                raise _Wrong(at, wrong)
            after = canonical(scenario, draft.freeze()) if alike else draft.freeze()
            number = numbers.setdefault(after, len(states))
            if number == len(states):
                states.append(after)
                parents.append(at)
            if duty is not None and number != at:
                targets.append(number)
                duties.append(kinds.setdefault(duty, len(kinds)))
        at += 1
        if len(states) > limit:
            raise RuntimeError(f"more than {limit} states")
    graph.starts.append(len(targets))


def _off_the_table(draft: Draft, edges: set[Edge]) -> str:
    """Every change of a status or an epoch must be an edge of the product's own table."""
    for edge in draft.edges:
        if edge not in edges:
            if edge not in TABLE:
                return f"TABLE: no such transition: {name_of(edge)}"
            edges.add(edge)
    return ""


def name_of(edge: Edge) -> str:
    verb, source, target, epoch = edge
    names = [(STATUSES[one] or "(new)") for one in (source, target)]
    return f"{verb}, {names[0]} -> {names[1]}, {'a new' if epoch else 'the same'} epoch"


# --- the two questions about the end -------------------------------------------------------------------


def _stuck(graph: _Graph, ends: bytearray) -> int | None:
    """The first state from which no owed steps lead to an end. Backwards, until nothing new is found."""
    good = bytearray(ends)
    starts, targets = graph.starts, graph.targets
    open_ones = [at for at in range(len(good)) if not good[at]]
    while open_ones:
        left = []
        for at in reversed(open_ones):
            for one in targets[starts[at] : starts[at + 1]]:
                if good[one]:
                    good[at] = 1
                    break
            else:
                left.append(at)
        left.reverse()
        if len(left) == len(open_ones):
            return left[0]
        open_ones = left
    return None


def _livelock(graph: _Graph, ends: bytearray) -> list[int]:
    """A strongly connected set of unfinished states that fair steps need never leave, or nothing."""
    candidates = [_unfinished(graph, ends)]
    while candidates:
        for circle in _circles(graph, candidates.pop()):
            inside = set(circle)
            taken: set[int] = set()
            possible: set[int] = set()
            for at in circle:
                for place in range(graph.starts[at], graph.starts[at + 1]):
                    possible.add(graph.duties[place])
                    if graph.targets[place] in inside:
                        taken.add(graph.duties[place])
            owed = possible - taken
            if not owed:
                return circle
            rest = {at for at in circle if owed.isdisjoint(_duties_at(graph, at))}
            if rest:
                candidates.append(rest)
    return []


def _duties_at(graph: _Graph, at: int) -> array[int]:
    return graph.duties[graph.starts[at] : graph.starts[at + 1]]


def _unfinished(graph: _Graph, ends: bytearray) -> set[int]:
    """States that may lie on a circle: what has no way out of, or into, the set is peeled off."""
    inside = bytearray(1 - end for end in ends)
    changed = True
    while changed:
        changed = False
        for at in range(len(inside) - 1, -1, -1):
            if inside[at]:
                owed = graph.targets[graph.starts[at] : graph.starts[at + 1]]
                if not any(inside[one] for one in owed):
                    inside[at] = 0
                    changed = True
    return {at for at in range(len(inside)) if inside[at]}


def _circles(graph: _Graph, nodes: set[int]) -> Iterator[list[int]]:
    """Strongly connected components of more than one state."""
    walk = _Walk(graph, nodes)
    for root in sorted(nodes):
        if root not in walk.index:
            yield from walk.from_(root)


class _Walk:
    """R. Tarjan, Depth-first search and linear graph algorithms, 1972; a path in place of the recursion."""

    def __init__(self, graph: _Graph, nodes: set[int]) -> None:
        self._graph, self._nodes = graph, nodes
        self.index: dict[int, int] = {}
        self._low: dict[int, int] = {}
        self._stack: list[int] = []
        self._on_stack: set[int] = set()

    def from_(self, root: int) -> Iterator[list[int]]:
        path = [(root, self._enter(root))]
        while path:
            at, onward = path[-1]
            unseen = self._next_unseen(at, onward)
            if unseen is not None:
                path.append((unseen, self._enter(unseen)))
                continue
            path.pop()
            if path:
                above = path[-1][0]
                self._low[above] = min(self._low[above], self._low[at])
            if self._low[at] == self.index[at]:
                found = self._leave(at)
                if len(found) > 1:
                    yield found

    def _enter(self, at: int) -> Iterator[int]:
        self.index[at] = self._low[at] = len(self.index)
        self._stack.append(at)
        self._on_stack.add(at)
        return iter(self._graph.targets[self._graph.starts[at] : self._graph.starts[at + 1]])

    def _next_unseen(self, at: int, onward: Iterator[int]) -> int | None:
        for one in onward:
            if one not in self._nodes:
                continue
            if one not in self.index:
                return one
            if one in self._on_stack:
                self._low[at] = min(self._low[at], self.index[one])
        return None

    def _leave(self, at: int) -> list[int]:
        found: list[int] = []
        while not found or found[-1] != at:
            found.append(self._stack.pop())
            self._on_stack.discard(found[-1])
        return found


# --- for people -----------------------------------------------------------------------------------------


def _trace(scenario: Scenario, graph: _Graph, at: int, *, wrong: str = "") -> list[str]:
    """The steps from the start to a state, and on to the step that is wrong; a worker keeps its number."""
    chain_of: list[int] = []
    while graph.parents[at] >= 0:
        chain_of.append(at)
        at = graph.parents[at]
    state = scenario.initial()
    told = []
    for number in reversed(chain_of):
        goal = graph.states[number]
        for label, _, draft in successors(scenario, state):
            after = draft.freeze()
            if canonical(scenario, after) == goal:
                told.append(text_of(label))
                state = after
                break
    if wrong:
        told += [text_of(one) for one, _, draft in successors(scenario, state) if _is_wrong(draft)][:1]
    return told


def _is_wrong(draft: Draft) -> bool:
    return bool(draft.wrong or _off_the_table(draft, set()))


def text_of(label: workers.Label) -> str:
    text, *arguments = label
    return str(text) % tuple(_words(one) for one in arguments)


def _words(argument: str | int | Refs) -> str:
    if not isinstance(argument, tuple):
        return str(argument)
    if not argument:
        return "nothing"
    return ", ".join(f"task {task_of(ref)}" + ("" if is_fresh(ref) else " (stale)") for ref in argument)


def describe(state: State) -> str:
    """A state in a line: rows, queues, who holds what."""
    told = []
    for task, row in enumerate(state.rows):
        words = [str(STATUSES[row.status] or "no row")]
        words += [name for name in ("confirmed", "expired", "wish") if getattr(row, name)]
        told.append(f"task {task} {' '.join(words)}")
    for priority, queue in enumerate(state.queues):
        told.append(f"queue {priority}: {_words(queue)}")
    told += [f"worker {n}: {w}" for n, w in enumerate(state.workers) if w.slots or w.refs or w.kept]
    if not state.up:
        told.append("Redis does not answer")
    if DISPATCHED not in state.tracks:
        told.append("routing by the database")
    return "; ".join(told)
