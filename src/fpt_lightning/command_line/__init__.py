"""The command line: its words, options, values, help and completion; cli.py makes a command of them."""
