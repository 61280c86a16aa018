"""`make setup-…` writes a usable `.env` and never destroys one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import config
from config import Config
from scripts.write_env import TIERS, write_env
from scripts.write_env import main as write_env_command


@pytest.mark.parametrize("tier", TIERS)
def test_000_09_what_setup_writes_is_what_list_shows(
    tmp_path: Path, tier: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ".env"
    done = CliRunner().invoke(write_env_command, [tier, "--path", str(path)])
    assert done.exit_code == 0
    monkeypatch.setattr(config, "ENV_FILE", path)
    monkeypatch.setattr("sys.argv", ["config", "--json"])
    for name in ("APP_ENV", "PREFECT_ENVIRONMENT", "ADMIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert config.main() == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["APP_ENV"] == {"value": tier, "origin": ".env"}
    wanted = "default" if tier == "development" else ".env"
    assert shown["ADMIN_TOKEN"]["origin"] == wanted
    again = CliRunner().invoke(write_env_command, [tier, "--path", str(path)])
    assert (again.exit_code, "was left as it is" in again.output) == (1, True)


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
