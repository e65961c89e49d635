"""`python -m parity report`: every proof in one go, and one page that shows them."""
