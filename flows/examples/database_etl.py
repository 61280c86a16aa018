"""A record per customer of another database: read there, added up, and written here exactly once.

    python -m flows.examples.database_etl

The shop is a SQLite file that is made here, unless EXAMPLE_SHOP_CONNECTION_STRING names another database
with such tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from sqlalchemy import text

from app.distributed import DatabaseManager, DistributedProcessor, RecordContext, business_logic
from app.distributed.template import FlowTemplate
from app.logs import configure_logging
from config import Config

FLOW = "example_customers"
SHOP = "example_shop"
CUSTOMERS, ORDERS = 40, 300
ORDERS_OF = "SELECT cents FROM orders WHERE customer_id = :id"
KEEP = text("INSERT INTO example_customer_totals (customer_id, orders, cents) VALUES (:id, :orders, :cents)")


@business_logic(FLOW)
def add_up(customer: Mapping[str, Any], context: RecordContext) -> dict[str, int]:
    """A customer's orders in sum. What is written through `context.connection` commits together with the
    record's end: a process that dies in between leaves neither."""
    assert context.source is not None
    cents = [row[0] for row in context.source.execute_query(ORDERS_OF, {"id": customer["id"]})]
    total = {"id": customer["id"], "orders": len(cents), "cents": sum(cents)}
    context.connection.execute(KEEP, total)
    return total


def make_shop(shop: DatabaseManager) -> None:
    """Customers and their orders, if there are none."""
    shop.execute_query("CREATE TABLE IF NOT EXISTS customers (id INTEGER PRIMARY KEY, name VARCHAR(60))")
    shop.execute_query(
        "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, customer_id INTEGER, cents INTEGER)"
    )
    if shop.execute_query("SELECT 1 FROM customers").rowcount:
        return
    customers = [{"id": number, "name": f"Customer {number}"} for number in range(1, CUSTOMERS + 1)]
    orders = [
        {"id": number, "customer": 1 + number * 7 % CUSTOMERS, "cents": 100 + number * 37 % 5000}
        for number in range(ORDERS)
    ]
    shop.execute_transaction(
        [
            ("INSERT INTO customers VALUES (:id, :name)", customers),
            ("INSERT INTO orders VALUES (:id, :customer, :cents)", orders),
        ]
    )


def main() -> None:
    configure_logging("error")
    config = Config()
    folder = config.VAR_DIR.resolve() / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    config = config.with_default_variables(
        {"EXAMPLE_SHOP_CONNECTION_STRING": f"sqlite:///{folder / 'shop.db'}"}
    )
    with (
        closing(DatabaseManager(config)) as database,
        closing(DatabaseManager(SHOP, config=config)) as shop,
        DistributedProcessor(database, source_database=shop) as processor,
    ):
        processor.system.prepare_tables()
        make_shop(shop)
        database.execute_query(
            "CREATE TABLE IF NOT EXISTS example_customer_totals"
            " (customer_id INTEGER PRIMARY KEY, orders INTEGER, cents INTEGER)"
        )
        customers = [{"id": row[0]} for row in shop.execute_query("SELECT id FROM customers ORDER BY id")]
        flow = FlowTemplate(FLOW, add_up, lambda: customers, key="id", processor=processor)
        done = flow.run(use_distributed_processing=True, batch_size=20, populate_queue=True)
        print(f"{done['records_added']} customers are new; {done['records_completed']} were added up")
        best = database.execute_query(
            "SELECT customer_id, orders, cents FROM example_customer_totals ORDER BY cents DESC LIMIT 3"
        )
        for customer, orders, cents in best:
            print(f"customer {customer}: {orders} orders, {cents / 100:.2f} in sum")


if __name__ == "__main__":
    main()
