"""The study reproduced: its figures, its table and its open questions, run and set beside the report."""
