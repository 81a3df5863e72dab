"""What does guidance cost in a training step, and what do cheaper ways to compute one save?"""
