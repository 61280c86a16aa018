"""Survey responses are scored, through the queue; `--standard` does the same one by one in this process.

    python -m flows.examples.distributed_survey_processing [--standard]

Any number of these may run at a time, on any host: each record is scored by one of them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from sqlalchemy import text

from app.distributed import DistributedProcessor, RecordContext
from app.distributed.template import FlowTemplate
from app.logs import configure_logging
from flows.survey.workflow import sample, score

FLOW = "example_survey"
RESPONSES = 300
TABLE = (
    "CREATE TABLE IF NOT EXISTS example_survey_scores"
    " (respondent VARCHAR(20) PRIMARY KEY, score FLOAT, kind VARCHAR(20))"
)
FORGET = text("DELETE FROM example_survey_scores WHERE respondent = :respondent")
KEEP = text("INSERT INTO example_survey_scores VALUES (:respondent, :score, :kind)")


def score_and_keep(response: Mapping[str, Any], context: RecordContext) -> dict[str, Any]:
    """The score, kept by the transaction that ends the record."""
    scored: dict[str, Any] = score(response)
    context.connection.execute(FORGET, scored)
    context.connection.execute(KEEP, scored)
    return scored


def main(distributed: bool) -> None:
    configure_logging("error")
    with DistributedProcessor() as processor:
        processor.system.prepare_tables()
        processor.database.execute_query(TABLE)
        flow = FlowTemplate(
            FLOW, score_and_keep, lambda: sample(RESPONSES), key="respondent", processor=processor
        )
        done = flow.run(use_distributed_processing=distributed, batch_size=50, populate_queue=True)
        print(f"{done['mode']}: {done['records_completed']} scored, {done['records_failed']} failed")
        kinds = processor.database.execute_query(
            "SELECT kind, COUNT(*), AVG(score) FROM example_survey_scores GROUP BY kind ORDER BY kind"
        )
        for kind, count, mean in kinds:
            print(f"{kind:<10} {count:>4}   mean score {mean:.2f}")


if __name__ == "__main__":
    main("--standard" not in sys.argv[1:])
