"""One federation's folder: authority, identities, broker configuration, and the enrolment of nodes."""
