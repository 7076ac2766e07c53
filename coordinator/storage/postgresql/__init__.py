"""The coordinator's store on PostgreSQL: one run, several machines, one of them leads."""
