"""`make setup-…` writes a usable `.env` and never destroys one."""

from __future__ import annotations

from pathlib import Path

import pytest

from config import Config
from scripts.write_env import TIERS, write_env


@pytest.mark.parametrize("tier", TIERS)
def test_written_file_starts_its_tier(tmp_path: Path, tier: str) -> None:
    write_env(tmp_path / ".env", tier, force=False)
    settings = Config(_env_file=tmp_path / ".env", _environment={})
    assert settings.APP_ENV == tier


def test_tokens_are_random_and_readable_by_the_owner_only(tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        write_env(path, "production", force=False)
    first, second = (Config(_env_file=path, _environment={}) for path in paths)
    assert len({first.ADMIN_TOKEN, first.API_TOKEN, first.SECRET_KEY, second.ADMIN_TOKEN}) == 4
    assert paths[0].stat().st_mode & 0o777 == 0o600


def test_existing_file_is_kept_without_force(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        write_env(path, "production", force=False)
    assert path.read_text() == "mine"
    write_env(path, "staging", force=True)
    assert "APP_ENV=staging" in path.read_text()
