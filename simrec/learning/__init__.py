"""The torch side: networks, their training, and their ONNX graphs. It depends only on the contracts."""
