"""Find, align and crop faces."""
