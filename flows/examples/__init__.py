"""Examples: each a short program, `python -m flows.examples.NAME`, that runs on a fresh clone.

    file_processing                         a record per file: read it, write what was counted beside it
    database_etl                            a record per customer of another database, written exactly once
    api_records                             a record per order of a web API, with a second try for some
    distributed_survey_processing           one entry point for records: in this process, or through the queue
    distributed_monitoring_example          figures, a diagnosis, and what is done about it
    demo_distributed_survey_processing      three processes that share the records of one flow

Each works with the settings in force (without any: SQLite in `var`), and leaves its files in
`VAR_DIR/examples`. A record is told apart by its key: who runs an example again does nothing twice.
"""
