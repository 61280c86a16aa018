"""The Lua scripts of the queues, called by their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis
from redis.exceptions import NoScriptError

Call = tuple[str, Sequence[str], Sequence[Any]]  # the script's name, its keys, its arguments

_TEXTS = {path.stem: path.read_text() for path in (Path(__file__).parent / "lua").glob("*.lua")}
_DIGESTS = {
    name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in _TEXTS.items()
}


class Scripts:
    """Runs scripts; a server that does not know one of them is taught all of them."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """The answers, in order, by one round trip. Raises the driver's error of the first that failed."""
        answers = self._evaluate(calls)
        unknown = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            for text in _TEXTS.values():
                self._client.script_load(text)
            again = self._evaluate([calls[number] for number in unknown])
            for number, answer in zip(unknown, again, strict=True):
                answers[number] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _evaluate(self, calls: Sequence[Call]) -> list[Any]:
        """By the digest: redis-py's own script objects first ask the server if it knows them."""
        if len(calls) == 1:  # half of a pipeline's cost
            script, keys, arguments = calls[0]
            try:
                return [self._client.evalsha(_DIGESTS[script], len(keys), *keys, *arguments)]
            except NoScriptError as error:
                return [error]
        pipeline = self._client.pipeline(transaction=False)
        for script, keys, arguments in calls:
            pipeline.evalsha(_DIGESTS[script], len(keys), *keys, *arguments)
        return pipeline.execute(raise_on_error=False)
