"""Configurations of other tools as recipes: one file for each tool, and a line in `registry.FOREIGN_TOOLS`."""
