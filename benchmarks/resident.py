"""Memory that recording keeps resident: `python -m benchmarks.resident [--quick] [--out FILE]`.

A process of its own that allocates and opens scopes, on the GPU where there is one: bytes resident (VmRSS) before
wanhook is imported, once a recording runs, and while it has gone on for millions of events, beside the bytes of the
trace file, whose chunks are mapped until they have been full for a second or two. The budget is for what is left when
those are taken off.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

BUDGET_MB = 64
SIZE = 1 << 20
SETTLE_SECONDS = 3.0


def resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("resident: /proc/self/status has no VmRSS here")


def on_disk(folder: Path) -> int:
    """Bytes that the trace files take, chunks that are prepared ahead among them."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*.wanhook"))


def work(device: str, events: int, trace) -> None:
    """At least so many allocator events, in scopes of 100 allocations."""
    for _ in range(events // 200):
        with trace("resident"):
            for _ in range(100):
                torch.empty(SIZE, dtype=torch.uint8, device=device)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few events: does it run")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where the recording is written")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    chosen = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.empty(SIZE, device=device).zero_()
    for _ in range(1000):
        torch.empty(SIZE, dtype=torch.uint8, device=device)
    rows = [("before wanhook is imported", 0, resident(), 0)]
    import wanhook

    rows.append(("imported", 0, resident(), 0))
    with tempfile.TemporaryDirectory(dir=chosen.dir) as folder:
        done = 0
        wanhook.start(folder)
        for events in (20_000, 200_000) if chosen.quick else (100_000, 1_000_000, 4_000_000):
            work(device, events - done, wanhook.trace)
            done = events
            rows.append(("recording", events, resident(), on_disk(Path(folder))))
        time.sleep(SETTLE_SECONDS)
        rows.append((f"{SETTLE_SECONDS:.0f} s later", done, resident(), on_disk(Path(folder))))
        wanhook.stop()
    base, most = rows[0][2], 0.0
    print(f"on {device}\n{'':<28} {'events':>9} {'resident MB':>12} {'file MB':>8} {'beside it MB':>13}")
    for what, events, now, mapped in rows:
        beside = (now - base - mapped) / 1e6
        most = max(most, beside)
        print(f"{what:<28} {events:>9} {now / 1e6:>12.1f} {mapped / 1e6:>8.1f} {beside:>13.1f}")
    print(f"most beside the file: {most:.1f} MB, budget {BUDGET_MB} MB: {'pass' if most <= BUDGET_MB else 'miss'}")
    if chosen.out:
        chosen.out.write_text(json.dumps({"device": device, "rows": rows, "most_mb": most}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
