"""The algorithms: the loop that they share, M3PO, PEARL, GrBAL, and what they are made of."""
