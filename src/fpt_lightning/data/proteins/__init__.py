"""Remote homology of proteins, from TAPE's files."""
