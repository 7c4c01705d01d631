"""From a YAML file to a checked, frozen `Recipe`: load, compose, validate. Loads no heavy library."""
