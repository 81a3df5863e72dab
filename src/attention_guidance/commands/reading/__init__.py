"""Read what may come from others: JSON, YAML and arrays, checked before anything uses them."""
