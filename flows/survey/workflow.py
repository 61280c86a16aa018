"""Scores survey responses: an example of a flow with business logic of its own.

    python -m flows.survey.workflow              as the flow is set to (standard, unless it says otherwise)
    python -m flows.survey.workflow --distributed --populate

The responses come from the table `survey_responses` of the database that SURVEY_SOURCE_CONNECTION_STRING
names, and without one from a small sample that is made here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from app.distributed import DatabaseManager, business_logic
from app.distributed.flow_runs import own_processor
from app.distributed.template import FlowTemplate
from config import Config

FLOW = "survey"
SOURCE = "survey_source"
SAMPLE_RESPONSES = 1000
QUESTIONS = ("price", "quality", "support")


@business_logic(FLOW)
def score(response: Mapping[str, Any]) -> dict[str, Any]:
    """The mean of the answers, 1 to 5, and what they amount to. Raises `ValueError` for an answer that is
    none."""
    answers = [response[question] for question in QUESTIONS]
    wrong = [answer for answer in answers if not isinstance(answer, int) or not 1 <= answer <= 5]
    if wrong:
        raise ValueError(f"an answer must be a whole number from 1 to 5, not {wrong[0]!r}")
    mean = sum(answers) / len(answers)
    kind = "promoter" if mean >= 4 else "detractor" if mean < 2.5 else "passive"
    return {"respondent": response["respondent"], "score": round(mean, 2), "kind": kind}


def responses() -> Iterator[Mapping[str, Any]]:
    """Every response, from the source database if one is named."""
    if Config().variable("SURVEY_SOURCE_CONNECTION_STRING") is None:
        yield from sample(SAMPLE_RESPONSES)
        return
    source = DatabaseManager(SOURCE)
    columns = ("respondent", *QUESTIONS)
    for row in source.execute_query(f"SELECT {', '.join(columns)} FROM survey_responses ORDER BY respondent"):  # noqa: S608
        yield dict(zip(columns, row, strict=True))
    source.close()


def sample(count: int) -> Iterator[dict[str, Any]]:
    """Responses that look like some, always the same."""
    for number in range(count):
        answers = {question: 1 + (number * (7 + place)) % 5 for place, question in enumerate(QUESTIONS)}
        yield {"respondent": f"r{number:05d}", **answers}


def template() -> FlowTemplate:
    return FlowTemplate(FLOW, score, responses, key="respondent")


def populate_survey_queue() -> int:
    """Bring the responses to the queue that it has not had yet. Returns how many."""
    return template().populate()


def survey_processing_flow(
    use_distributed_processing: bool | None = None,
    batch_size: int | None = None,
    populate_queue: bool = False,
) -> dict[str, Any]:
    """Score the responses; one entry point for both modes. Arguments beat what the flow is set to."""
    return template().run(
        use_distributed_processing=use_distributed_processing,
        batch_size=batch_size,
        populate_queue=populate_queue,
    )


@click.command(help=__doc__)
@click.option("--distributed/--standard", default=None, help="Default: as the flow is set to.")
@click.option("--batch-size", type=click.IntRange(1, 10_000))
@click.option("--populate", is_flag=True, help="Bring the responses to the queue first.")
@click.option("--populate-only", is_flag=True, help="Bring them to the queue, for others to process.")
def main(distributed: bool | None, batch_size: int | None, populate: bool, populate_only: bool) -> None:
    own_processor().system.prepare()
    if populate_only:
        click.echo(f"{populate_survey_queue()} responses were added to the queue.")
        return
    click.echo(json.dumps(survey_processing_flow(distributed, batch_size, populate), indent=2))


if __name__ == "__main__":
    main()
