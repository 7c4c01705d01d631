"""What a job needs and what it can be expected to give, before it runs. Loads no heavy library.

`planner` predicts memory, time and disk use with the traces of `simulation`, and finds changes that make a job fit;
`advice` warns of jobs that will probably disappoint. `check` and `decision` are what a run does with both.
"""
