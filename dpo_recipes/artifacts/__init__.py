"""Recipes in one file: packed, verified, named by references and fetched. Nothing here runs a stranger's code."""
