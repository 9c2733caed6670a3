"""A program that needs most of the address space it is left: address_space.py LEFT NEEDED, both in MiB."""

import resource
import sys

import torch  # noqa: F401 its libraries take most of the address space

import wanhook

left, needed = (int(argument) << 20 for argument in sys.argv[1:])
with open("/proc/self/statm") as file:
    in_use = int(file.read().split()[0]) * resource.getpagesize()
wanhook.trace("loads the recorder")
resource.setrlimit(resource.RLIMIT_AS, (in_use + left, resource.RLIM_INFINITY))
with wanhook.trace("request"):
    wanhook.mark("before")
    buffer = bytearray(needed)
    wanhook.mark("after")
print(f"had {len(buffer) >> 20} MiB")
