"""Settings for RQ's own commands: `rq worker -c app.rq_settings …`.

RQ forks a child per job: what is imported here, no job has to import, and no job's garbage collection visits:
that would copy the pages which it shares with the worker, a third of a short job's time.
"""

from __future__ import annotations

import gc

import app.jobs  # noqa: F401
from app.tasks.handlers import load_handlers
from config import Config

_config = Config()
load_handlers(_config.TASK_MODULES)
gc.freeze()

REDIS_URL = _config.RQ_REDIS_URL
