"""The reading half: a trace file on disk becomes a `Run` of numpy structured arrays. Imports no torch."""
