"""Data formats, one file each. `registry.DATA_FORMATS` is the table of them."""
