"""What is worth knowing about the pairs of a recipe before a model is trained on them."""
