"""The model stage: a recipe's base model found, checked, loaded in the precision of its device, with its tokenizer."""
