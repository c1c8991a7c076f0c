"""Loss functions, each a few lines next to its formula."""
