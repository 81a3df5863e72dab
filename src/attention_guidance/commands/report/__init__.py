"""Figures and self-contained HTML pages of what a run has shown."""
