"""The guidance loss: how far attention is from its pattern.

`statistics` says what a backend is given and gives, and has the one formula of the loss; `backends` knows the backends
by name; `aggregate` goes from rows to heads, and `layers` does so for all layers of a pass at once.
"""
