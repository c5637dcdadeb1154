"""Tasks of tables: files with columns, and datasets of the Hugging Face hub."""
