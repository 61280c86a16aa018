"""Some records fail; the figures show it, the diagnosis says why, and a reset brings them to their end.

python -m flows.examples.distributed_monitoring_example
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from app.distributed import DistributedProcessor, RecordContext, business_logic, distributed_processing_flow
from app.logs import configure_logging
from core import monitoring

FLOW = "example_invoices"
INVOICES = 60


@business_logic(FLOW)
def post(invoice: Mapping[str, Any], context: RecordContext) -> dict[str, Any]:
    """Every fourth invoice meets a ledger that is closed, the first time."""
    if invoice["number"] % 4 == 0 and context.retry_count == 0:
        raise ConnectionError("the ledger is closed")
    return {"posted": invoice["number"]}


def look(processor: DistributedProcessor, title: str) -> dict[str, Any]:
    """Every figure at once, and the few that a person reads first."""
    found = {
        "status": monitoring.distributed_queue_monitoring(processor=processor),
        "diagnosis": monitoring.distributed_processing_diagnostics(processor=processor),
        "last_hour": monitoring.processing_performance_monitoring(1, processor=processor),
        "capacity": monitoring.calculate_capacity_utilization(processor=processor),
        "would_be_done": monitoring.distributed_system_maintenance(dry_run=True, processor=processor),
    }
    health = found["status"]["queue_health_assessment"]
    print(f"{title}: {health['queue_health']}, {health['health_score']} of 100")
    for sentence in [*found["status"]["operational_alerts"], *found["diagnosis"]["issues_found"]]:
        print(f"  {sentence}")
    return found


def work_off(processor: DistributedProcessor) -> None:
    while distributed_processing_flow(FLOW, processor=processor)["records_claimed"]:
        pass


def main() -> None:
    configure_logging("error")
    with DistributedProcessor() as processor:
        processor.system.prepare_tables()
        invoices = ({"number": number} for number in range(1, INVOICES + 1))
        processor.add_records_to_queue(FLOW, invoices, key="number")
        work_off(processor)
        before = look(processor, "after the first run")
        print(f"{processor.reset_failed_records(FLOW)} failed invoices wait again")
        work_off(processor)
        after = look(processor, "after the second run")
        file = processor.system.config.VAR_DIR.resolve() / "examples" / "monitoring.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"before": before, "after": after}, indent=2))
        print(f"all figures: {file}")


if __name__ == "__main__":
    main()
