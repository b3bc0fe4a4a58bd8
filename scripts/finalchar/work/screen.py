"""What a job says on the screen: one line per detector, one sentence per fault."""

from __future__ import annotations

from finalchar import records
from finalchar.layout import Layout

__all__ = ["progress", "say"]


def say(sentence: str) -> None:
    """Print one line on the screen (standard output; standard error goes to the log)."""
    print(sentence, flush=True)


def progress(layout: Layout) -> str:
    """Count one more finished detector of this run; return '[done/due]'."""
    with open(layout.progress, "ab") as file:
        file.write(b".")
        file.flush()
        done = file.tell()
    due = records.run_record(layout.run_record)["due"]
    return f"[{done}/{max(done, due)}]"
