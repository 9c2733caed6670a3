"""`wanhook doctor`: what will and will not be recorded on this machine, why, and what to do about it.

`probe` tries a recording in a process of its own; the others look at what lies around it. All answer with `Line`s.
"""
