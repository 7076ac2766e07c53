"""Who is who: the federation's own authority, its certificates, and the file that enrols one node."""
