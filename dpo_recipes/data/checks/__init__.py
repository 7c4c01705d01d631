"""What is looked for in every row while it is tokenized, and reported by `run`, `plan` and `data` alike."""
