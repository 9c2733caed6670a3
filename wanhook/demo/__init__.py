"""A small Wan of our own, for showing and testing what wanhook records: `python -m wanhook.demo`.

It has the shape of Wan2.2 text-to-video (two DiT experts under FSDP and Ulysses, a text encoder, a causal video VAE)
with random weights. Its video is noise; its allocations, collectives and stages are those of the real thing.
"""
