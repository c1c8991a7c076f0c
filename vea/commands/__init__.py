"""One verb a file: arguments and printing only."""
