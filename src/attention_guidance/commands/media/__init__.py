"""Images and recordings to train on."""
