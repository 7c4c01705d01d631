"""What a job needs and what it can be expected to give, before it runs. Loads no heavy library."""
