"""What the checks find, measured: tables that a command makes again."""
