"""The command line `ditf`, one module per command."""
