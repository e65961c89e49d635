"""Porting bugs that others reported in public, each made again with the right port beside it."""
