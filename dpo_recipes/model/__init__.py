"""The model stage: locates, checks and loads a recipe's base model and tokenizer, in the precision of the device."""
