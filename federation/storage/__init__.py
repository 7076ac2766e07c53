"""What both roles need of a disk: a folder of one process, files replaced at once, SQLite opened one way."""
