"""What do the heads of an encoder do, are they needed, and what does it cost to look at them?"""
