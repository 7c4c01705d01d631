"""What is kept of a run so that it can go on: folders, how they are written, and what the loop has counted."""
