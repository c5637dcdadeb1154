"""The bodies: which one, where its config and weights come from, and how it is built."""
