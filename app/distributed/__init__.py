"""Record processing on the task core: flows, their records, their settings, and named databases.

A flow is a named kind of record processing. A record is a task that waits in its flow's lane, and whoever
has the flow's business logic claims it there.
"""

from app.distributed.databases import DatabaseManager as DatabaseManager
from app.distributed.fan_out import ChildrenFailed as ChildrenFailed
from app.distributed.fan_out import ChildrenLate as ChildrenLate
from app.distributed.fan_out import Undone as Undone
from app.distributed.fan_out import fan_out as fan_out
from app.distributed.fan_out import gather as gather
from app.distributed.flow_runs import RecordContext as RecordContext
from app.distributed.flow_runs import business_logic as business_logic
from app.distributed.flow_runs import distributed_processing_flow as distributed_processing_flow
from app.distributed.flow_runs import process_record_with_status as process_record_with_status
from app.distributed.flow_settings import ConfigManager as ConfigManager
from app.distributed.processor import DistributedProcessor as DistributedProcessor
