"""Wan2.2's collectives beside Kineto's kernels of one request: all_to_all by role, FSDP's all_gather, exposed part.

    torchrun --nproc-per-node 2 -m benchmarks.wan22.kineto_sums --wan DIR --size 14b --out OUT     about a minute
    python -m benchmarks.wan22.kineto_sums --again OUT      every figure again, from the files of a run; needs no GPU

A warm request under wanhook, then one under wanhook and Kineto (CUDA activities only). OUT then holds sums.md,
sums.json, and raw.tar.gz with the trace files, Kineto's activities and the machine; in parts of 15 MiB where it is
larger. The archive is written before anything is analysed. `sums_figures` defines what is compared. Exit status 1 when
a limit is missed and that is not explained, or when nothing could be compared.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
import traceback
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import kineto_window

from . import sums_figures, sums_text
from .harness import Pipeline, add_arguments, build_pipeline, say, sized
from .measurement import machine, measure
from .observers import Nothing
from .scopes import wan_scopes

PART_BYTES = 15 << 20
SETTLING = 2.0  # seconds of an idle GPU in the first recording, in which the event pair is measured


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--again", type=Path, help="a folder that was written before; no request is served")
    parser.add_argument("--limit", type=float, default=240, help="end with all threads' stacks after so many seconds")
    return parser.parse_args()


def record(chosen: argparse.Namespace) -> Path | None:
    """Serve both requests. Rank 0 returns the folder with everybody's files, the others None."""
    pipeline = build_pipeline(chosen.wan, sized(chosen), chosen.seed)
    ranks = pipeline.ranks
    say(ranks, f"{chosen.size} on {ranks.world_size} ranks, loaded in {pipeline.load_seconds:.1f} s")
    folder = Path(ranks.gather(tempfile.mkdtemp(prefix="sums-") if ranks.rank == 0 else None)[0])
    served = serve(pipeline, folder, chosen.seed)
    say(ranks, "  ".join(f"{one['observer']} {one['seconds']:.2f} s" for one in served))
    everybody = ranks.gather([one["latents"] for one in served])
    about = machine(ranks) | {"size": asdict(pipeline.size), "requests": served}
    about["latents_equal"] = all(len(set(latents)) == 1 for latents in everybody)
    ranks.leave()
    if ranks.rank:
        return None
    (folder / "about.json").write_text(json.dumps(about, indent=1))
    return folder


def serve(pipeline: Pipeline, folder: Path, seed: int) -> list[dict]:
    """The warm request and the one that counts; leaves this rank's trace and Kineto's activities in the folder."""
    rank, window = pipeline.ranks.rank, None
    warm = measure(pipeline, observer(folder / "warm", rank, None), seed)
    if pipeline.ranks.device.type == "cuda":
        kineto_window.warm_up()
        window = kineto_window.CudaWindow()
    watched = measure(pipeline, observer(folder, rank, window), seed)
    rows = [(0, *row) for row in window.rows] if window else []
    kineto_window.save(folder / f"kernels-rank{rank}.npz", rows)
    print(f"rank {rank}: {len(rows)} activities of the GPU; torch {torch.__version__}", flush=True)
    return [asdict(warm), asdict(watched)]


def observer(folder: Path, rank: int, window):
    """wanhook with Wan's scopes and roles, and Kineto around it where there is a window. Without one the GPU is left
    alone for a while after the start: the event pair is measured then, once in the process."""
    import wanhook

    class Watched(Nothing):
        name = "wanhook+kineto" if window else "wanhook"

        def __enter__(self):
            if window:
                window.begin()
            wanhook.start(self.folder)
            self._scopes = wan_scopes()
            self._scopes.__enter__()
            time.sleep(0 if window else SETTLING)
            return self

        def __exit__(self, *exception):
            self._scopes.__exit__(*exception)
            wanhook.stop(wait=10)
            if window:
                window.end()

    return Watched(folder, rank)


def pack(folder: Path, out: Path) -> list[Path]:
    """Everything in the folder but the warm recording, as one compressed file, or in parts where that is too large."""
    out.mkdir(parents=True, exist_ok=True)
    archive = out / "raw.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=6) as packed:
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            packed.add(path, arcname=path.name)
    if archive.stat().st_size <= PART_BYTES:
        return [archive]
    parts = []
    with archive.open("rb") as whole:
        while piece := whole.read(PART_BYTES):
            parts.append(out / f"raw.tar.gz.{len(parts)}")
            parts[-1].write_bytes(piece)
    archive.unlink()
    return parts


def unpack(folder: Path, into: Path) -> Path:
    """A folder with the raw files: `folder` itself where they lie there, else what its archive holds."""
    parts = sorted(folder.glob("raw.tar.gz*"), key=lambda path: (len(path.name), path.name))
    if not parts:
        return folder
    whole = into / "raw.tar.gz"
    with whole.open("wb") as joined:
        for part in parts:
            joined.write(part.read_bytes())
    with tarfile.open(whole, "r:gz") as packed:
        packed.extractall(into, filter="data")
    return into


def report(folder: Path, out: Path | None) -> int:
    """Print and write the figures; 1 when a missed limit is not explained, or there is nothing to compare."""
    found = sums_figures.analyse(folder)
    about = folder / "about.json"
    found["about"] = json.loads(about.read_text()) if about.exists() else None
    text = sums_text.markdown(found)
    print(text, flush=True)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "sums.json").write_text(json.dumps(found, indent=1))
        (out / "sums.md").write_text(text + "\n")
    return int(not found["verdicts"] or any(not (each["passed"] or each["explained"]) for each in found["verdicts"]))


def main() -> int:
    chosen = parse()
    with tempfile.TemporaryDirectory(prefix="sums-") as made:
        if chosen.again is not None:
            return report(unpack(chosen.again, Path(made)), chosen.out)
    if "RANK" not in os.environ or chosen.out is None:
        raise SystemExit("start it with torchrun and --out DIR, or with --again DIR")
    faulthandler.dump_traceback_later(chosen.limit, exit=True)
    folder = record(chosen)
    if folder is None:
        return 0
    for path in pack(folder, chosen.out):
        print(f"{path} {path.stat().st_size / (1 << 20):.1f} MiB", flush=True)
    try:
        return report(folder, chosen.out)
    except Exception:  # the archive is whole: --again goes on from here
        traceback.print_exc()
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
