"""What machines and strangers do to a run, done on purpose and many times over: `make soak`.

    python -m tools.soak kill | signals | faults | resume | mutate [--short] [--out FOLDER]

Each part prints its figures, writes them as JSON, and ends with 1 where one of them is not as promised.
docs/reliability.md says what each promise is and shows the figures of a full run.
"""
