"""The smallest recipe that validates without a warning, for tests that change one thing in it."""

from __future__ import annotations

MINIMAL = """\
schema: 1
name: minimal
model:
  path: owner/model
  adapter: {kind: lora, r: 8}
data:
  train:
    - path: owner/pairs
      limit: 100
  eval: {fraction: 0.1}
training:
  learning_rate: 5e-6
"""
