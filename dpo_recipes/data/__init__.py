"""The data stage: sources -> preference rows -> tokenized pairs, with a count of everything dropped and why."""
