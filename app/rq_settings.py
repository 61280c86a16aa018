"""Settings for RQ's own commands: `rq worker -c app.rq_settings …`.

RQ forks a child per job. What is imported and wired here, no job has to, and no job's collector visits:
a visit would copy the pages which it shares with the worker, a third of a short job's time.
"""

from __future__ import annotations

import gc

from app.jobs import prepare
from config import Config

prepare()
gc.freeze()

REDIS_URL = Config().RQ_REDIS_URL
