"""Looking into attention: maps of heads, with the patterns that train them."""
