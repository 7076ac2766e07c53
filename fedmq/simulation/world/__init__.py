"""Time, links, disks and faults of a simulated federation."""
