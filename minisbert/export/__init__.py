"""Export a model as a StableHLO or ONNX program, and run the StableHLO program without the model's code."""
