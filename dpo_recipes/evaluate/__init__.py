"""How good the model is: metrics on held-out pairs, and answers before and after."""
