"""Training objectives, one module for each. `registry.OBJECTIVES` lists them."""
