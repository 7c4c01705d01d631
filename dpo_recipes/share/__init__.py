"""What makes a job the same elsewhere: locks of its inputs, and doing a run again. Nothing here runs a stranger's
code."""
