"""What people see of a run: pictures, TensorBoard files, and runs side by side."""
