"""The reference jobs J0 to J6: each runs on the real system or its simulator, beside plain PyTorch in the same run."""
