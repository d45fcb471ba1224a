"""The torch side: the networks, their training, and their ONNX graphs. It stands on the contracts alone."""
