"""Language models that explain a picture."""
