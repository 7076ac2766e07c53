"""The model on the device: written, adopted, rolled back, used."""
