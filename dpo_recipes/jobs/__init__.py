"""Many runs of one recipe: a sweep with its trials, which several commands can work on and which can be resumed."""
