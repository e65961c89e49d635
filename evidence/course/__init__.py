"""Pages of the course that are made from code: the index of equations, the report's slips, a drawing."""
