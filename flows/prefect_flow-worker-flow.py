"""The ETL on workers: `python flows/prefect_flow-worker-flow.py deploy|run`. The rest: flows/etl."""

from flows.etl.__main__ import main

if __name__ == "__main__":
    main()
