"""A model's passes in a folder: recorded where its framework is, compared where none may be."""
