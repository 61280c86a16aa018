"""Settings for RQ's own commands: `rq worker -c app.rq_settings …`."""

from __future__ import annotations

from config import Config

REDIS_URL = Config().RQ_REDIS_URL
