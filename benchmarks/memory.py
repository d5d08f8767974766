"""Peak memory of fitting and scoring files of growing size, with the command line.

    python benchmarks/memory.py [--gigabytes 4] [--folder DIR]

Writes files of 30 float64 features to a folder, fits a detector to each with ``pyod-ae fit`` and
scores it with ``pyod-ae score``, in processes of their own, and prints the peak of resident memory
and the throughput: NPY files of a sixteenth, a quarter and all of the size, and a Parquet and a CSV
file. Beside it what reading the file alone takes, and PyOD's AutoEncoder on the smallest
file as a memory map. Writes the figures (``memory.csv``, ``.json``) and a chart (``.png``) to
``benchmarks/results``.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import parser_of

N_FEATURES, CHUNK_ROWS = 30, 2**18

# Programs of child processes: this one stays small, since a child's peak starts at its parent's.
WRITE = """
import sys
import numpy as np
path, n_rows, n_features, chunk = sys.argv[1], *map(int, sys.argv[2:])
rng = np.random.default_rng(0)
pieces = (rng.normal(size=(min(chunk, n_rows - i), n_features)) for i in range(0, n_rows, chunk))
if path.endswith(".npy"):
    rows = np.lib.format.open_memmap(path, "w+", np.float64, (n_rows, n_features))
    start = 0
    for piece in pieces:
        rows[start : start + len(piece)] = piece
        start += len(piece)
else:
    import pyarrow, pyarrow.csv, pyarrow.parquet
    writer = None
    for piece in pieces:
        table = pyarrow.table({f"x{i}": column for i, column in enumerate(piece.T)})
        if writer is None:
            kind = pyarrow.csv.CSVWriter if path.endswith(".csv") else pyarrow.parquet.ParquetWriter
            writer = kind(path, table.schema)
        writer.write_table(table)
    writer.close()
"""
READ = """
import sys
from pathlib import Path
from pyod_ae_plugin.tables.reading import read_table
print(sum(len(batch) for batch in read_table(Path(sys.argv[1]))))
"""
PYOD = """
import sys
import numpy as np
from pyod.models.auto_encoder import AutoEncoder
X = np.load(sys.argv[1], mmap_mode="r")
detector = AutoEncoder(epoch_num=1, verbose=0, device="cpu").fit(X[:20_000])
detector.decision_function(X)
"""
DESCRIBE = """
import json, sys
from pyod_ae_plugin.benchmarking.summary import environment
print(json.dumps(environment("memory"), indent=1))
"""


def measured(command: list[str]) -> tuple[float, float]:
    """Peak of resident memory in MiB and seconds of a process."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_maxrss / 1024, time.perf_counter() - began


def python(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


def commands(path: Path, folder: Path) -> dict[str, list[str]]:
    """What is measured of a file, in order."""
    cli = python("from pyod_ae_plugin.cli import main; main()")
    model, scores = folder / "model", folder / "scores.npy"
    quiet = ["-p", "verbose=0", "-p", "device=cpu"]
    return {
        "read": python(READ, path),
        "fit": [*cli, "fit", str(path), "-o", str(model), *quiet],
        "score": [*cli, "score", str(path), "--model", str(model), "-o", str(scores)],
    }


def measure(folder: Path, gigabytes: float) -> list[dict[str, object]]:
    """Rows of the table: one for each file and what was done with it."""
    full = round(gigabytes * 2**30 / (8 * N_FEATURES))
    results = []
    sizes = {"npy": (full // 16, full // 4, full), "parquet": (full,), "csv": (full // 4,)}
    for kind, n_rows in ((kind, n) for kind, counts in sizes.items() for n in counts):
        path = folder / f"rows.{kind}"
        measured(python(WRITE, path, n_rows, N_FEATURES, CHUNK_ROWS))
        todo = commands(path, folder)
        if n_rows == full // 16:
            todo["score, PyOD's AutoEncoder"] = python(PYOD, path)
        for what, command in todo.items():
            peak, seconds = measured(command)
            megabytes = path.stat().st_size / 2**20
            results.append(
                {"file": kind, "rows": n_rows, "MiB of file": round(megabytes), "what": what,
                 "peak MiB": round(peak), "seconds": round(seconds, 2),
                 "million rows/s": round(n_rows / seconds / 1e6, 3)}
            )  # fmt: skip
            print("  ".join(f"{name} {value}" for name, value in results[-1].items()), flush=True)
        path.unlink()
    return results


def draw(results: list[dict[str, object]], path: Path) -> None:
    """Peak memory against the size of the file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    styles = {"read": ("#999999", "^"), "fit": ("#0072b2", "o"), "score": ("#d55e00", "s")}
    for what, (color, marker) in styles.items():
        points = [r for r in results if r["what"] == what and r["file"] == "npy"]
        sizes, peaks = ([r[key] for r in points] for key in ("MiB of file", "peak MiB"))
        axes.plot(sizes, peaks, color=color, marker=marker, label=f"pyod-ae {what}, NPY")
    largest = max(r["MiB of file"] for r in results)
    axes.plot([0, largest], [0, largest], color="black", linestyle=":", label="the file itself")
    axes.set(xlabel="size of the file, MiB", ylabel="peak of resident memory, MiB", ylim=(0, 2048))
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="of the largest file")
    parser.add_argument("--folder", type=Path, help="where the files are written, and deleted")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        results = measure(Path(folder), arguments.gigabytes)
    arguments.results.mkdir(parents=True, exist_ok=True)
    with (arguments.results / "memory.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, results[0])
        writer.writeheader()
        writer.writerows(results)
    described = subprocess.run(python(DESCRIBE), capture_output=True, text=True, check=True)
    (arguments.results / "memory.json").write_text(described.stdout)
    draw(results, arguments.results / "memory.png")


if __name__ == "__main__":
    main()
