"""`python -m attention_guidance`: the command line."""

from attention_guidance.commands.cli import main

main()
