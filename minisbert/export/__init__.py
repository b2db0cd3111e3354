"""Export: a model as a StableHLO or ONNX program, and the runtime that executes it."""
