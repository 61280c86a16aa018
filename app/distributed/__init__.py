"""Record processing on the task core: settings of flows, named databases.

A flow is a named kind of record processing. What it is set to, and which databases it reads and writes, is
found here; every value can say where it came from.
"""

from app.distributed.databases import DatabaseManager as DatabaseManager
from app.distributed.flow_settings import ConfigManager as ConfigManager
