"""The database's own dump beside our backup, where its tool is installed. Never needed to restore."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import tempfile
from pathlib import Path

from sqlalchemy.engine import URL

TOOLS = {"mysql": ("mariadb-dump", "mysqldump"), "postgresql": ("pg_dump",)}
READ_BYTES = 1 << 20


class DumpFailed(Exception):
    """The tool was there and did not do its work."""


def dump(url: URL, path: Path) -> str | None:
    """Write a compressed dump. Returns the tool's name; None where there is none for this database."""
    backend = url.get_backend_name().replace("mariadb", "mysql")
    tool = next((name for name in TOOLS.get(backend, ()) if shutil.which(name)), None)
    if tool is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder) / "secret"
        options = _mysql(url, secret) if backend == "mysql" else _postgresql(url, secret)
        # into a file: a tool that complains into a full pipe would wait for us, and we for it
        with tempfile.TemporaryFile() as complaints:
            with subprocess.Popen([tool, *options], stdout=subprocess.PIPE, stderr=complaints) as process:
                assert process.stdout is not None
                with gzip.open(path, "wb", 6) as packed:
                    shutil.copyfileobj(process.stdout, packed, READ_BYTES)
            complaints.seek(0)
            said = complaints.read(READ_BYTES).decode("utf-8", "replace")
    if process.returncode:
        raise DumpFailed(f"{tool} failed: {said.strip()[:300]}")
    return tool


def _mysql(url: URL, secret: Path) -> list[str]:
    quoted = (url.password or "").replace("\\", "\\\\").replace('"', '\\"')
    _keep(secret, f'[client]\npassword="{quoted}"\n')
    options = [f"--defaults-extra-file={secret}", "--single-transaction", "--default-character-set=utf8mb4"]
    options += ["--hex-blob", "--protocol=tcp", f"--host={url.host or 'localhost'}"]
    options += [f"--port={url.port or 3306}", *([f"--user={url.username}"] if url.username else [])]
    return [*options, url.database or ""]


def _postgresql(url: URL, secret: Path) -> list[str]:
    quoted = (url.password or "").replace("\\", "\\\\").replace(":", "\\:")
    _keep(secret, f"*:*:*:*:{quoted}\n")
    place = f"host={url.host or 'localhost'} port={url.port or 5432} dbname={url.database}"
    user = f" user={url.username}" if url.username else ""
    return ["--no-owner", "--no-password", f"--dbname={place}{user} passfile={secret}"]


def _keep(path: Path, text: str) -> None:
    """A password is never on a command line, where every user of the machine could read it."""
    path.touch(mode=0o600)
    path.write_text(text)
