"""A record per order of a web API: fetched by pages, weighed, and sent back once.

    python -m flows.examples.api_records

The API is started here, on this machine (`order_api`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from app.distributed import DistributedProcessor, RecordContext
from app.distributed.template import FlowTemplate
from app.logs import configure_logging
from flows.examples.order_api import order_api

FLOW = "example_orders"


def orders(api: httpx.Client) -> Iterator[dict[str, Any]]:
    """Every order, page after page."""
    page = 1
    while page:
        answer = api.get("/orders", params={"page": page}).raise_for_status().json()
        yield from answer["orders"]
        page = answer["next"]


def ship(api: httpx.Client, order: Mapping[str, Any], context: RecordContext) -> dict[str, Any]:
    """Weigh an order and send that back. The key is the same in every try, so the API takes it once."""
    shipment = {"number": order["number"], "grams": sum(order["item_grams"])}
    key = {"Idempotency-Key": context.idempotency_key}
    api.post("/shipments", json=shipment, headers=key).raise_for_status()
    return shipment


def main() -> None:
    configure_logging("error")
    with DistributedProcessor() as processor:
        processor.system.prepare_tables()
        file = processor.system.config.VAR_DIR.resolve() / "examples" / "shipments.json"
        with order_api(file) as server, httpx.Client(base_url=server.url, timeout=30) as api:
            flow = FlowTemplate(
                FLOW,
                lambda order, context: ship(api, order, context),
                lambda: orders(api),
                key="number",
                processor=processor,
            )
            done = flow.run(use_distributed_processing=True, populate_queue=True)
            print(f"{done['records_added']} orders are new; {done['records_completed']} were shipped")
            if done["records_failed"]:
                print(f"{done['records_failed']} failed: {done['errors'][0]['error'].splitlines()[0]}")
                again = processor.reset_failed_records(FLOW)
                done = flow.run(use_distributed_processing=True)
                print(f"{again} waited again; {done['records_completed']} were shipped then")
        print(f"what was shipped: {file}")


if __name__ == "__main__":
    main()
