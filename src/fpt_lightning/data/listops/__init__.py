"""ListOps: Long Range Arena's files, or generated here."""
