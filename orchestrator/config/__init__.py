"""The one experiment config: its schema, and how it is read from files and command lines."""
