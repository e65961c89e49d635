"""What people see: progress, plots, pages, messages."""
