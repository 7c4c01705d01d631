"""The data stage: from sources to preference rows to tokenized pairs, with counts of all dropped rows by reason."""
