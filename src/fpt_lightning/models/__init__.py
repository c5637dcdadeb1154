"""The frozen transformer and its trained parts; knows nothing of Lightning or of data files."""
