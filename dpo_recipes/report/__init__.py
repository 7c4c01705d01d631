"""The report stage: one self-contained HTML page that says what a run did."""
