"""What NCCL's profiler plugin interface says of a kernel, against CUPTI: why wanhook takes kernel intervals from CUPTI.

    python -m benchmarks.nccl_profiler.probe

Two GPUs, gcc and about a minute. `plugin.c` speaks version 5 of the interface, as NCCL 2.28.9 does, and keeps each
stamp in memory; `probe.py` runs collectives under it and under torch.profiler at the same time, then the same calls
with the plugin loaded and its events off, and without it. It prints a line for each op, size and situation:

    4096 KiB all_to_all     busy     Kineto     20.3 us; plugin - Kineto: length    -9.57 [ -72.72,  -4.04], ...
    4096 KiB all_gather     busy     Kineto     25.0 us; plugin - Kineto: length +94347.20 [+92356.01, +96041.76], ...

and what a call costs the host. The figures of 2026-11-21 and what follows from them: benchmarks/RESULTS.md, "NCCL's
profiler plugin". They come from a longer script than this one, which measured the same cases in the same way.
"""
