"""Teachers that kdjax has not trained: ONNX files, logits files, safetensors weights."""
