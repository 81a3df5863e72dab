"""The guidance loss: the distance between attention and its pattern.

`statistics` defines the backend interface and the formula of the loss; `backends` is the registry of backends;
`aggregate` reduces losses from rows to heads, and `layers` does so for all layers of a forward pass at once.
"""
