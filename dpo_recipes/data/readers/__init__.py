"""Readers of local data files, one module for each family of file formats."""
