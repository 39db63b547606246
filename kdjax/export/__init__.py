"""Export of a trained student as StableHLO, ONNX and a model card."""
