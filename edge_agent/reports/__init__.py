"""Documents made of stored rows, in decimal arithmetic."""
