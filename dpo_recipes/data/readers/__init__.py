"""Readers of local data files, one module for each kind of file."""
