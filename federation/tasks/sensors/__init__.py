"""Tasks for windows of sensor readings: told by columns, window and model, without Python."""
