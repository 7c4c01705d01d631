"""Checks of every row while it is tokenized; `run`, `plan` and `data` report their findings."""
