"""The figures of pages and commands, one module for each kind."""
