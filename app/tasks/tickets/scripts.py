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
        """By the digest, straight over a connection of the pool: the layers between would cost a script
        more than Redis does. One fresh try heals a connection that a restart has cut."""
        commands = [
            ("EVALSHA", _DIGESTS[script], len(keys), *keys, *arguments) for script, keys, arguments in calls
        ]
        connection: Any = self._client.connection_pool.get_connection()
        try:
            try:
                return _exchange(connection, commands)
            except redis.ConnectionError:
                connection.disconnect()
                return _exchange(connection, commands)
        except BaseException:
            connection.disconnect()  # what was not read must not answer the next one
            raise
        finally:
            self._client.connection_pool.release(connection)


def _exchange(connection: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """All answers, refusals among them."""
    connection.send_packed_command(connection.pack_commands(commands))
    answers: list[Any] = []
    for _ in commands:
        try:
            answers.append(connection.read_response())
        except redis.ResponseError as refusal:
            answers.append(refusal)
    return answers
