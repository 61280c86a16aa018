"""Three processes share the responses of one survey; then the log of runs says who did how many.

    python -m flows.examples.demo_distributed_survey_processing

They are forked here to keep the example short: `scripts/process_flow.py` starts processes again that die.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Mapping
from typing import Any

from app.distributed import DistributedProcessor, business_logic, distributed_processing_flow
from app.logs import configure_logging
from flows.survey.workflow import sample, score

FLOW = "demo_survey"
RESPONSES, PROCESSES, BATCH = 300, 3, 10
WORK_SECONDS = 0.005


@business_logic(FLOW)
def score_slowly(response: Mapping[str, Any]) -> dict[str, Any]:
    time.sleep(WORK_SECONDS)  # as if it asked somebody
    scored: dict[str, Any] = score(response)
    return scored


def work() -> None:
    """What each process does, on this host or on another: a batch, and the next, until there is none."""
    with DistributedProcessor() as processor:
        while distributed_processing_flow(FLOW, BATCH, processor=processor)["records_claimed"]:
            pass


def main() -> None:
    configure_logging("error")
    with DistributedProcessor() as processor:
        processor.system.prepare_tables()
        added = processor.add_records_to_queue(FLOW, sample(RESPONSES), key="respondent")
    print(f"{added} responses were added to the queue", flush=True)
    processes = [multiprocessing.get_context("fork").Process(target=work) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    with DistributedProcessor() as processor:
        shares = processor.database.execute_query(
            "SELECT flow_instance_id, COUNT(*), SUM(records_completed) FROM flow_execution_logs"
            " WHERE flow_name = :flow GROUP BY flow_instance_id ORDER BY flow_instance_id",
            {"flow": FLOW},
        )
    for name, batches, records in shares:
        print(f"{name}: {records} responses in {batches} batches")
    sys.exit(any(process.exitcode for process in processes))


if __name__ == "__main__":
    main()
