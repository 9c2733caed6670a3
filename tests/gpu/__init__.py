"""Tests that need a GPU, the programs they start, and what both share."""
