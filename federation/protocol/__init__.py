"""The protocol without I/O: messages, their bytes, chunks and topics."""
