"""From traces to figures: takes what `wanhook.tracefile` read and returns dataclasses of plain numbers.

docs/metrics.md defines each figure. Nothing here prints, plots or parses arguments.
"""
