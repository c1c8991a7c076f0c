"""Tasks: model + loss, the only thing the engine knows."""
