"""What runs inside training: arguments, callbacks, and the loop around TRL's trainer."""
