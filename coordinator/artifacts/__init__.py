"""What leaves a run: exported models, predictions, plots."""
