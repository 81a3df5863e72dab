"""How much sooner does a guided model reach a loss, and what do whole runs of `pretrain` take?"""
