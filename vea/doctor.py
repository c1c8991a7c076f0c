"""``vea doctor CONFIG``."""
