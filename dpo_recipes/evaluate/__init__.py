"""How good the model is: metrics on held-out rows, and answers before and after."""
