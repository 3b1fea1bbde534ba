"""The command `ditf`, and what it shares with the stages: the project's folder and its staging."""
