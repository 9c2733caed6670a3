"""Errors of the recording half. Each message names the remedy."""


class WanhookError(RuntimeError):
    """A recording could not be started as asked."""


class AlreadyRecordingError(WanhookError):
    """Another recording runs, or has not ended yet."""
