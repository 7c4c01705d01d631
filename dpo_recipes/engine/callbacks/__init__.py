"""Callbacks that watch the trainer; none of them changes what it computes."""
