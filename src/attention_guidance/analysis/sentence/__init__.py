"""Look at one sentence or a pair: the attention of all heads as a picture, or a page."""
