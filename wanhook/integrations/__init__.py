"""Reversible changes to other packages, made right after they are imported."""
