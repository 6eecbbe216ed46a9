"""From a checkpoint to a bundle: graph shaping, int8 quantisation, ExecuTorch lowering, the pose index, packaging."""
