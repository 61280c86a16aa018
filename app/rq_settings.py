"""Settings for RQ's own commands: `rq worker -c app.rq_settings …`.

RQ forks a child per job: what is imported here, no job has to import.
"""

from __future__ import annotations

import app.jobs  # noqa: F401
from app.tasks.handlers import load_handlers
from config import Config

_config = Config()
load_handlers(_config.TASK_MODULES)

REDIS_URL = _config.RQ_REDIS_URL
