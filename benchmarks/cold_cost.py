"""What a hook costs where a real program calls it: `python -m benchmarks.cold_cost [--quick]`.

In a loop a hook finds its own code and data in the caches; between two hooks of a program whole layers run. One alloc
and free, one scope and one collective are measured hot, with the first two cache levels and the TLBs emptied before
each (evicted), and with a small module's forward before each (torch ops): bare where possible, gate closed, recorded.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from native_build.cuda_toolkit import find_cuda_files

from .rounds import Variant, figure, interleave, paired, unpaired
from .scope_cost import event_records, recording, take_event_records
from .unit_report import Table, arguments, finish, rounds_of

SOURCE = Path(__file__).parent / "native" / "cold_loop.cpp"
BYTES = 1 << 20
Between = Callable[[], object] | None


def build(folder: Path) -> ctypes.CDLL:
    """The native loop. CalledProcessError when it does not compile, with the compiler's words on stderr."""
    from torch.utils.cpp_extension import include_paths, library_paths

    library = folder / "cold_loop.so"
    folders = include_paths()
    command = [os.environ.get("CXX", "g++"), "-O2", "-std=c++20", "-shared", "-fPIC", str(SOURCE), "-o", str(library)]
    command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    libraries = ["-lc10"]
    if torch.version.cuda:
        folders += map(str, find_cuda_files(torch.version.cuda).include_dirs)
        command += ["-DWANHOOK_CUDA"]
        libraries += ["-lc10_cuda"]
    command += [flag for name in folders for flag in ("-isystem", name)]
    subprocess.run([*command, *(f"-L{name}" for name in library_paths()), *libraries], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.cold_loop.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_long, ctypes.c_void_p]
    loaded.cold_loop.restype = ctypes.c_double
    loaded.evict.restype = None
    return loaded


def small_forward() -> Callable[[], object]:
    """A module of a few CPU ops: the interpreter, the dispatcher and kernels, some 100 us."""
    layers = [
        torch.nn.Sequential(torch.nn.LayerNorm(64), torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 64))
        for _ in range(3)
    ]
    module, tensor = torch.nn.Sequential(*layers).eval(), torch.randn(64, 64)
    return torch.inference_mode()(lambda: module(tensor))


def settle(cuda: bool) -> None:
    """Nothing is left for the GPU, and the resolver has given the event pairs back."""
    if cuda:
        torch.cuda.synchronize()
        time.sleep(0.03)


class Loops:
    """The three operations, each as (count, between) -> median ns."""

    def __init__(self, native: ctypes.CDLL, cuda: bool) -> None:
        self._native, self._cuda = native, cuda
        self._tensors = None

    def allocator(self, count: int, between: Between) -> float:
        """One alloc and free."""
        call = between if between is self._native.evict else ctypes.CFUNCTYPE(None)(lambda: (between(), None)[1])
        address = None if between is None else ctypes.cast(call, ctypes.c_void_p)
        spent = self._native.cold_loop(self._cuda, BYTES, count, address)
        if spent < 0:
            raise RuntimeError("the allocator refused")
        return spent

    def scope(self, count: int, between: Between) -> float:
        """Entering and leaving one `with`."""
        import wanhook

        trace, clock, spent = wanhook.trace, time.perf_counter_ns, []
        for _ in range(count):
            if between is not None:
                between()
            clock()  # its own code and data are not what is measured
            begin = clock()
            with trace("scope", level="op"):
                pass
            spent.append(clock() - begin)
        settle(self._cuda)
        return statistics.median(spent)

    def collective(self, count: int, between: Between) -> float:
        """The host time of one sync all_to_all_single."""
        if self._tensors is None:
            device = "cuda" if self._cuda else "cpu"
            self._tensors = [torch.ones(1 << 14, device=device) for _ in range(2)]
        (output, source), exchange, clock, spent = self._tensors, dist.all_to_all_single, time.perf_counter_ns, []
        for _ in range(count):
            if between is not None:
                between()
            clock()
            begin = clock()
            exchange(output, source)
            spent.append(clock() - begin)
        settle(self._cuda)
        return statistics.median(spent)


def start_group(cuda: bool) -> None:
    """One rank of NCCL; without a GPU torch's fake backend, as gloo's own threads would be most of what is measured."""
    if cuda:
        return dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    from torch.testing._internal.distributed.fake_pg import FakeStore

    return dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)


Measured = dict[str, np.ndarray]  # ns by variant, float64[rounds]


def measure(loops: Loops, betweens: dict[str, Between], rounds: int, count: int, folder: Path) -> tuple[dict, dict]:
    """({operation: {how: ns of the bare one}}, {operation: {how: ns by variant}}). A scope has no bare one; the others'
    comes first, so that what the machine changes meanwhile is in what is over bare."""
    bare_loops = {"alloc and free": loops.allocator, "collective": loops.collective}
    names = [(what, how) for what in bare_loops for how in betweens]
    variants = [Variant(f"{what} {how}", partial(bare_loops[what], count, betweens[how])) for what, how in names]
    found = interleave(variants, rounds)
    bare = {what: {how: found[f"{what} {how}"] for how in betweens} for what in bare_loops}

    import wanhook

    wanhook.start(folder / "recording")
    wanhook.pause()
    measured: dict[str, dict[str, Measured]] = {}
    for what, loop in {**bare_loops, "scope": loops.scope}.items():
        measured[what] = {}
        for how, between in betweens.items():
            once = partial(loop, count, between)
            measured[what][how] = interleave([Variant("closed", once), Variant("on", once, recording)], rounds)
    wanhook.stop(wait=10)
    return bare, measured


def table_of(what: str, entries: int, bare: dict[str, np.ndarray] | None, measured: dict[str, Measured]) -> Table:
    each = f"an entry ({entries} of them)" if entries > 1 else "one"
    table = Table(f"{what}: ns of {each}")
    for how, values in measured.items():
        if bare is not None:
            table.add(f"{how}: bare, in all", figure(bare[how]))
            table.add(f"{how}: gate closed, over bare", unpaired(values["closed"], bare[how], entries))
        else:
            table.add(f"{how}: gate closed, in all", figure(values["closed"]))
        table.add(f"{how}: recorded, over gate closed", paired(values["on"], values["closed"], entries))
    return table


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, help="operations a round (150; 40 with --quick)")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    cuda = torch.cuda.is_available()
    folder = Path(tempfile.mkdtemp(prefix="wanhook-bench-", dir=chosen.dir))
    try:
        native = build(folder)
        betweens = {"hot": None, "evicted": native.evict, "torch ops": small_forward()}
        start_group(cuda)
        count = chosen.count or (40 if chosen.quick else 150)
        bare, measured = measure(Loops(native, cuda), betweens, rounds_of(chosen), count, folder)
        records = take_event_records(interleave(event_records(count), rounds_of(chosen))) if cuda else None
        dist.destroy_process_group()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    entries = {"alloc and free": 3 if cuda else 2}
    tables = [table_of(what, entries.get(what, 1), bare.get(what), each) for what, each in measured.items()]
    if records is not None:
        tables[-1].add("two cudaEventRecord calls, hot", figure(records))
    return finish(tables, chosen.out)


if __name__ == "__main__":
    main()
