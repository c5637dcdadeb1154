"""Making a backbone: language modelling, and any trained body as a folder of transformers."""
