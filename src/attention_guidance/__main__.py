"""`python -m attention_guidance`: the command line."""

from attention_guidance.cli import main

main()
