"""Rewards of answers: one number for each, from a reward model, a rule, or a function of the user."""
