"""How worker processes start. `registry.LAUNCHERS` lists the ways."""
