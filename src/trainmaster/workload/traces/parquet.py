"""A Parquet file, decoded in a process of its own: a page header that promises 2^58 values makes the library abort, which nothing catches.

    python -m trainmaster.workload.traces.parquet MOST_ROWS OUT < FILE      OUT: an Arrow file, or why not
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl

from trainmaster.workload.traces.columns import first_line_of

REFUSED = 3  # exit status: OUT says why
NO_PARQUET = "is not a Parquet file that can be read"


class Refused(Exception):
    """What is the matter with the file, to follow its name."""


def read(data: bytes, most_rows: int) -> pl.DataFrame:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        argv = [sys.executable, "-P", "-m", __spec__.name, str(most_rows), str(out)]
        status = subprocess.run(argv, input=data, stderr=subprocess.DEVNULL, check=False).returncode
        if status == REFUSED:
            raise Refused(out.read_text(encoding="utf-8"))
        if status:
            raise Refused(f"{NO_PARQUET} (decoding it ends the process that tries)")
        return pl.read_ipc(io.BytesIO(out.read_bytes()))


def _decoded(data: bytes, most_rows: int) -> bytes:
    try:
        rows = pl.scan_parquet(io.BytesIO(data)).select(pl.len()).collect().item()
        if rows > most_rows:
            raise Refused(f"has {rows:,} rows, more than {most_rows:,}")
        frame = pl.read_parquet(io.BytesIO(data))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise Refused(f"{NO_PARQUET} ({first_line_of(error)})") from None
    out = io.BytesIO()
    frame.write_ipc(out)
    return out.getvalue()


def main() -> int:
    try:
        answer, status = _decoded(sys.stdin.buffer.read(), int(sys.argv[1])), 0
    except Refused as refusal:
        answer, status = str(refusal).encode(), REFUSED
    Path(sys.argv[2]).write_bytes(answer)
    return status


if __name__ == "__main__":
    sys.exit(main())
