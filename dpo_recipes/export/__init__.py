"""What a run leaves behind: the model, with a card that says truthfully what it is."""
