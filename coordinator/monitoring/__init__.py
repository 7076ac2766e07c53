"""What people and other processes see of a run: status, why, doctor, report."""
