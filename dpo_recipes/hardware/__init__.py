"""What this machine is, named devices, and what each kind of device can do."""
