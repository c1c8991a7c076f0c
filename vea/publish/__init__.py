"""What leaves the house: ONNX, hub folders, timm weights, cards, reports."""
