"""Data formats, one module for each family. `registry.DATA_FORMATS` lists them."""
