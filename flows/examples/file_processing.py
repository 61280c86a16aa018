"""A record per file: each is read and counted, and the counts are written beside it.

python -m flows.examples.file_processing
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.distributed import DistributedProcessor, business_logic, distributed_processing_flow
from app.logs import configure_logging

FLOW = "example_files"
SAMPLES = 12
WORDS = ("ticket", "row", "claim", "lease", "record")


@business_logic(FLOW)
def count_words(record: Mapping[str, Any]) -> dict[str, Any]:
    """The words of one file. Who does this twice writes the same again, so a second start does no harm."""
    path = Path(record["path"])
    words = Counter(path.read_text(encoding="utf-8").split())
    counts = {"words": words.total(), "most": words.most_common(1)[0][0]}
    half_written = path.with_suffix(".half")
    half_written.write_text(json.dumps(counts))
    half_written.replace(path.with_suffix(".json"))  # it is there whole, or not at all
    return counts


def make_samples(folder: Path) -> list[Path]:
    """Some texts, and one file that is none."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, SAMPLES + 1):
        text = " ".join(WORDS[: 1 + number % len(WORDS)] * number)
        (folder / f"text-{number:02d}.txt").write_text(f"{WORDS[number % len(WORDS)]} {text}\n")
    (folder / "picture.txt").write_bytes(b"\xff\xd8\xff\xe0")
    return sorted(folder.glob("*.txt"))


def main() -> None:
    configure_logging("error")
    with DistributedProcessor() as processor:
        processor.system.prepare_tables()
        files = make_samples(processor.system.config.VAR_DIR.resolve() / "examples" / "files")
        added = processor.add_records_to_queue(FLOW, ({"path": str(path)} for path in files), key="path")
        print(f"{len(files)} files in {files[0].parent}, {added} of them new")
        while (run := distributed_processing_flow(FLOW, 5, processor=processor))["records_claimed"]:
            print(f"a batch: {run['records_completed']} completed, {run['records_failed']} failed")
            for failed in run["errors"]:
                print(f"  record {failed['record_id']}: {failed['error']}")
        print("in all:", processor.get_queue_status(FLOW))


if __name__ == "__main__":
    main()
