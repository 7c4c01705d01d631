"""Advice about jobs that will run and probably disappoint."""
