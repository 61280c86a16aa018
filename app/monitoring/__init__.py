"""What operators are told, and do by rule: figures, grades, reports and upkeep of records.

`record_figures` holds the statements, `thresholds` the grades; `record_states`, `diagnosis`, `reports`,
`upkeep`, `capacity`, `databases` and `changeover` have what is made of them. Every function takes a
`processor`; without one, this process's own.
"""

from app.monitoring.capacity import calculate_capacity_utilization as calculate_capacity_utilization
from app.monitoring.capacity import workers_needed as workers_needed
from app.monitoring.changeover import migration_cleanup_flow as migration_cleanup_flow
from app.monitoring.changeover import migration_monitoring_flow as migration_monitoring_flow
from app.monitoring.changeover import rollback_migration_flow as rollback_migration_flow
from app.monitoring.changeover import verify_migration_integrity as verify_migration_integrity
from app.monitoring.databases import connection_pool_monitoring as connection_pool_monitoring
from app.monitoring.databases import database_health_check as database_health_check
from app.monitoring.databases import index_usage as index_usage
from app.monitoring.diagnosis import (
    distributed_processing_diagnostics as distributed_processing_diagnostics,
)
from app.monitoring.record_states import distributed_queue_monitoring as distributed_queue_monitoring
from app.monitoring.reports import processing_performance_monitoring as processing_performance_monitoring
from app.monitoring.upkeep import distributed_system_maintenance as distributed_system_maintenance
from app.monitoring.upkeep import purge_records as purge_records
