"""The data stage: from sources to rows to tokenized rows, with counts of all dropped rows by reason."""
