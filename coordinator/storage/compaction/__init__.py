"""What stays of updates that were judged long ago: who, in which round, and what became of them, in some four bytes."""
