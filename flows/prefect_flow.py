"""The ETL in one process, without workers: `python flows/prefect_flow.py [TABLE …]`. The rest: flows/etl."""

import sys

from flows.etl.__main__ import main

if __name__ == "__main__":
    main(["run", "--here", *sys.argv[1:]])
